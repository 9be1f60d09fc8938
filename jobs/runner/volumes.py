"""Volumes: disks that several sandboxes of a node have at once.

The image is like a sandbox's disk, a sparse ext4 file with plain uids, so it has a hard limit on
bytes and inodes. All who mount it go through one loop device: then the kernel gives them one file
system, each with a mount of its own in its runner's mount namespace. The device clears itself with
the last of them, however that ends, so nothing has to be counted.
"""

from __future__ import annotations

import errno
import os
import time

from jobs.runner import disk, linux, locks, loop, plain, spawn

PREFIX = "volume-"
# What is in the image beside it is the file system's own (lost+found).
_FILES = "files"
_LOCK_WAIT_SECONDS = 10.0
_POLL_SECONDS = 0.02
_ANSWER_BYTES = 4096


def make(data: str, volume_id: str, size: int) -> None:
    """Make the image of a volume, of ``size`` bytes, unless it is there.

    Raises:
        DiskError: the host volume has no room.
    """
    _, lock = disk.paths(data, PREFIX + volume_id)
    os.makedirs(os.path.dirname(lock), mode=0o700, exist_ok=True)
    with _Lock(lock):
        disk.ensure(data, PREFIX + volume_id, size)


def remove(data: str, volume_id: str) -> None:
    """Delete a volume with all that is in it; deleting what is not there succeeds.

    Raises:
        DiskError: a sandbox still has it.
    """
    disk.remove(data, PREFIX + volume_id)


class _Lock:
    """Holds the lock of a volume's image: who mounts, makes or removes it is alone at that."""

    def __init__(self, path: str) -> None:
        self._path = path

    def __enter__(self) -> None:
        deadline = time.monotonic() + _LOCK_WAIT_SECONDS
        while (fd := locks.take(self._path)) is None:
            if time.monotonic() > deadline:
                raise disk.DiskError("volume busy: another sandbox is about to mount or remove it")
            time.sleep(_POLL_SECONDS)
        self._fd = fd

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)


class Volumes:
    """The volumes of one sandbox, on the host's side."""

    def __init__(self, data: str, scratch: str, wanted: Sequence[Mapping[str, str]]) -> None:
        """Remember what is wanted: each with ``id``, ``path`` inside and ``subpath``."""
        self._data, self._scratch, self._wanted = data, scratch, wanted
        self._mounted: list[str] = []

    def mount(self, init_fd: int, user_fd: int) -> None:
        """Mount them into a sandbox, by the pidfd of its first process and its user namespace.

        Raises:
            DiskError: one cannot be mounted; the text is for the user.
        """
        if not self._wanted:
            return
        clones: list[int] = []
        try:
            for wanted in self._wanted:
                clones.append(self._clone(wanted, user_fd))
            _attach(init_fd, clones, [wanted["path"] for wanted in self._wanted])
        finally:
            for fd in clones:
                os.close(fd)

    def unmount(self) -> None:
        """Write everything out and unmount; the sandbox must be gone.

        Raises:
            OSError: writing failed.
        """
        while self._mounted:
            target = self._mounted.pop()
            _sync(target)
            linux.umount(target)

    def _clone(self, wanted: Mapping[str, str], user_fd: int) -> int:
        """Return a detached mount of the wanted part of a volume, with the sandbox's ids."""
        target = f"{self._scratch}/{PREFIX}{wanted['id']}"
        if target not in self._mounted:
            os.mkdir(target, 0o700)
            _mount(self._data, wanted["id"], target)
            self._mounted.append(target)
        part = open_below(f"{target}/{_FILES}", wanted["subpath"])
        attributes = linux.MOUNT_ATTR_NODEV | linux.MOUNT_ATTR_NOSUID
        try:
            return linux.clone_mount(part, attributes=attributes, userns_fd=user_fd)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            raise disk.DiskError(
                f"the file system {_kind(target)} of volume {wanted['id']} cannot be id-mapped by "
                "this kernel; use Linux 6.1 or newer"
            ) from error
        finally:
            os.close(part)


