"""The runner as one program: real runners against a control that only answers reports.

The image is a busybox root file system and the agent a shell script that speaks the pipe protocol,
so that a test sees the runner alone.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from jobs.installed import install_runner, interpreter
from jobs.runner import message
from jobs.runner.channel import connect_unix

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

KEY = b"k" * 32
BUSYBOX = Path("/bin/busybox")
TINI = Path("/usr/bin/tini-static")
NEEDS = [
    pytest.mark.skipif(os.getuid() != 0, reason="needs root"),
    pytest.mark.skipif(
        not (BUSYBOX.exists() and TINI.exists()), reason="needs busybox-static and tini"
    ),
]
SUBNET = "10.201.0.0/16"
_APPLETS = (
    "cat cp dd df echo head id ls mkdir mount nc ping ps rm sh sleep sync touch unshare wget wc"
)
# Answers the orders of the holder; whatever /work.sh is in the disk runs as the user's program.
_AGENT = """#!/bin/sh
printf L
read order
[ -f /work.sh ] && sh /work.sh >/out 2>&1 </dev/null &
printf R
while read order; do case "$order" in *stop*) exit 0 ;; esac; done
while :; do sleep 1000; done
"""
ASSIGNMENT: dict[str, Any] = {
    "version": 1,
    "keys": [],
    "preview_token": "t",
    "signing_key": "00",
    "file_signing_key": "x",
    "revoked_signatures": [],
    "public": True,
    "private_ports": [],
    "env": {},
    "user": "",
    "workdir": "",
    "entrypoint": [],
    "network": {"block_all": False, "allow": []},
}


def eventually(check: Callable[[], Any], seconds: float = 20.0) -> Any:
    """Return what ``check`` returns once it is true; fail after ``seconds``."""
    deadline = time.monotonic() + seconds
    while not (value := check()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {check}")
        time.sleep(0.01)
    return value


class FakeControl:
    """Answers reports on a unix socket.

    Attributes:
        release: while it is not set, assignments are kept back.
        refusal: a status line instead of an assignment.
    """

    def __init__(self, data: Path) -> None:
        self.reports: list[dict[str, Any]] = []
        self.assignment = ASSIGNMENT
        self.archive: dict[str, Any] = {}
        self.refusal = ""
        self.release = threading.Event()
        self.release.set()
        path = data / "run" / "control.sock"
        path.unlink(missing_ok=True)
        self._listener = socket.socket(socket.AF_UNIX)
        directory = os.open(path.parent, os.O_RDONLY)
        self._listener.bind(f"/proc/self/fd/{directory}/{path.name}")
        os.close(directory)
        self._listener.listen(64)
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        with connection:
            received = b""
            while b"\r\n\r\n" not in received:
                received += connection.recv(65536)
            top, _, body = received.partition(b"\r\n\r\n")
            fields = {}
            for line in top.decode().split("\r\n")[1:]:
                name, _, value = line.partition(":")
                fields[name.lower()] = value.strip()
            while len(body) < int(fields["content-length"]):
                body += connection.recv(65536)
            head = message.unseal(KEY, message.UP, fields, body)
            report = {**json.loads(body), "sandbox": head.sandbox, "generation": head.generation}
            self.reports.append(report)
            answer: dict[str, Any] = {}
            status = "200 OK"
            if report["phase"] == "assign":
                self.release.wait()
                answer, status = self.assignment, self.refusal or status
            elif report["phase"] == "renew" and report["version"] < self.assignment["version"]:
                answer = self.assignment
            elif report["phase"] == "archive":
                answer = self.archive
            text = json.dumps(answer).encode()
            sealed = message.seal(KEY, message.UP_ANSWER, head, text)
            lines = [f"{name}: {value}" for name, value in sealed.items()]
            lines = [f"HTTP/1.1 {status}", f"content-length: {len(text)}", *lines]
            with contextlib.suppress(BrokenPipeError):  # the runner did not wait any longer
                connection.sendall("\r\n".join(lines).encode() + b"\r\n\r\n" + text)

    def phases(self, sandbox_id: str) -> list[str]:
        return [r["phase"] for r in self.reports if r["sandbox"] == sandbox_id]


def _links() -> set[str]:
    return {name for _, name in socket.if_nameindex() if name.startswith("yv")}


class Rig:
    """A data directory on which runners are started."""

    def __init__(self, data: Path, prefix: Sequence[str] = ()) -> None:
        """Prepare it; ``prefix`` are words before each command, to run it somewhere else."""
        self.data, self.prefix = data, prefix
        self._links_before = _links()
        for name in ("run/sandboxes", "disks", "images/layers", "lib"):
            (data / name).mkdir(mode=0o700, parents=True, exist_ok=True)
        data.chmod(0o700)
        self.node: dict[str, Any] = {"name": "local", "key": KEY.hex(), "subnet": SUBNET}
        self.node |= {"resolvers": [], "never": [], "registry": ""}
        self._make_image()
        self._make_bundle()
        self.main = install_runner(data)
        self.control = FakeControl(data)
        self.processes: list[subprocess.Popen[bytes]] = []
        self.last_port = 0
        self.verb("prepare-node")

    def close(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.wait()
        eventually(lambda: not self.loops())
        self.control.close()
        self.verb("sweep", data=str(self.data))
        self.verb("forget-node")

    def _make_image(self) -> None:
        root = self.data / "images" / "layers" / "busybox"
        for name in ("bin", "dev", "etc", "proc", "root", "sys", "tmp"):
            (root / name).mkdir(parents=True, exist_ok=True)
        shutil.copy(BUSYBOX, root / "bin" / "busybox")
        for name in _APPLETS.split():
            (root / "bin" / name).symlink_to("busybox")
        (root / "etc" / "passwd").write_text("root:x:0:0::/root:/bin/sh\n")
        fields = {"layers": ["busybox"], "env": {"PATH": "/bin"}, "entrypoint": [], "cmd": []}
        fields |= {"id": "busybox", "user": "root", "workdir": ""}
        (self.data / "images" / "busybox.json").write_text(json.dumps(fields))

    def _make_bundle(self) -> None:
        bundle = self.data / "lib" / "agent"
        (bundle / "bin").mkdir(parents=True)
        (bundle / "app").mkdir()
        shutil.copy(TINI, bundle / "bin" / "tini")
        script = bundle / "bin" / "python3"
        script.write_text(_AGENT)
        script.chmod(0o755)
        self.use_bundle(bundle)

    def use_bundle(self, bundle: Path) -> None:
        """Give sandboxes that start from now on this agent."""
        self.configure(bundle=str(bundle))

    def configure(self, **more: Any) -> None:
        """Change fields of the node's configuration."""
        self.node |= more
        (self.data / "node.json").write_text(json.dumps(self.node))

    def verb(self, name: str, **arguments: Any) -> dict[str, Any]:
        command = [*self.prefix, *interpreter(), str(self.main), name, json.dumps(arguments)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=90)
        assert done.returncode == 0, (name, done.stdout, done.stderr)
        result: dict[str, Any] = json.loads(done.stdout)
        return result

    def directory(self, sandbox_id: str) -> Path:
        return self.data / "run" / "sandboxes" / sandbox_id

    def spec(self, sandbox_id: str, generation: int = 1) -> dict[str, Any]:
        """Return what a runner is told."""
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.last_port = free.getsockname()[1]
        return {
            "sandbox_id": sandbox_id,
            "generation": generation,
            "image_id": "busybox",
            "cpu": 1,
            "memory_mib": 128,
            "disk_bytes": 100 << 20,
            "pids": 64,
            "domain": "localhost",
            "control_url": f"unix:{self.data}/run/control.sock",
            "address": "127.0.0.1",
            "port": str(self.last_port),
            "data": str(self.data),
        }

    def start(
        self, sandbox_id: str, generation: int = 1, pass_fds: Sequence[int] = (), **more: Any
    ) -> subprocess.Popen[bytes]:
        """Start a runner and return its guard; it is not waited for."""
        directory = self.directory(sandbox_id)
        directory.mkdir(mode=0o700, exist_ok=True)
        (directory / "exit.json").unlink(missing_ok=True)
        spec = self.spec(sandbox_id, generation)
        with (directory / "runner.log").open("ab") as log:
            command = [*self.prefix, *interpreter(), str(self.main), "run", str(directory)]
            command.append(json.dumps(spec | more))
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                pass_fds=pass_fds,
            )
        self.processes.append(process)
        return process

    def until(self, sandbox_id: str, phase: str, times: int = 1, seconds: float = 60.0) -> None:
        """Wait until the sandbox has reported ``phase`` so many times."""
        try:
            eventually(
                lambda: self.control.phases(sandbox_id).count(phase) >= times, seconds=seconds
            )
        except AssertionError:
            log = (self.directory(sandbox_id) / "runner.log").read_text()
            raise AssertionError(f"{self.control.reports}\n{log}") from None

    def stop(self, sandbox_id: str, process: subprocess.Popen[bytes]) -> dict[str, Any]:
        """Ask the runner to stop; return what it left in ``exit.json``."""
        fd = connect_unix(str(self.directory(sandbox_id) / "sock")).detach()
        with socket.socket(fileno=fd) as link:
            link.sendall(b"s")
            process.wait(30)
        return self.exit_of(sandbox_id)

    def exit_of(self, sandbox_id: str) -> dict[str, Any]:
        left: dict[str, Any] = json.loads((self.directory(sandbox_id) / "exit.json").read_text())
        return left

    def loops(self) -> list[str]:
        """List the loop devices with a file of this data directory behind them."""
        found = []
        for entry in Path("/sys/block").glob("loop*/loop/backing_file"):
            try:
                if entry.read_text().startswith(str(self.data)):
                    found.append(entry.parts[3])
            except OSError:
                continue  # cleared while it was read
        return found

    def links(self) -> list[str]:
        """List the links of sandboxes that this host got since the rig was made."""
        return sorted(_links() - self._links_before)

    def init_pid(self, sandbox_id: str) -> int:
        """Return the host pid of the sandbox's first process."""
        for pid in self.pids(sandbox_id):
            status = Path(f"/proc/{pid}/status").read_text()
            if next(x for x in status.splitlines() if x.startswith("NSpid")).split()[-1] == "1":
                return pid
        raise AssertionError("no first process")

    def pids(self, sandbox_id: str) -> list[int]:
        """List the host pids in the sandbox's control group."""
        from jobs.runner import cgroup

        directories = cgroup.directories(sandbox_id)
        return cgroup.pids(directories[0]) if directories else []

    def inside(self, sandbox_id: str, script: str) -> subprocess.CompletedProcess[str]:
        """Run a shell script as root of the sandbox, in all its namespaces and control groups."""
        pid = self.init_pid(sandbox_id)
        command = ["nsenter", "-t", str(pid), "-U", "-m", "-p", "-n", "-i", "-u", "-r", "-w"]
        return subprocess.run(
            [*command, "/bin/sh", "-c", script],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
            env={"PATH": "/bin"},
            stdin=subprocess.DEVNULL,
        )
