"""Processor architectures: the one table that names them.

``audit`` is the ``AUDIT_ARCH_*`` value that seccomp filters see (linux/audit.h), ``libseccomp`` the
names of the architecture and of those that it runs besides its own. ``calls`` are the numbers of
the system calls that the gate's filter allows (asm/unistd.h).
"""

from __future__ import annotations

import os

ARCHITECTURES: dict[str, dict[str, object]] = {
    "x86_64": {"audit": 0xC000003E, "libseccomp": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"]},
    "aarch64": {"audit": 0xC00000B7, "libseccomp": ["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"]},
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
