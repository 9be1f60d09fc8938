"""The disk of one sandbox: a sparse ext4 file, its lock, and its mount.

A disk must never be mounted twice. Its lock alone does not ensure that: after a SIGKILL the kernel
frees the lock at once but writes the old mount back for seconds, with the old loop device alive.
So ``claim`` also waits until the sandbox's old control group is empty and no loop device has the
file behind it.
"""

from __future__ import annotations

import errno
import os
import time

from jobs.runner import cgroup, linux, locks, loop, spawn

LOCK_WAIT_SECONDS = 60.0
MOUNT_OPTIONS = "errors=remount-ro"
_EXT4_64BIT = 0x80
_POLL_SECONDS = 0.02
# 4 KiB blocks also on small disks: the loop device has sectors of that size.
_MKFS = (
    "-q",
    "-F",
    "-m",
    "0",
    "-b",
    "4096",
    "-E",
    "lazy_itable_init=1,lazy_journal_init=1,nodiscard",
)


class DiskError(Exception):
    """The disk cannot be used; the text says why and is shown to the user."""


def paths(data: str, sandbox_id: str) -> tuple[str, str]:
    """Return the paths of the image file and of its lock."""
    directory = f"{data}/disks/{sandbox_id}"
    return f"{directory}/disk.img", f"{directory}/disk.lock"


def claim(
    data: str,
    sandbox_id: str,
    wait_seconds: float = LOCK_WAIT_SECONDS,
    pause: Callable[[float], None] = time.sleep,
) -> int:
    """Take the disk's lock and wait until its last user is gone; return the lock's fd.

    Args:
        data: the data directory.
        sandbox_id: whose disk.
        wait_seconds: how long at most.
        pause: passes so many seconds of the wait; it may raise to end it.

    Raises:
        DiskError: it was still in use after ``wait_seconds``.
    """
    image, lock = paths(data, sandbox_id)
    os.makedirs(os.path.dirname(lock), mode=0o700, exist_ok=True)
    fd = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + wait_seconds
    while not (locks.try_lock(fd) and cgroup.remove(sandbox_id, 0) and not loop.users(image)):
        if time.monotonic() > deadline:
            os.close(fd)
            raise DiskError("disk busy: an earlier run of this sandbox still holds it")
        pause(_POLL_SECONDS)
    return fd


def ensure(data: str, sandbox_id: str, size: int) -> str:
    """Make the image file of ``size`` bytes if there is none, and return its path.

    It is copied from an empty file system of that size, which is made once (a copy takes a third
    of the time that ``mkfs.ext4`` takes). Whatever is half made has another name.
    """
    image, _ = paths(data, sandbox_id)
    if not os.path.exists(image):
        os.rename(prepare(data, sandbox_id, size), image)
    return image


def grow(image: str, size: int) -> None:
    """Make a disk that nobody uses as large as it is to be; one that is so already stays.

    It may be cut off anywhere and begun again: what counts is what the file system says of itself.

    Raises:
        DiskError: its file system is damaged, or cannot be made larger.
    """
    if _file_system_size(image) >= size:
        return
    os.truncate(image, max(size, os.stat(image).st_size))
    status, output = spawn.run(["e2fsck", "-f", "-p", image])  # resize2fs wants that
    if status > 1:  # 0: clean, 1: mended (e2fsck(8))
        raise DiskError(f"the disk is damaged: {output}")
    status, output = spawn.run(["resize2fs", image])
    if status:
        raise DiskError(f"the disk cannot grow: {output}")


def _file_system_size(image: str) -> int:
    """Read the size in bytes from the superblock of ext4."""
    fd = os.open(image, os.O_RDONLY | os.O_CLOEXEC)
    try:
        block = os.pread(fd, 1024, 1024)
    finally:
        os.close(fd)

    def number(offset: int) -> int:
        return int.from_bytes(block[offset : offset + 4], "little")

    high = number(0x150) if number(0x60) & _EXT4_64BIT else 0
    return (number(0x4) + (high << 32)) << (10 + number(0x18))


