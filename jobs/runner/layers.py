"""Layers of images as directories: written under one lock, unpacked whole or not at all.

Never loaded into a runner that holds a sandbox. Does not know what an image is, nor who uses one.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import stat
import subprocess
import tempfile
from pathlib import Path

from jobs.runner import linux

UNFINISHED = ".new-"
# Marks of an overlay are ours to set, not an archive's.
XATTRS = ("--xattrs", "--xattrs-include=*", "--xattrs-exclude=trusted.*",
          "--xattrs-exclude=user.overlay.*")  # fmt: skip
# What stands in an archive for a deletion, and for a directory that hides those below it
# (OCI image specification, "Representing Changes").
WHITEOUT = ".wh."
OPAQUE = ".wh..wh..opq"
OPAQUE_MARK = "user.overlay.opaque"
# Before a command: the kernel kills it when the process that started it dies.
WITH_PARENT = ("setpriv", "--pdeathsig", "KILL")
_CHUNK_BYTES = 1 << 20


class LayerError(Exception):
    """A layer cannot be unpacked; the text says why."""


@contextlib.contextmanager
def exclusive(directory: Path, progress: Callable[[str], None]) -> Iterator[None]:
    """Hold the one right to write in a directory, and clear away what dead processes left in it."""
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress("waiting for another process that is making the same")
            fcntl.flock(lock, fcntl.LOCK_EX)
        # A tool that outlives us must keep the lock while it still writes.
        os.set_inheritable(lock.fileno(), True)
        for leftover in directory.glob(f"{UNFINISHED}*"):
            remove(leftover)
        yield


@contextlib.contextmanager
def unfinished(directory: Path) -> Iterator[Path]:
    """Make a directory to fill and rename; it is removed unless that happened."""
    root = Path(tempfile.mkdtemp(prefix=UNFINISHED, dir=directory))
    root.chmod(0o755)
    try:
        yield root
    finally:
        if root.exists():
            remove(root)


def put(layer: Path, stream: IO[bytes], digest: str) -> None:
    """Unpack a tar stream whose SHA-256 is ``digest`` as ``layer``; ``exclusive`` must be held.

    Owners, modes and extended attributes (file capabilities too) are kept, deletions become an
    overlay's. Device nodes are left out, and no member ends up outside of the layer.

    Raises:
        LayerError: the stream is no tar archive, is cut off, or has another digest.
    """
    with unfinished(layer.parent) as root:
        _unpack(stream, digest, root)
        finish(root)
        root.rename(layer)


def _unpack(stream: IO[bytes], digest: str, root: Path) -> None:
    """Let tar unpack the stream, and count what it was given."""
    command = [
        *WITH_PARENT,
        *("tar", "--extract", "--file=-", f"--directory={root}", "--numeric-owner", "--same-owner"),
        *("--same-permissions", "--delay-directory-restore", *XATTRS),
    ]
    seen = hashlib.sha256()
    with tempfile.TemporaryFile() as said:
        with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=said) as tar:
            assert tar.stdin is not None
            while chunk := stream.read(_CHUNK_BYTES):
                seen.update(chunk)
                with contextlib.suppress(BrokenPipeError):  # its exit code says why it stopped
                    tar.stdin.write(chunk)
            with contextlib.suppress(BrokenPipeError):
                tar.stdin.close()
        if tar.returncode != 0:
            said.seek(0)
            reason = said.read(4096).decode(errors="replace").strip()
            raise LayerError(f"layer {digest} cannot be unpacked: {reason}")
    if seen.hexdigest() != digest:
        raise LayerError(f"layer {digest} arrived as {seen.hexdigest()}: damaged on its way")


def finish(root: Path) -> None:
    """Take device nodes out of a layer, make deletions an overlay's, and see it on the disk."""
    marks = []
    changed = {}
    for directory, _, names in os.walk(root):
        times = os.stat(directory)
        for name in names:
            path = Path(directory, name)
            mode = path.lstat().st_mode
            # To an overlay a character device 0:0 is a deletion; others are of no use in a sandbox.
            if stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
                path.unlink()
            elif name.startswith(WHITEOUT):
                path.unlink()
                marks.append(path)
                changed[directory] = (times.st_atime_ns, times.st_mtime_ns)
    for path in marks:
        _mark(path)
    for directory, when in changed.items():
        os.utime(directory, ns=when)
    fd = os.open(root, os.O_RDONLY)
    try:
        linux.syncfs(fd)  # not sync(2): that would write out the disks of all sandboxes, too
    finally:
        os.close(fd)


def _mark(path: Path) -> None:
    """Do to an overlay what a mark of an archive says."""
    name = path.name.removeprefix(WHITEOUT)
    deleted = path.with_name(name) if name not in {"", ".", ".."} else None
    if path.name == OPAQUE:
        os.setxattr(path.parent, OPAQUE_MARK, b"y")
    elif deleted and not name.startswith(WHITEOUT) and not os.path.lexists(deleted):
        os.mknod(deleted, 0o600 | stat.S_IFCHR, os.makedev(0, 0))


def remove(path: Path) -> None:
    """Remove a directory or file of ours, and never what is mounted below it."""
    subprocess.run(["rm", "-rf", "--one-file-system", path], check=True)


TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import IO
