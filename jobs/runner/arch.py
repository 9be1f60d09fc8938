"""Processor architectures: the one table that names them.

``audit`` is the ``AUDIT_ARCH_*`` value that seccomp filters see (linux/audit.h), ``libseccomp`` its
name there: 32-bit calls are of another architecture, and end their process. ``calls`` are the
numbers of the system calls that the gate's filter allows (asm/unistd.h).
"""

from __future__ import annotations

import os

ARCHITECTURES: dict[str, dict[str, object]] = {
    "x86_64": {
        "audit": 0xC000003E,
        "libseccomp": "SCMP_ARCH_X86_64",
        "calls": {
            "accept4": 288,
            "brk": 12,
            "clock_gettime": 228,
            "close": 3,
            "connect": 42,
            "epoll_ctl": 233,
            "epoll_pwait": 281,
            "epoll_wait": 232,
            "exit": 60,
            "exit_group": 231,
            "futex": 202,
            "getpeername": 52,
            "getpid": 39,
            "getrandom": 318,
            "getsockname": 51,
            "getsockopt": 55,
            "ioctl": 16,
            "madvise": 28,
            "mmap": 9,
            "mprotect": 10,
            "mremap": 25,
            "munmap": 11,
            "recvfrom": 45,
            "recvmsg": 47,
            "restart_syscall": 219,
            "rt_sigaction": 13,
            "rt_sigprocmask": 14,
            "rt_sigreturn": 15,
            "sendmsg": 46,
            "sendto": 44,
            "setsockopt": 54,
            "shutdown": 48,
            "write": 1,
        },
    },
    "aarch64": {
        "audit": 0xC00000B7,
        "libseccomp": "SCMP_ARCH_AARCH64",
        "calls": {
            "accept4": 242,
            "brk": 214,
            "clock_gettime": 113,
            "close": 57,
            "connect": 203,
            "epoll_ctl": 21,
            "epoll_pwait": 22,
            "exit": 93,
            "exit_group": 94,
            "futex": 98,
            "getpeername": 205,
            "getpid": 172,
            "getrandom": 278,
            "getsockname": 204,
            "getsockopt": 209,
            "ioctl": 29,
            "madvise": 233,
            "mmap": 222,
            "mprotect": 226,
            "mremap": 216,
            "munmap": 215,
            "recvfrom": 207,
            "recvmsg": 212,
            "restart_syscall": 128,
            "rt_sigaction": 134,
            "rt_sigprocmask": 135,
            "rt_sigreturn": 139,
            "sendmsg": 211,
            "sendto": 206,
            "setsockopt": 208,
            "shutdown": 210,
            "write": 64,
        },
    },
}


def current() -> dict[str, object]:
    """Return this machine's row.

    Raises:
        OSError: Yurt does not know the architecture.
    """
    machine = os.uname().machine
    if machine not in ARCHITECTURES:
        known = ", ".join(sorted(ARCHITECTURES))
        raise OSError(f"the processor architecture {machine} is not supported (known: {known})")
    return ARCHITECTURES[machine]