def prepare(data: str, sandbox_id: str, size: int) -> str:
    """Make an empty disk of ``size`` bytes that is nobody's yet, and return its path.

    It becomes the sandbox's when it is renamed to the image file.

    Raises:
        DiskError: there is no room for it.
    """
    template = f"{data}/disks/template-{size}.img"
    temporary = f"{paths(data, sandbox_id)[0]}.new"
    try:
        if not os.path.exists(template):
            _make_template(template, size)
        _copy_sparse(template, temporary)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise DiskError("no space is left on the host volume for a new disk") from error
        raise
    return temporary


def note_generation(data: str, sandbox_id: str, generation: int) -> None:
    """Note which start uses the disk; what is meant for an earlier one comes too late from now on.

    Raises:
        DiskError: a later one has used it.
    """
    require_generation(data, sandbox_id, generation)
    path = _generation_path(data, sandbox_id)
    fd = os.open(f"{path}.new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, str(generation).encode())
    finally:
        os.close(fd)
    os.rename(f"{path}.new", path)


def require_generation(data: str, sandbox_id: str, generation: int) -> None:
    """Require that no later start has used the disk; its lock must be held.

    Raises:
        DiskError: one has.
    """
    try:
        with open(_generation_path(data, sandbox_id)) as file:
            last = int(file.read())
    except FileNotFoundError:
        return
    if last > generation:
        raise DiskError(f"start {last} of the sandbox has the disk, not {generation}")


def _generation_path(data: str, sandbox_id: str) -> str:
    return f"{data}/disks/{sandbox_id}/generation"


def _make_template(template: str, size: int) -> None:
    temporary = f"{template}.{os.getpid()}-{time.monotonic_ns()}"
    fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.ftruncate(fd, size)
        status, output = spawn.run(["mkfs.ext4", *_MKFS, temporary])
        if status:
            raise DiskError(f"mkfs.ext4 failed: {output}")
        os.fsync(fd)
        os.rename(temporary, template)
    except BaseException:
        os.unlink(temporary)
        raise
    finally:
        os.close(fd)


def _copy_sparse(source: str, target: str) -> None:
    """Copy only the data of ``source``; holes stay holes."""
    read = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
    write = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        size = os.fstat(read).st_size
        os.ftruncate(write, size)
        position = 0
        while position < size:
            try:
                start = os.lseek(read, position, os.SEEK_DATA)
            except OSError as error:
                if error.errno != errno.ENXIO:
                    raise
                break  # only a hole is left
            position = end = os.lseek(read, start, os.SEEK_HOLE)
            while start < end:
                start += os.copy_file_range(read, write, end - start, start, start)
    finally:
        os.close(read)
        os.close(write)


def mount(image: str, target: str) -> None:
    """Mount the image at ``target``, after a check of the file system if it needs one.

    Raises:
        DiskError: the file system is damaged beyond ``e2fsck -p``.
    """
    device_fd, device = loop.attach(image)
    try:
        mount_device(device, target, linux.MS_NOATIME | linux.MS_NODEV)
    finally:
        os.close(device_fd)
    for name in ("upper", "work"):
        if not os.path.isdir(f"{target}/{name}"):
            os.mkdir(f"{target}/{name}", 0o755)


def mount_device(device: str, target: str, flags: int) -> None:
    """Mount a loop device that nobody else has, after a check if it needs one.

    Raises:
        DiskError: the file system is damaged beyond ``e2fsck -p``.
    """
    try:
        linux.mount(device, target, "ext4", flags, MOUNT_OPTIONS)
    except OSError:
        status, output = spawn.run(["e2fsck", "-p", device])
        if status > 1:  # 0: clean, 1: mended (e2fsck(8))
            raise DiskError(f"the disk is damaged: {output}") from None
        linux.mount(device, target, "ext4", flags, MOUNT_OPTIONS)


def remove(data: str, sandbox_id: str, generation: int | None = None) -> None:
    """Delete the disk for good; deleting what is not there succeeds.

    With a ``generation``, only if no later start has used it.

    Raises:
        DiskError: something still uses it, or a later start has.
    """
    image, lock = paths(data, sandbox_id)
    if not os.path.isdir(os.path.dirname(image)):
        return
    fd = claim(data, sandbox_id)
    try:
        if generation is not None:
            require_generation(data, sandbox_id, generation)
        noted = _generation_path(data, sandbox_id)
        for path in (image, f"{image}.new", noted, f"{noted}.new", lock):
            if os.path.exists(path):
                os.unlink(path)
        os.rmdir(os.path.dirname(image))
    finally:
        os.close(fd)


TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
