"""A real OCI registry on loopback, and images to put into it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import stat
import subprocess
from pathlib import Path
from typing import Any

import httpx

from jobs.images import Image, layer_path, write_image
from tests.support.runner_rig import BUSYBOX, eventually

# `cap_net_raw=ep`, as setcap writes it.
NET_RAW = bytes.fromhex("0100000200200000000000000000000000000000")


class Registry:
    """Debian's registry; what it is asked for is in its log."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.blobs = directory / "docker" / "registry" / "v2" / "blobs"
        self.url = f"http://127.0.0.1:{self.port}/yurt"
        configuration = {
            "version": 0.1,
            "storage": {"filesystem": {"rootdirectory": str(directory)}},
            "http": {"addr": f"127.0.0.1:{self.port}"},
        }
        path = directory / "config.json"
        path.write_text(json.dumps(configuration))
        self._log = directory / "log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                ["docker-registry", "serve", path], stdout=log, stderr=log
            )
        eventually(self._answers)

    def _answers(self) -> bool:
        try:
            return httpx.get(f"http://127.0.0.1:{self.port}/v2/").status_code == 200
        except httpx.TransportError:
            return False

    def requests(self, text: str) -> int:
        """Count the requests that it has answered and that have this in their first line."""
        lines = self._log.read_text(errors="replace").splitlines()
        return len([line for line in lines if f'"{text}' in line])

    def damage(self) -> None:
        """Change a byte in the middle of its largest blob."""
        largest = max(self.blobs.rglob("data"), key=lambda path: path.stat().st_size)
        with largest.open("r+b") as file:
            file.seek(largest.stat().st_size // 2)
            byte = file.read(1)
            file.seek(-1, os.SEEK_CUR)
            file.write(bytes([byte[0] ^ 1]))

    def clients(self) -> list[int]:
        """Find the tools that talk to it."""
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                words = path.read_bytes().split(b"\0")
            except OSError:
                continue  # it has just ended
            if words[0] == b"skopeo" and b"127.0.0.1:%d/" % self.port in b" ".join(words):
                found.append(int(path.parts[2]))
        return found

    def pause(self) -> None:
        """Let it answer no more, though its port is open."""
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        self._process.kill()
        self._process.wait()


def put_image(data: Path, letter: str = "a", *, base: str = "b") -> Image:
    """Make an image of two layers: a busybox, and above it one with all that files can have."""
    lower, upper = layer_path(data, base * 64), layer_path(data, letter * 64)
    if not lower.exists():
        for name in ("bin", "dev", "etc", "proc", "root", "sys", "tmp", "hidden"):
            (lower / name).mkdir(parents=True)
        shutil.copy(BUSYBOX, lower / "bin" / "busybox")
        for name in ("sh", "cat", "ls", "echo", "sleep"):
            (lower / "bin" / name).symlink_to("busybox")
        (lower / "etc" / "passwd").write_text("root:x:0:0::/root:/bin/sh\n")
        (lower / "etc" / "deleted").write_text("deleted")
        (lower / "hidden" / "below").write_text("hidden")
    _fill(upper)
    names = [path.name for path in (upper, lower)]
    image = Image(letter * 64, names, env={"PATH": "/bin", "EMPTY": ""}, user="root")
    write_image(data, image)
    return image


def _fill(layer: Path) -> None:
    (layer / "etc").mkdir(parents=True)
    os.mknod(layer / "etc" / "deleted", 0o600 | stat.S_IFCHR, 0)
    (layer / "hidden").mkdir()
    os.setxattr(layer / "hidden", "user.overlay.opaque", b"y")
    (layer / "hidden" / "above").write_text("seen")
    program = layer / "ping"
    program.write_bytes(os.urandom(300_000))  # so that there is something to be damaged
    os.chown(program, 54321, 65534)
    program.chmod(0o6755)
    os.setxattr(program, "security.capability", NET_RAW)
    os.setxattr(program, "user.note", b"kept")
    (layer / "hard").hardlink_to(program)
    (layer / "-to etc").symlink_to("etc")
    os.mkfifo(layer / "pipe")
    for name in (b"not utf-8 \xff", b"two\nlines", b"star*[", b"n" * 200):
        path = os.fsencode(layer) + b"/" + name
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o640))
        os.utime(path, ns=(0, 1_700_000_000_123_456_789))
    sticky = layer / "sticky"
    sticky.mkdir()
    sticky.chmod(0o1777)


def tree(layer: Path) -> dict[str, Any]:
    """Write down all that a layer is: owners, modes, times, attributes, links, contents."""
    found: dict[str, Any] = {}
    for path in sorted([layer, *layer.rglob("*")]):
        status = path.lstat()
        kind = stat.S_IFMT(status.st_mode)
        content: Any = None
        if kind == stat.S_IFREG:
            content = path.read_bytes()
        elif kind == stat.S_IFLNK:
            content = path.readlink()
        names = os.listxattr(path, follow_symlinks=False)
        attributes = {name: os.getxattr(path, name, follow_symlinks=False) for name in names}
        changed = 0 if kind == stat.S_IFCHR else status.st_mtime_ns  # a deletion has no time
        found[str(path.relative_to(layer))] = (
            *(status.st_mode, status.st_uid, status.st_gid, status.st_nlink, status.st_rdev),
            *(changed, attributes, content),
        )
    return found
