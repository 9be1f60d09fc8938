"""One host of the cluster: namespaces of its own, and the programs that run in it.

Its files are one directory, which it sees as ``/srv``; all else of the file system is this
machine's, but for ``/run``, which is empty after each boot. Killing the host's first process is
what pulling the plug is to a machine: every process, mount and link of it is gone.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.cluster.errors import ClusterError
from tests.support import processes

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from tests.cluster.network import Network

INSIDE = Path("/srv")
TAIL_LINES = 25
_KIND = ("--mount", "--net", "--pid", "--uts", "--ipc")
_POLL_SECONDS = 0.02
_GONE_SECONDS = 20.0
_PROC = Path("/proc")

_BOOT = Path(__file__).with_name("boot.sh")


@dataclass(frozen=True, slots=True)
class Program:
    """What a host runs; ``log`` and process id go to files named after it."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    user: str = "root"


@dataclass(frozen=True, slots=True)
class Host:
    """The host ``name`` with its files below ``directory``; it may be off."""

    name: str
    address: str
    directory: Path
    network: Network

    def log(self, program: str) -> Path:
        return self.directory / "log" / f"{program}.log"

    def is_on(self) -> bool:
        return self._first() is not None

    def boot(self) -> None:
        """Switch the host on, with no program running.

        Raises:
            ClusterError: it did not come up.
        """
        if self.is_on():
            raise ClusterError(f"{self.name} is on already")
        shutil.rmtree(self.directory / "run", ignore_errors=True)
        for name in ("run", "log"):
            (self.directory / name).mkdir(parents=True, exist_ok=True)
        # /run is the host's own, and what this file links to may be there.
        names = os.path.realpath("/etc/resolv.conf")
        log = self.log("boot")
        with log.open("ab") as output:
            subprocess.run(
                [
                    *("setsid", "--fork", "unshare", *_KIND, "--fork", "--"),
                    *("sh", str(_BOOT), str(self.directory), self.name, names),
                ],
                env=self.environment({}),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd="/",
                check=True,
            )
        init = self.directory / "run" / "init"
        until(init.exists, f"{self.name} boots", log=log, seconds=_GONE_SECONDS)
        pid = int(init.read_text())
        started = processes.start_time(pid)
        (self.directory / "run" / "init.json").write_text(json.dumps([pid, started]))
        self.network.plug(self.name, pid, self.address)

    def kill(self) -> None:
        """Pull the plug: no more packet comes from it, and SIGKILL to every process at once.

        Whoever has a connection to the host hears nothing of it, as when a machine has died.
        """
        # Not left to the end of the namespace: what TCP still wants to send keeps that alive.
        self.network.unplug(self.name)
        first = self._first()
        if first is not None:
            first.kill()
            until(
                lambda: not first.lives(),
                f"{self.name} goes off",
                log=self.log("boot"),
                seconds=_GONE_SECONDS,
            )

    def inside(self, *command: str) -> list[str]:
        """Return the command line that runs a program on this host."""
        first = self._first()
        if first is None:
            raise ClusterError(f"{self.name} is off")
        return ["nsenter", f"--target={first.pid}", *_KIND, "--wd=/", "--", *command]

    def run(
        self, command: Sequence[str], environment: Mapping[str, str] | None = None, text: str = ""
    ) -> str:
        """Run a program on this host with ``text`` as its input, and return what it printed.

        Raises:
            ClusterError: it failed; with all that it said.
        """
        ran = subprocess.run(
            self.inside(*command),
            env=self.environment(environment or {}),
            input=text,
            capture_output=True,
            text=True,
            cwd="/",
            check=False,
        )
        if ran.returncode:
            said = f"{ran.stdout}{ran.stderr}".strip()
            raise ClusterError(f"{' '.join(command)} failed on {self.name}:\n{said}")
        return ran.stdout

    def start(self, program: Program) -> None:
        """Start a program in the background; it ends with the host.

        Raises:
            ClusterError: it runs already, or did not start.
        """
        if self.process(program.name) is not None:
            raise ClusterError(f"{program.name} runs already on {self.name}")
        pid = self.directory / "run" / f"{program.name}.pid"
        pid.unlink(missing_ok=True)
        become = ["setpriv", f"--reuid={program.user}", f"--regid={program.user}", "--init-groups"]
        told = f"{INSIDE}/run/{program.name}.pid"
        wrapper = ["sh", "-c", 'echo $$ > "$0.new"; mv "$0.new" "$0"; exec "$@"', told, *become]
        log = self.log(program.name)
        with log.open("ab") as output:
            subprocess.run(
                ["setsid", "--fork", *self.inside(*wrapper, *program.command)],
                env=self.environment(program.environment),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd="/",
                check=True,
            )
        until(pid.exists, f"{program.name} starts on {self.name}", log=log, seconds=_GONE_SECONDS)

    def stop(self, name: str) -> None:
        """SIGKILL a program and wait for its end; what it started goes on."""
        process = self.process(name)
        if process is None:
            return
        process.kill()
        until(
            lambda: not process.lives(),
            f"{name} ends on {self.name}",
            log=self.log(name),
            seconds=_GONE_SECONDS,
        )

    def process(self, name: str) -> processes.Process | None:
        """Find a program that ``start`` started, or None if it runs no more."""
        first = self._first()
        try:
            inner = (self.directory / "run" / f"{name}.pid").read_text().strip()
        except FileNotFoundError:
            return None
        if first is None:
            return None
        namespace = (_PROC / str(first.pid) / "ns" / "pid").readlink()
        for entry in _PROC.iterdir():
            if entry.name.isdigit() and _is(entry, namespace, inner):
                return processes.process(int(entry.name))
        return None

    def _first(self) -> processes.Process | None:
        try:
            pid, started = json.loads((self.directory / "run" / "init.json").read_text())
        except FileNotFoundError:
            return None
        first = processes.Process(pid, started)
        return first if first.lives() else None

    def environment(self, further: Mapping[str, str]) -> dict[str, str]:
        """Not the caller's: an agent that finds AWS_CA_BUNDLE, for one, does not start.

        YURT_CLUSTER says whose process it is, to whoever counts processes.
        """
        return {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": "/root",
            "LANG": "C.UTF-8",
            "TMPDIR": "/run/tmp",
            "YURT_CLUSTER": str(self.directory),
            **further,
        }


def _is(entry: Path, namespace: Path, inner: str) -> bool:
    """Tell whether a process has this id in that namespace, and is no zombie."""
    try:
        if (entry / "ns" / "pid").readlink() != namespace:
            return False
        status = (entry / "status").read_text()
    except OSError:
        return False  # gone meanwhile
    fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    return fields["NSpid"].split()[-1] == inner and not fields["State"].strip().startswith("Z")


def until(check: Callable[[], object], what: str, *, log: Path, seconds: float) -> None:
    """Wait until something holds.

    Raises:
        ClusterError: it does not in time; with the end of the log.
    """
    end = time.monotonic() + seconds
    while not check():
        if time.monotonic() > end:
            raise ClusterError(f"not after {seconds:.0f} s: {what}\n{tail(log)}")
        time.sleep(_POLL_SECONDS)


def tail(log: Path) -> str:
    """The end of a log, indented, with its name."""
    lines = log.read_text(errors="replace").splitlines()[-TAIL_LINES:] if log.exists() else []
    return "\n".join([f"the end of {log}:", *(f"  {line}" for line in lines or ["(empty)"])])
