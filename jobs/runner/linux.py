"""Linux system calls that Python's standard library lacks, and nothing else.

Loaded by the runner's long-lived processes, so it imports only ``ctypes``. Every call raises
``OSError`` with the call's name; flags and structures are those of ``linux/mount.h``,
``linux/sched.h`` and ``linux/loop.h``.
"""

from __future__ import annotations

import ctypes
import os

CLONE_NEWNS = 0x00020000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

MS_NOSUID = 2
MS_NODEV = 4
MS_NOEXEC = 8
MS_NOATIME = 1024
MS_BIND = 1 << 12
MS_REC = 1 << 14
MS_PRIVATE = 1 << 18
MNT_DETACH = 2

MOUNT_ATTR_RDONLY = 0x1
MOUNT_ATTR_NOSUID = 0x2
MOUNT_ATTR_NODEV = 0x4
MOUNT_ATTR_IDMAP = 0x00100000

PR_SET_PDEATHSIG = 1
PR_SET_KEEPCAPS = 8
SIGKILL = 9

# The numbers of the "new" calls are the same on every architecture (asm-generic, >= 424).
_OPEN_TREE, _MOVE_MOUNT, _FSOPEN, _FSCONFIG, _FSMOUNT, _MOUNT_SETATTR = 428, 429, 430, 431, 432, 442
_AT_FDCWD = -100
_AT_EMPTY_PATH = 0x1000
_AT_RECURSIVE = 0x8000
_OPEN_TREE_CLONE = 1
_CLOEXEC = 0o2000000
_MOVE_MOUNT_F_EMPTY_PATH, _MOVE_MOUNT_T_EMPTY_PATH = 0x4, 0x40
_AT_RECURSIVE = 0x8000
_FSCONFIG_SET_FLAG, _FSCONFIG_SET_STRING, _FSCONFIG_CMD_CREATE = 0, 1, 6
_CAPABILITY_VERSION_3 = 0x20080522

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


class _MountAttr(ctypes.Structure):
    _fields_ = [
        ("attr_set", ctypes.c_uint64),
        ("attr_clr", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("userns_fd", ctypes.c_uint64),
    ]


def _check(result: int, call: str, path: str = "") -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{call}: {os.strerror(code)}", path or None)
    return result


def _syscall(name: str, number: int, *arguments: object) -> int:
    wrapped = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    return _check(int(_libc.syscall(ctypes.c_long(number), *wrapped)), name)


def unshare(flags: int) -> None:
    """Leave the namespaces named by ``flags`` (``CLONE_NEW*``) for fresh ones."""
    _check(_libc.unshare(flags), "unshare")


def setns(fd: int, kind: int) -> None:
    """Enter the namespace behind ``fd``; ``kind`` is its ``CLONE_NEW*`` flag."""
    _check(_libc.setns(fd, kind), "setns")


def prctl(option: int, value: int) -> None:
    """Call ``prctl(option, value)`` with the other arguments zero."""
    _check(_libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0), "prctl")


def mount(source: str, target: str, kind: str | None, flags: int, data: str = "") -> None:
    """Mount ``source`` on ``target`` by the classic ``mount(2)``."""
    result = _libc.mount(
        source.encode(),
        target.encode(),
        kind.encode() if kind else None,
        ctypes.c_ulong(flags),
        data.encode() if data else None,
    )
    _check(result, "mount", target)


def umount(target: str, flags: int = 0) -> None:
    """Unmount ``target``; EBUSY is raised unless ``MNT_DETACH`` is given."""
    _check(_libc.umount2(target.encode(), flags), "umount", target)


def syncfs(fd: int) -> None:
    """Write out the file system that holds ``fd``; unlike ``sync(2)`` it reports errors."""
    _check(_libc.syncfs(fd), "syncfs")


def clone_mount(place: str | int, *, attributes: int = 0, userns_fd: int = -1) -> int:
    """Clone the mount at ``place`` as a detached one and return its fd.

    Args:
        place: a directory or file, by its path or an fd.
        attributes: ``MOUNT_ATTR_*`` to set on the clone.
        userns_fd: if not negative, ids are mapped by this user namespace (``mount_setattr(2)``),
            so that uid 0 on the disk shows as the namespace's first host uid.
    """
    flags = _OPEN_TREE_CLONE | _CLOEXEC
    if isinstance(place, int):
        fd = _syscall("open_tree", _OPEN_TREE, place, b"", flags | _AT_EMPTY_PATH)
    else:
        fd = _syscall("open_tree", _OPEN_TREE, _AT_FDCWD, place.encode(), flags)
    try:
        if userns_fd >= 0:
            attributes |= MOUNT_ATTR_IDMAP
        if attributes:
            attr = _MountAttr(attributes, 0, 0, max(userns_fd, 0))
            size = ctypes.sizeof(attr)
            reference = ctypes.byref(attr)
            _syscall("mount_setattr", _MOUNT_SETATTR, fd, b"", _AT_EMPTY_PATH, reference, size)
    except OSError:
        os.close(fd)
        raise
    return fd


