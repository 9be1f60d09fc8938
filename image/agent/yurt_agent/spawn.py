"""Start programs for the sandbox's user, wait for them, and end what they started.

Every program leads a session of its own. A time-out ends that session and all descendants, also
those in sessions of their own. What has made itself a daemon (its parent is the first process, its
session its own) goes on, as users of terminal multiplexers expect.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import re
import signal
import subprocess
import termios

from yurt_agent import processes
from yurt_agent.errors import BadRequestError
from yurt_agent.rights import Own

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

NOT_STARTED = -1
_SIGNAL_EXIT = 128
_CHILD_SCORE = b"500"
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_SHELLS: tuple[tuple[str, ...], ...] = (("bash",), ("sh",), ("busybox", "sh"))
_SHELL_PLACES = ("/bin", "/usr/bin")


class Program:
    """A started program; ``wait`` may be called by many.

    Attributes:
        farewell: the signal that asks it to end.
    """

    def __init__(
        self, popen: subprocess.Popen[bytes], environment: Mapping[str, str], farewell: int
    ) -> None:
        self._popen = popen
        self._environment = environment
        self.pid = popen.pid
        self.farewell = farewell
        loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[int] = loop.create_future()
        self._pidfd = os.pidfd_open(popen.pid)
        loop.add_reader(self._pidfd, self._reap)
        _running.add(self)

    def _reap(self) -> None:
        code = self._popen.poll()
        if code is None:
            return
        asyncio.get_running_loop().remove_reader(self._pidfd)
        os.close(self._pidfd)
        _running.discard(self)
        self._ended.set_result(code if code >= 0 else _SIGNAL_EXIT - code)

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return not self._ended.done()

    async def wait(self) -> int:
        """Return the exit code, 128 + n if signal n ended it."""
        return await asyncio.shield(self._ended)

    async def end(self, *, whole_session: bool = True, grace_seconds: float = 0.0) -> None:
        """End it and its descendants, also what they start meanwhile.

        Does nothing if it has ended by itself: what it then left behind, it left on purpose.

        Args:
            whole_session: also what has lost its parent but is still in its session.
            grace_seconds: time between asking and killing; 0 kills at once.
        """
        leader = processes.read(self.pid) if self.running else None
        if leader is not None:
            await _end([leader.name], whole_session, grace_seconds, self)
        if self.running:
            await asyncio.wait((self._ended,), timeout=processes.KILL_SECONDS)

    async def kill_as_root(self, targets: set[processes.Name]) -> None:
        """Kill what it started by ``sudo``, by the same means; without it, leave them."""
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        try:
            helper = start(
                ["sudo", "-n", "kill", "-KILL", *(str(name.pid) for name in targets)],
                environment=self._environment,
                cwd="/",
                streams=(null, null, null),
            )
        except OSError:
            return
        finally:
            os.close(null)
        await asyncio.wait((helper._ended,), timeout=processes.KILL_SECONDS)


_running: set[Program] = set()


async def _end(
    leaders: list[processes.Name], whole_session: bool, grace_seconds: float, asked: Program
) -> None:
    def find(known: set[processes.Name]) -> processes.Family:
        return processes.family(leaders, known, whole_session=whole_session)

    present = find(set())
    known = set(present.names)
    if grace_seconds:
        processes.send(asked.farewell, present)
        processes.send(signal.SIGCONT, present)
        known = await processes.gone(known, grace_seconds)
    refused = await processes.kill(lambda more: find(known | more))
    if refused:
        await asked.kill_as_root(refused)


async def stop_everything(grace_seconds: float) -> None:
    """End all programs at once: ask, wait, kill.

    Where we are the child of the sandbox's first process, that includes daemons, which are
    nobody's descendants any more.
    """
    asked = list(_running)
    leaders = [leader.name for p in asked if (leader := processes.read(p.pid)) is not None]

    def find(known: set[processes.Name]) -> processes.Family:
        if Own.below_init:
            return processes.everything()
        return processes.family(leaders, known, whole_session=True)

    present = find(set())
    processes.send(signal.SIGTERM, present)
    hung_up = {program.pid for program in asked if program.farewell == signal.SIGHUP}
    shells = frozenset(name for name in leaders if name.pid in hung_up)
    processes.send(signal.SIGHUP, processes.Family(shells))
    processes.send(signal.SIGCONT, present)
    left = await processes.gone(present.names, grace_seconds)
    await processes.kill(lambda more: find(left | more))
    if still := [program.wait() for program in asked if program.running]:
        await asyncio.wait(map(asyncio.ensure_future, still), timeout=processes.KILL_SECONDS)


def start(
    command: Sequence[str],
    *,
    environment: Mapping[str, str],
    cwd: str,
    streams: tuple[int, int, int],
    terminal: bool = False,
    keep: Sequence[int] = (),
) -> Program:
    """Start a program.

    Args:
        command: its words; the first is looked up in the environment's ``PATH``.
        environment: its whole environment.
        cwd: an existing directory.
        streams: descriptors of its standard input, output and error.
        terminal: its standard input is a terminal, which is to be the one of its session. That
            costs a copy of our page tables: a few milliseconds.
        keep: further descriptors that it inherits.

    Raises:
        OSError: it cannot be started.
    """
    stdin, stdout, stderr = streams
    _set_score(_CHILD_SCORE)
    try:
        popen = subprocess.Popen(
            command,
            env=environment,
            cwd=cwd,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            start_new_session=True,
            preexec_fn=_take_terminal if terminal else None,
            pass_fds=keep,
        )
    finally:
        _set_score(Own.score)
    try:
        return Program(popen, environment, signal.SIGHUP if terminal else signal.SIGTERM)
    except OSError:  # we have no descriptor left to wait by
        popen.kill()
        popen.wait()
        raise


def _take_terminal() -> None:
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def _set_score(score: bytes) -> None:
    """Choose whom a child shall be like, for the kernel's choice; a refusal changes nothing."""
    if Own.score_fd >= 0:
        try:
            os.pwrite(Own.score_fd, score, 0)
        except OSError:
            Own.score_fd = -1


