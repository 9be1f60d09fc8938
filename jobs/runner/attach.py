"""Attach volumes inside a sandbox: ``main.py attach-volumes PATHS``, a JSON list.

A process of its own, as one with threads cannot enter a mount namespace. Its fds: 1 takes the
answer (``ok``, or what is wrong), 3 is a pidfd of the sandbox's first process, from 4 on are
detached mounts in the order of the paths. Inside it has the rights of the sandbox's root and no
others, and loads no module any more: those there are the sandbox's.
"""

from __future__ import annotations

import os

from jobs.runner import disk, linux, plain, volumes

_ANSWER, _INIT, _FIRST_MOUNT = 1, 3, 4


def main(text: str) -> int:
    """Attach them, and tell how it went; return the exit code."""
    try:
        paths = plain.loads(text)
        _enter(_INIT)
        for number, path in enumerate(paths):
            point = volumes.open_point(path)
            linux.attach_mount(_FIRST_MOUNT + number, point)
            os.close(point)
    except (OSError, disk.DiskError) as error:
        os.write(_ANSWER, str(error).encode())
        return 1
    os.write(_ANSWER, b"ok")
    return 0


def _enter(init_fd: int) -> None:
    """Take on the sandbox's mounts, then its ids: nothing of the host's can be named any more."""
    linux.setns(init_fd, linux.CLONE_NEWUSER | linux.CLONE_NEWNS)
    os.setgroups([])
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)