def set_mounts(
    path: str, *, set_attributes: int = 0, clear_attributes: int = 0, recursive: bool = False
) -> None:
    """Change ``MOUNT_ATTR_*`` of the mount at ``path``, with all below it if ``recursive``."""
    attr = _MountAttr(set_attributes, clear_attributes, 0, 0)
    size = ctypes.sizeof(attr)
    flags = _AT_RECURSIVE if recursive else 0
    reference = ctypes.byref(attr)
    _syscall("mount_setattr", _MOUNT_SETATTR, _AT_FDCWD, path.encode(), flags, reference, size)


def attach_mount(fd: int, target: str | int) -> None:
    """Attach the detached mount ``fd`` at ``target``, a path or a directory's fd; close ``fd``."""
    flags = _MOVE_MOUNT_F_EMPTY_PATH
    try:
        if isinstance(target, int):
            flags |= _MOVE_MOUNT_T_EMPTY_PATH
            _syscall("move_mount", _MOVE_MOUNT, fd, b"", target, b"", flags)
        else:
            _syscall("move_mount", _MOVE_MOUNT, fd, b"", _AT_FDCWD, target.encode(), flags)
    finally:
        os.close(fd)


def set_mount(path: str, *, add: int = 0, drop: int = 0, below: bool = False) -> None:
    """Add and drop ``MOUNT_ATTR_*`` of the mount at ``path``, and of those ``below`` it."""
    attr = _MountAttr(add, drop, 0, 0)
    size, reference = ctypes.sizeof(attr), ctypes.byref(attr)
    flags = _AT_RECURSIVE if below else 0
    _syscall("mount_setattr", _MOUNT_SETATTR, _AT_FDCWD, path.encode(), flags, reference, size)


def overlay(lower: list[str], upper: str, work: str, *, append_layers: bool) -> int:
    """Make a detached overlay in the caller's user namespace and return its fd.

    Args:
        lower: layer directories, top first.
        upper: the writable directory; ``work`` is its companion on the same file system.
        work: see ``upper``.
        append_layers: use ``lowerdir+`` (kernel >= 6.8), which has no length limit; otherwise one
            colon-separated string, of which the kernel accepts 255 bytes.
    """
    fd = _syscall("fsopen", _FSOPEN, b"overlay", 1)
    try:
        options = [("lowerdir+", layer) for layer in lower]
        if not append_layers:
            options = [("lowerdir", ":".join(lower))]
        for key, value in [*options, ("upperdir", upper), ("workdir", work)]:
            _syscall(
                "fsconfig", _FSCONFIG, fd, _FSCONFIG_SET_STRING, key.encode(), value.encode(), 0
            )
        _syscall("fsconfig", _FSCONFIG, fd, _FSCONFIG_SET_FLAG, b"userxattr", None, 0)
        _syscall("fsconfig", _FSCONFIG, fd, _FSCONFIG_CMD_CREATE, None, None, 0)
        return _syscall("fsmount", _FSMOUNT, fd, 1, MOUNT_ATTR_NODEV)
    finally:
        os.close(fd)


def become(uid: int) -> None:
    """Take ``uid`` as user and group id and keep every capability.

    The kernel charges what a user namespace uses (inotify, keys, further namespaces) to the uid
    that made it; with a uid per sandbox one sandbox cannot use up another's share.
    """
    prctl(PR_SET_KEEPCAPS, 1)
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    data = (ctypes.c_uint32 * 6)()
    _check(_libc.capget(header, data), "capget")
    data[0], data[3] = data[1], data[4]  # effective := permitted
    _check(_libc.capset(header, data), "capset")


def kernel_release() -> tuple[int, int]:
    """Return the running kernel's version, e.g. ``(6, 1)``."""
    major, minor = os.uname().release.split(".")[:2]
    return int(major), int("".join(c for c in minor if c.isdigit()))
