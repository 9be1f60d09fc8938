"""Finds a process by what it holds: a lock, a listening socket. Never by its name.

A process id is only handed out together with its start time, and is only killed while both fit, so
that an id that the kernel gave to somebody else meanwhile is left alone.
"""

from __future__ import annotations

import contextlib
import os
import signal
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
_LISTENING = "0A"
_FORGET_PEAK = "5"  # proc(5), clear_refs


@dataclass(frozen=True, slots=True)
class Process:
    """One process, told apart from a later one with the same id."""

    pid: int
    started: int

    def lives(self) -> bool:
        return start_time(self.pid) == self.started

    def kill(self) -> None:
        """Send SIGKILL to this process, and to no other."""
        with contextlib.suppress(ProcessLookupError):
            handle = os.pidfd_open(self.pid)
            try:
                if self.lives():
                    signal.pidfd_send_signal(handle, signal.SIGKILL)
            finally:
                os.close(handle)

    def begin_peak(self) -> int:
        """Count its peak of memory from now on; return the bytes that are resident."""
        (PROC / str(self.pid) / "clear_refs").write_text(_FORGET_PEAK)
        return self.peak_bytes()

    def peak_bytes(self) -> int:
        """The most bytes of it that were resident at once."""
        for line in (PROC / str(self.pid) / "status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) << 10
        raise ProcessLookupError(self.pid)


def process(pid: int) -> Process:
    return Process(pid, start_time(pid))


def start_time(pid: int) -> int:
    """The start time of a process in ticks since boot; -1 when it is gone or only a zombie."""
    try:
        fields = (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return -1
    return -1 if fields[0] == "Z" else int(fields[19])


def holder_of_lock(path: Path) -> Process:
    """Find who holds the lock (``flock`` or ``lockf``) of a file.

    Raises:
        LookupError: nobody does.
    """
    status = path.stat()
    device = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    for line in (PROC / "locks").read_text().splitlines():
        words = line.split()
        # number, kind, mode, access, pid, device and inode; "->" marks one that waits
        if device in words and "->" not in words:
            return process(int(words[4]))
    raise LookupError(f"nobody holds {path}")


def listener_on(port: int) -> Process:
    """Find who listens on a TCP port of the host's loopback.

    Raises:
        LookupError: nobody does.
    """
    return listeners_on(port)[0]


def listeners_on(port: int) -> list[Process]:
    """Find all who hold the listener of a TCP port of the host's loopback.

    Raises:
        LookupError: nobody does.
    """
    inodes = set()
    for table in ("tcp", "tcp6"):
        for line in (PROC / "net" / table).read_text().splitlines()[1:]:
            words = line.split()
            if words[3] == _LISTENING and int(words[1].rpartition(":")[2], 16) == port:
                inodes.add(f"socket:[{words[9]}]")
    pids = (int(entry.name) for entry in PROC.iterdir() if entry.name.isdigit())
    found = [process(pid) for pid in pids if inodes & _links(PROC / str(pid) / "fd")]
    if not found:
        raise LookupError(f"nobody listens on port {port}")
    return found


def _links(directory: Path) -> set[str]:
    found = set()
    with contextlib.suppress(OSError):
        for path in directory.iterdir():
            with contextlib.suppress(OSError):
                found.add(str(path.readlink()))
    return found
