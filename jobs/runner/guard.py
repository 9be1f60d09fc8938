"""The outer process of a runner: whatever dies, nothing of the sandbox stays.

The guard makes a pid and a mount namespace and waits. Its one child, the holder, is the first
process in them and dies with the guard (parent-death signal); when the first process of a pid
namespace dies, the kernel kills the rest, and with the last process the mounts, the loop device and
the network namespace go. Only empty control groups stay, which the guard removes; it can start no
process by then.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import _socket
import os

from jobs.runner import cgroup, linux, locks, record
from jobs.runner.network import Slot, take_slot

_BACKLOG = 512


class Runner:
    """What guard and holder share: the record of this start, its lock, slot and listeners."""

    def __init__(self, directory: str) -> None:
        """Take the lock of the sandbox's run directory and open what it listens on.

        Raises:
            OSError: another runner holds the sandbox, or the gate's port is taken.
        """
        self.directory = directory
        self.directory_fd = os.open(directory, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY)
        self.job = record.read_job(directory)
        self.incarnation = os.urandom(16).hex()
        self.lock_fd = os.open(f"{directory}/lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        if not locks.try_lock(self.lock_fd):
            raise OSError("another runner holds this sandbox")
        self.gate = _listen(_socket.AF_INET, (self.job.address, self.job.port))
        self.doorbell = self._listen_for_scheduler()
        self.slot: Slot = take_slot(self.job.subnet)

    def _listen_for_scheduler(self) -> _socket.socket:
        path = f"/proc/self/fd/{self.directory_fd}/sock"  # shorter than a socket path's 108 bytes
        if os.path.lexists(path):
            os.unlink(path)
        return _listen(_socket.AF_UNIX, path)

    def end(self, reason: str, code: int, phase: str) -> None:
        """Leave word of how this run ended, unless the holder has done so already."""
        if not os.path.exists(f"{self.directory}/exit.json"):
            record.write_exit(self.directory, self.job, self.incarnation, reason, code, phase)


def _listen(family: int, address: tuple[str, int] | str) -> _socket.socket:
    listener = _socket.socket(family, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
    listener.setsockopt(_socket.SOL_SOCKET, _socket.SO_REUSEADDR, 1)
    listener.bind(address)
    listener.listen(_BACKLOG)
    return listener


def run(directory: str) -> int:
    """Hold the sandbox whose job is in ``directory`` until it ends; return the exit code."""
    runner = Runner(directory)
    linux.unshare(linux.CLONE_NEWPID | linux.CLONE_NEWNS)
    holder = os.fork()
    if holder == 0:
        linux.prctl(linux.PR_SET_PDEATHSIG, linux.SIGKILL)
        from jobs.runner import holder as holder_module

        os._exit(holder_module.hold(runner))
    runner.gate.close()
    runner.doorbell.close()
    for signal in (_signal.SIGTERM, _signal.SIGINT):
        _signal.signal(signal, lambda *_: os.kill(holder, _signal.SIGTERM))
    _, status = os.waitpid(holder, 0)
    code = os.waitstatus_to_exitcode(status)
    how = f"was killed by signal {-code}" if code < 0 else f"failed with code {code}"
    runner.end(f"the runner {how}", code, "unknown")  # nothing, if the holder left word itself
    cgroup.remove(runner.job.sandbox_id)
    return abs(code)