def _mount(data: str, volume_id: str, target: str) -> None:
    image, lock = disk.paths(data, PREFIX + volume_id)
    flags = linux.MS_NOATIME | linux.MS_NODEV | linux.MS_NOSUID
    if not os.path.exists(image):
        # They were here: an empty volume in the place of a lost one would hide that.
        raise disk.DiskError(f"the files of volume {volume_id} are not on this node")
    with _Lock(lock):
        joined = loop.join(image)
        device_fd, device = joined or loop.attach(image)
        try:
            if joined is None:
                disk.mount_device(device, target, flags)
            else:
                linux.mount(device, target, "ext4", flags, disk.MOUNT_OPTIONS)
        except OSError as error:
            raise disk.DiskError(
                f"volume {volume_id} cannot be mounted: {error.strerror}; stop every sandbox that "
                "has it, then start them again"
            ) from error
        finally:
            os.close(device_fd)
        files = f"{target}/{_FILES}"
        if not os.path.isdir(files):
            _make_open(files)


def open_below(root: str, subpath: str) -> int:
    """Open a directory below ``root``, made if it is not there, and return its fd.

    Each part is opened from the one before it and no link is followed: whatever sandboxes do
    meanwhile with what is in the volume, this stays inside.

    Raises:
        DiskError: a part is no directory.
    """
    return _walk(root, subpath.split("/") if subpath else [], 0o777)


def open_point(path: str) -> int:
    """Open the directory of an absolute path, made if it is not there, and return its fd.

    Raises:
        DiskError: a part of it is no directory, or a link.
    """
    return _walk("/", path.strip("/").split("/"), 0o755)


def _walk(root: str, parts: Sequence[str], mode: int) -> int:
    flags = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    here = os.open(root, flags)
    for part in parts:
        try:
            try:
                below = os.open(part, flags, dir_fd=here)
            except FileNotFoundError:
                _make_open(part, mode, here)
                below = os.open(part, flags, dir_fd=here)
        except OSError as error:
            why = "is a link or no directory" if error.errno in _NO_DIRECTORY else error.strerror
            path = "/".join(parts)
            raise disk.DiskError(f"{part!r} in {path!r} {why}; write another path") from error
        finally:
            os.close(here)
        here = below
    return here


_NO_DIRECTORY = (errno.ENOTDIR, errno.ELOOP)


def _make_open(path: str, mode: int = 0o777, directory: int | None = None) -> None:
    """Make a directory with just this mode, so that every user of every sandbox may use it."""
    before = os.umask(0)
    try:
        os.mkdir(path, mode, dir_fd=directory)
    except FileExistsError:
        return  # another sandbox was faster
    finally:
        os.umask(before)


def _attach(init_fd: int, clones: list[int], paths: list[str]) -> None:
    """Have a helper attach mounts inside the sandbox: this process has threads and cannot enter."""
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    answers, answer = os.pipe()
    try:
        fds = [null, answer, 2, init_fd, *clones]
        pid = spawn.start_interpreter(["attach-volumes", plain.dumps(paths)], fds)
    finally:
        os.close(null)
        os.close(answer)
    said = b""
    while chunk := os.read(answers, _ANSWER_BYTES):
        said += chunk
    os.close(answers)
    os.waitpid(pid, 0)
    if said != b"ok":
        told = said.decode(errors="replace") or "the helper failed"
        raise disk.DiskError(f"a volume cannot be mounted: {told}")


def _sync(directory: str) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
    try:
        linux.syncfs(fd)
    finally:
        os.close(fd)


def _kind(target: str) -> str:
    """Name the kind of the file system that is mounted at ``target``."""
    with open("/proc/self/mountinfo") as mounts:
        for line in mounts:
            fields = line.split()
            if fields[4] == target:
                return fields[fields.index("-") + 1]
    return "?"


TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
