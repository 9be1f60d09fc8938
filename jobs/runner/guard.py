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
import sys
import time

from jobs.runner import cgroup, linux, locks, message, record
from jobs.runner.network import Slot, take_slot
from jobs.runner.report import Reporter

ENDING_SIGNALS = (_signal.SIGTERM, _signal.SIGINT)
_BACKLOG = 512
_LAST_REPORT_SECONDS = 2.0
_LOCK_WAIT_SECONDS = 0.5
_LEFT_BY_THE_LAST_RUN = ("exit.json", "sock", "agent.log")


class Runner:
    """What guard and holder share: the record of this start, its lock, slot and listeners."""

    gate: _socket.socket
    doorbell: _socket.socket
    slot: Slot

    def __init__(self, directory: str, job: str) -> None:
        """Take the sandbox's run directory, made if it is not there, and write the job into it.

        Raises:
            OSError: another runner holds the sandbox.
        """
        self.directory = directory
        self.incarnation = os.urandom(16).hex()
        self.lock_fd = _take(directory)
        for name in _LEFT_BY_THE_LAST_RUN:
            if os.path.lexists(f"{directory}/{name}"):
                os.unlink(f"{directory}/{name}")
        self.job = record.write_job(directory, job)

    def open(self) -> None:
        """Open what it listens on, and take a slot.

        Raises:
            OSError: the gate's port is taken, or every slot.
        """
        address, port = self.job.address, self.job.port
        try:
            self.gate = _listen(_socket.AF_INET, (address, port))
        except OSError as error:
            raise OSError(
                f"the gate cannot listen on {address}:{port}: {error.strerror}"
            ) from error
        fd = os.open(self.directory, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY)
        # Shorter than the 108 bytes that a socket's path may have.
        self.doorbell = _listen(_socket.AF_UNIX, f"/proc/self/fd/{fd}/sock")
        os.close(fd)
        self.slot = take_slot()

    def head(self, node: record.Node) -> message.Head:
        """Name this start of the sandbox, as messages do."""
        job = self.job
        return message.Head(node.name, job.sandbox_id, job.generation, self.incarnation, 0)

    def report(self, node: record.Node) -> Reporter:
        """Begin to report; the first report claims this start of the sandbox."""
        reporter = Reporter(self.job.control_url, node.key, self.head(node))
        reporter.send("assign")
        return reporter

    def end(self, reason: str, code: int, reached: str, reporter: Reporter | None = None) -> None:
        """Say how this run ended: to control, for a short while, and in the run directory."""
        try:
            reporter = reporter or self.report(record.read_node(self.job.data))
        except OSError as error:
            sys.stderr.write(f"runner: control cannot be told: {error}\n")
        else:
            reporter.send("exit", reason=reason, code=code, reached=reached)
            reporter.drain(_LAST_REPORT_SECONDS)
        record.write_exit(self.directory, self.job, self.incarnation, reason, code, reached)


def _take(directory: str) -> int:
    """Lock a run directory; others hold its lock for a moment, too, to see whether it is held."""
    deadline = time.monotonic() + _LOCK_WAIT_SECONDS
    while True:
        os.makedirs(directory, mode=0o700, exist_ok=True)
        try:
            fd = locks.take(f"{directory}/lock")
        except FileNotFoundError:
            continue  # removed between the two calls
        if fd is not None:
            return fd
        if time.monotonic() > deadline:
            raise OSError("another runner holds this sandbox")
        time.sleep(0.01)


def _listen(family: int, address: tuple[str, int] | str) -> _socket.socket:
    listener = _socket.socket(family, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
    listener.setsockopt(_socket.SOL_SOCKET, _socket.SO_REUSEADDR, 1)
    listener.bind(address)
    listener.listen(_BACKLOG)
    return listener


def run(directory: str, job: str) -> int:
    """Hold the sandbox of ``job``, a JSON object, until it ends; return the exit code.

    What it keeps for that is in ``directory``.
    """
    # Held back until there is somebody to take them: they ask for an orderly end.
    _signal.pthread_sigmask(_signal.SIG_BLOCK, ENDING_SIGNALS)
    try:
        runner = Runner(directory, job)
    except OSError as error:
        sys.stderr.write(f"runner: {error}\n")
        return 1
    try:
        runner.open()
    except OSError as error:
        sys.stderr.write(f"runner: {error}\n")
        runner.end(str(error), 1, "assign")
        return 1
    os.chdir("/")
    linux.unshare(linux.CLONE_NEWPID | linux.CLONE_NEWNS)
    holder = os.fork()
    if holder == 0:
        linux.prctl(linux.PR_SET_PDEATHSIG, linux.SIGKILL)
        from jobs.runner import holder as holder_module

        os._exit(holder_module.hold(runner))
    runner.gate.close()
    runner.doorbell.close()
    for signal in ENDING_SIGNALS:
        _signal.signal(signal, lambda *_: os.kill(holder, _signal.SIGTERM))
    _signal.pthread_sigmask(_signal.SIG_UNBLOCK, ENDING_SIGNALS)
    _, status = os.waitpid(holder, 0)
    code = os.waitstatus_to_exitcode(status)
    if not os.path.exists(f"{directory}/exit.json"):
        how = f"was killed by signal {-code}" if code < 0 else f"failed with code {code}"
        reason = f"the runner {how}"
        record.write_exit(directory, runner.job, runner.incarnation, reason, code, "unknown")
    cgroup.remove(runner.job.sandbox_id)
    return abs(code)
