"""Give up, for good, everything that the gate does not need to serve.

Afterwards an attacker who runs code in the gate has its open sockets, and memory that cannot be
made executable. Source of the layouts: linux/seccomp.h, linux/filter.h, linux/audit.h.
"""

from __future__ import annotations

import ctypes
import os
import struct

from jobs.runner import arch

_PR_SET_DUMPABLE = 4
_PR_SET_SECCOMP = 22
_PR_CAPBSET_DROP = 24
_PR_SET_NO_NEW_PRIVS = 38
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_CLEAR_ALL = 4
_SECCOMP_MODE_FILTER = 2
_CAPABILITY_VERSION_3 = 0x20080522
_CAPABILITIES = 64

_LOAD, _EQUAL, _ANY_BIT, _RETURN = 0x20, 0x15, 0x45, 0x06  # BPF instruction codes
_NUMBER, _ARCH, _ARGUMENTS = 0, 4, 16  # offsets in struct seccomp_data
_ALLOW, _REFUSE, _KILL = 0x7FFF0000, 0x00050001, 0x80000000  # refuse: EPERM
_PROT_EXEC = 4
_FIONBIO = 0x5421

_libc = ctypes.CDLL(None, use_errno=True)


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def confine(uid: int, empty_fd: int) -> None:
    """Become the unprivileged user ``uid`` in the empty directory ``empty_fd``, under the filter.

    Nothing may be imported afterwards.

    Raises:
        OSError: a step failed; the caller must not serve.
    """
    os.fchdir(empty_fd)
    os.chroot(".")
    os.close(empty_fd)
    for capability in range(_CAPABILITIES):
        if _libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0) < 0:
            break  # beyond the last one that this kernel knows
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    _check(_libc.capset(header, (ctypes.c_uint32 * 6)()), "capset")
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    _prctl(_PR_SET_DUMPABLE, 0)
    code = seccomp_filter(arch.current())
    program = _Program(len(code) // 8, code)
    _check(
        _libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0), "seccomp"
    )


def _prctl(option: int, value: int) -> None:
    _check(_libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0), "prctl")


def _check(result: int, call: str) -> None:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{call}: {os.strerror(code)}")


def seccomp_filter(row: Mapping[str, Any]) -> bytes:
    """Return the BPF program for an architecture: its calls are allowed, all others EPERM.

    Memory is never made executable, and the only ioctl is the one that makes sockets
    non-blocking. Another architecture's call kills: its numbers mean other things.
    """
    calls: dict[str, int] = row["calls"]
    plain = [number for name, number in calls.items() if name not in {"ioctl", "mmap", "mprotect"}]
    code = [
        _step(_LOAD, _ARCH),
        _step(_EQUAL, row["audit"], 1, 0),
        _step(_RETURN, _KILL),
        _step(_LOAD, _NUMBER),
    ]
    code += _when(calls["ioctl"], argument=1, test=_EQUAL, value=_FIONBIO, wanted=True)
    for name in ("mmap", "mprotect"):
        code += _when(calls[name], argument=2, test=_ANY_BIT, value=_PROT_EXEC, wanted=False)
    for position, number in enumerate(plain):
        code.append(_step(_EQUAL, number, len(plain) - position, 0))
    code += [_step(_RETURN, _REFUSE), _step(_RETURN, _ALLOW)]
    return b"".join(code)


def _when(number: int, *, argument: int, test: int, value: int, wanted: bool) -> list[bytes]:
    """Allow the call ``number`` only if the low half of an argument passes (or fails) a test."""
    return [
        _step(_EQUAL, number, 0, 4),
        _step(_LOAD, _ARGUMENTS + 8 * argument),
        _step(test, value, *((0, 1) if wanted else (1, 0))),
        _step(_RETURN, _ALLOW),
        _step(_RETURN, _REFUSE),
    ]


def _step(code: int, value: int, jump_true: int = 0, jump_false: int = 0) -> bytes:
    return struct.pack("<HBBI", code, jump_true, jump_false, value)


TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any