def shell(environment: Mapping[str, str]) -> list[str]:
    """Return the words that start the first usable shell.

    Raises:
        BadRequestError: the image has none.
    """
    places = [p for p in environment.get("PATH", "").split(":") if p.startswith("/")]
    for name, *more in _SHELLS:
        for place in (*places, *_SHELL_PLACES):
            path = f"{place}/{name}"
            if os.access(path, os.X_OK) and os.path.isfile(path):
                return [path, *more]
    raise BadRequestError("the image has no shell: no bash, sh or busybox in its PATH or /bin")


def check_text(name: str, value: str) -> str:
    """Return what can be given to a program as it is.

    Raises:
        BadRequestError: it holds what no argument and no variable can.
    """
    try:
        encoded = os.fsencode(value)
    except UnicodeEncodeError:
        raise BadRequestError(f"{name} contains half of a surrogate pair") from None
    if b"\0" in encoded:
        raise BadRequestError(f"{name} contains a NUL byte")
    return value


def check_environment(names: Mapping[str, str]) -> None:
    """Refuse names and values that no program could be given.

    Raises:
        BadRequestError: names the variable.
    """
    for name, value in names.items():
        if not _NAME.match(name):
            raise BadRequestError(
                f"invalid environment variable name {name!r}: use letters, digits and _"
            )
        check_text(f"the environment variable {name}", value)


def check_cwd(cwd: str, workdir: str) -> str:
    """Return the absolute directory to start in.

    Raises:
        BadRequestError: it is not a directory, or may not be entered.
    """
    path = os.path.join(workdir, check_text("cwd", cwd)) if cwd else workdir
    if not os.path.isdir(path):
        raise BadRequestError(
            f"the working directory {cwd or workdir!r} is no directory that exists"
        )
    if not os.access(path, os.X_OK):
        raise BadRequestError(f"the working directory {cwd or workdir!r} may not be entered")
    return path
