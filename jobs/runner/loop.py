"""Loop devices: a file as a block device that goes away with its last user."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct

_LOOP_CONFIGURE = 0x4C0A
_LOOP_GET_STATUS64 = 0x4C05
_LOOP_CTL_GET_FREE = 0x4C82
_LO_FLAGS_AUTOCLEAR = 4
_LOOP_MAJOR = 7
_TRIES = 64
# struct loop_info64: device, inode, rdevice, offset, sizelimit, number, encrypt type and key size,
# flags, file name, crypt name, key, init (linux/loop.h)
_INFO = "=QQQQQIIII64s64s32sQQ"
_EMPTY = (0, 0, 0, 0, 0, 0, 0, 0, _LO_FLAGS_AUTOCLEAR, b"", b"", b"", 0, 0)


def attach(path: str) -> tuple[int, str]:
    """Attach ``path`` to a free loop device that clears itself when its last user closes it.

    Returns:
        The open device fd, to be closed after the mount, and its path, e.g. ``/dev/loop3``.

    Raises:
        OSError: no device is free (``losetup -f`` says the same), or the file cannot be opened.
    """
    control = os.open("/dev/loop-control", os.O_RDWR | os.O_CLOEXEC)
    backing = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    configuration = struct.pack("=II", backing, 4096) + struct.pack(_INFO, *_EMPTY) + b"\0" * 64
    try:
        for _ in range(_TRIES):
            number = fcntl.ioctl(control, _LOOP_CTL_GET_FREE)
            device = _node(number)
            fd = os.open(device, os.O_RDWR | os.O_CLOEXEC)
            try:
                fcntl.ioctl(fd, _LOOP_CONFIGURE, configuration)
            except OSError as error:
                if error.errno != errno.EBUSY:
                    raise
                os.close(fd)  # another process took this number between the two calls
                continue
            return fd, device
    finally:
        os.close(control)
        os.close(backing)
    raise OSError(f"no loop device is free after {_TRIES} tries")


def _node(number: int) -> str:
    """Return the device's path; make the node where the host's ``/dev`` lacks it."""
    device = f"/dev/loop{number}"
    if not os.path.exists(device):
        os.mknod(device, 0o600 | stat.S_IFBLK, os.makedev(_LOOP_MAJOR, number))
    return device


def users(path: str) -> list[str]:
    """Name the loop devices that have this very file (device and inode) behind them."""
    found = []
    for fd, name in _opened(path):
        os.close(fd)
        found.append(name)
    return found


def join(path: str) -> tuple[int, str] | None:
    """Open the loop device that has this very file behind it; None if there is none.

    As long as the fd is open, the device stays. Returns what ``attach`` does.
    """
    joined = None
    for fd, name in _opened(path):
        if joined is None:
            joined = fd, f"/dev/{name}"
        else:
            os.close(fd)
    return joined


def _opened(path: str) -> Iterator[tuple[int, str]]:
    """Yield the loop devices with this file behind them, open; the receiver closes them."""
    try:
        wanted = os.stat(path)
    except FileNotFoundError:
        return
    for name in os.listdir("/sys/block"):
        if not name.startswith("loop") or not os.path.isdir(f"/sys/block/{name}/loop"):
            continue
        try:
            fd = os.open(_node(int(name[4:])), os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            status = fcntl.ioctl(fd, _LOOP_GET_STATUS64, b"\0" * struct.calcsize(_INFO))
        except OSError:  # cleared since it was listed
            os.close(fd)
            continue
        if struct.unpack_from("=QQ", status) == (wanted.st_dev, wanted.st_ino):
            yield fd, name
        else:
            os.close(fd)


TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
