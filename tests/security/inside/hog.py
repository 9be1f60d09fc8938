"""Takes all that there is of one thing, and keeps it: runs inside a sandbox.

python3 hog.py processes|memory|disk|inotify
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import sys
import time
from pathlib import Path

STEP = 64 << 20
FILE = Path("/tmp/hog")


def processes() -> None:
    """A fork bomb: every copy forks again, and none of them minds a refusal."""
    while True:
        try:
            os.fork()
        except OSError:
            time.sleep(0.01)


def memory() -> None:
    """Children that grow until they are killed, so that this one can go on."""
    while True:
        child = os.fork()
        if child == 0:
            taken = []
            while True:
                taken.append(bytearray(os.urandom(1 << 20)) * 64)
        os.waitpid(child, 0)


def disk() -> None:
    size = 0
    with FILE.open("wb") as file:
        step = STEP
        while step >= 4096:
            try:
                os.posix_fallocate(file.fileno(), size, step)
                size += step
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
                step //= 2
        signal.pause()


def inotify() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    while libc.inotify_init1(0) >= 0:
        pass
    print(errno.errorcode[ctypes.get_errno()], flush=True)
    signal.pause()


if __name__ == "__main__":
    {f.__name__: f for f in (processes, memory, disk, inotify)}[sys.argv[1]]()
