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
import tarfile
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
# For tar: nothing may be gained by a member, nor by a fault in tar itself.
RIGHTS = ("setpriv", "--pdeathsig=KILL", "--no-new-privs", "--bounding-set=-all,+chown,"
           "+dac_override,+fowner,+fsetid,+setfcap,+mknod")  # fmt: skip
_CHUNK_BYTES = 1 << 20
_MOST_BYTES = 64 << 30
_MOST_MEMBERS = 2_000_000
_DEEPEST = 200  # directories below each other; each level is one call deeper for who walks
_LONGEST = 4095  # bytes of a path


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


def put(layer: Path, stream: IO[bytes], digest: str, most_bytes: int = _MOST_BYTES) -> None:
    """Unpack a tar stream whose SHA-256 is ``digest`` as ``layer``; ``exclusive`` must be held.

    Owners, modes and extended attributes (file capabilities too) are kept, deletions become an
    overlay's. Device nodes are left out, and no member ends up outside of the layer: tar sees
    everything else read-only, has no network, and only the rights that it needs.

    Raises:
        LayerError: the stream is no tar archive, is cut off, has another digest, or is larger than
            ``most_bytes`` or than what a layer may be.
    """
    with unfinished(layer.parent) as root:
        _unpack(stream, digest, root, most_bytes)
        try:
            finish(root)
        except RecursionError as error:
            raise LayerError(f"layer {digest} has too many directories in each other") from error
        root.rename(layer)


class _Tee:
    """Reads a stream, counts and digests it, and hands it to tar."""

    def __init__(self, stream: IO[bytes], target: IO[bytes], most_bytes: int) -> None:
        self._stream, self._target, self._left = stream, target, most_bytes
        self.seen = hashlib.sha256()

    def read(self, size: int = _CHUNK_BYTES) -> bytes:
        chunk = self._stream.read(size)
        self._left -= len(chunk)
        if self._left < 0:
            raise LayerError("it is too large")
        self.seen.update(chunk)
        with contextlib.suppress(BrokenPipeError):  # tar's exit code says why it stopped
            self._target.write(chunk)
        return chunk


def _unpack(stream: IO[bytes], digest: str, root: Path, most_bytes: int) -> None:
    """Let tar unpack the stream, and look at all that it is given."""
    command = [
        *RIGHTS,
        *("tar", "--extract", "--file=-", f"--directory={root}", "--numeric-owner", "--same-owner"),
        *("--same-permissions", "--delay-directory-restore", *XATTRS),
    ]
    with tempfile.TemporaryFile() as said:
        with subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stderr=said,
            preexec_fn=lambda: confine(str(root)),
        ) as tar:
            assert tar.stdin is not None
            tee = _Tee(stream, tar.stdin, most_bytes)
            try:
                _look_through(tee)
                while tee.read():
                    pass
            except LayerError as error:
                tar.kill()
                raise LayerError(f"layer {digest} cannot be unpacked: {error}") from error
            with contextlib.suppress(BrokenPipeError):
                tar.stdin.close()
        if tar.returncode != 0:
            said.seek(0)
            reason = said.read(4096).decode(errors="replace").strip()
            raise LayerError(f"layer {digest} cannot be unpacked: {reason}")
    if tee.seen.hexdigest() != digest:
        raise LayerError(f"layer {digest} arrived as {tee.seen.hexdigest()}: damaged on its way")


def _look_through(tee: _Tee) -> None:
    """Read an archive's members, and refuse too many, too long and too deep ones.

    Raises:
        LayerError: one is.
    """
    count = 0
    try:
        with tarfile.open(  # type: ignore[call-overload] # of a file it needs only `read`
            fileobj=tee, mode="r|", bufsize=_CHUNK_BYTES
        ) as archive:
            for member in archive:
                archive.members.clear()  # it would keep them all
                count += 1
                if count > _MOST_MEMBERS:
                    raise LayerError(f"it has more than {_MOST_MEMBERS} files")
                _check_paths(member.name, member.linkname)
    except (tarfile.TarError, EOFError, ValueError, OverflowError) as error:
        raise LayerError(f"it is no whole tar archive: {error}") from error


def _check_paths(*names: str) -> None:
    for name in names:
        if len(os.fsencode(name)) > _LONGEST or name.count("/") > _DEEPEST:
            raise LayerError(f"a path in it is too long or too deep: {name[:100]}")


def confine(root: str) -> None:
    """Make everything but ``root`` read-only for this process, and leave it no network."""
    linux.unshare(linux.CLONE_NEWNS | linux.CLONE_NEWNET | linux.CLONE_NEWIPC)
    linux.mount("none", "/", None, linux.MS_REC | linux.MS_PRIVATE)
    linux.mount(root, root, None, linux.MS_BIND)
    linux.set_mount("/", add=linux.MOUNT_ATTR_RDONLY, below=True)
    linux.set_mount(root, add=linux.MOUNT_ATTR_NODEV, drop=linux.MOUNT_ATTR_RDONLY)


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
    write_out(root)


def write_out(root: Path) -> None:
    """See a layer on the disk."""
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


def size_bytes(layer: Path) -> int:
    """Sum up the sizes of a layer's files, hard links once."""
    sizes: dict[int, int] = {}
    for directory, _, names in os.walk(layer):
        for name in names:
            status = Path(directory, name).lstat()
            sizes[status.st_ino] = status.st_size
    return sum(sizes.values())


def remove(path: Path) -> None:
    """Remove a directory or file of ours, and never what is mounted below it."""
    subprocess.run(["rm", "-rf", "--one-file-system", path], check=True)


TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import IO
