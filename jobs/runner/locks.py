"""Lock files: who holds one lives, whatever its process id."""

from __future__ import annotations

import fcntl
import os


def try_lock(fd: int) -> bool:
    """Take the lock of an open file for as long as it is open; False if somebody has it."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def take(path: str) -> int | None:
    """Lock a file, made if it is not there, and return its fd, or None if somebody has it.

    Raises:
        FileNotFoundError: its directory is not there.
    """
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        if not try_lock(fd):
            os.close(fd)
            return None
        if _is_at(fd, path):
            return fd
        os.close(fd)  # it was removed between the two calls, by whoever had the lock


def _is_at(fd: int, path: str) -> bool:
    """Tell whether ``path`` is still this file."""
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path))
    except FileNotFoundError:
        return False


def is_held(path: str) -> bool:
    """Tell whether a process holds the lock file; one that is missing is held by nobody."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        return not try_lock(fd)
    finally:
        os.close(fd)


def wait(path: str) -> None:
    """Block until nobody holds the lock file."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
    finally:
        os.close(fd)
