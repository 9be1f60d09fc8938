"""Start programs for the sandbox's user, wait for them, and kill what they started.

Every program leads a session of its own, which a time-out kills with it and its descendants. What
has made itself a daemon (its parent is the first process, its session its own) goes on, as users
of terminal multiplexers expect.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess

from yurt_agent.errors import BadRequestError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

NOT_STARTED = -1
_KILL_ROUNDS = 20
_SIGNAL_EXIT = 128
_OWN_SCORE, _CHILD_SCORE = b"0", b"500"
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_SHELLS = ("bash", "sh")
_oom_score_fd = -1


def prepare() -> None:
    """Keep a way to say whom the kernel shall kill first; needs the rights that we start with.

    At the memory limit the user's programs go before the agent, so that it can say what happened.
    """
    global _oom_score_fd  # noqa: PLW0603 - one per process, like the file behind it
    try:
        _oom_score_fd = os.open("/proc/self/oom_score_adj", os.O_WRONLY | os.O_CLOEXEC)
    except OSError:
        _oom_score_fd = -1  # no such file: the kernel then chooses by size alone


class Program:
    """A started program; ``wait`` may be called by many."""

    def __init__(self, popen: subprocess.Popen[bytes]) -> None:
        self._popen = popen
        self.pid = popen.pid
        loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[int] = loop.create_future()
        self._pidfd = os.pidfd_open(popen.pid)
        loop.add_reader(self._pidfd, self._reap)

    def _reap(self) -> None:
        code = self._popen.poll()
        if code is None:
            return
        asyncio.get_running_loop().remove_reader(self._pidfd)
        os.close(self._pidfd)
        self._ended.set_result(code if code >= 0 else _SIGNAL_EXIT - code)

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return not self._ended.done()

    async def wait(self) -> int:
        """Return the exit code, 128 + n if signal n ended it."""
        return await asyncio.shield(self._ended)

    def signal(self, number: int) -> None:
        """Send a signal to its process group, if it still runs."""
        if self.running:
            try:
                os.killpg(self.pid, number)
            except (ProcessLookupError, PermissionError):
                return

    async def kill_tree(self, *, whole_session: bool = True) -> None:
        """Kill it and its descendants, also what they start meanwhile.

        Args:
            whole_session: also what has lost its parent but is still in its session.
        """
        for _ in range(_KILL_ROUNDS):
            victims = tree(self.pid, whole_session=whole_session)
            if not victims:
                break
            for pid in victims:
                _kill(pid)
            await asyncio.sleep(0)
        if self.running:
            await self.wait()


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return  # gone, or of another user: sudo's child, which ends with its parent


def tree(leader: int, *, whole_session: bool) -> list[int]:
    """List a process and its living descendants, on demand with all of the session it leads."""
    parents: dict[int, int] = {}
    wanted = {leader}
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/stat", "rb") as file:
                state, parent, _group, session = file.read().rpartition(b")")[2].split()[:4]
        except OSError:
            continue
        if state in {b"Z", b"X"}:
            continue
        parents[int(name)] = int(parent)
        if whole_session and int(session) == leader:
            wanted.add(int(name))
    found = wanted & parents.keys()
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return sorted(found)


def start(
    command: Sequence[str],
    *,
    environment: Mapping[str, str],
    cwd: str,
    streams: tuple[int, int, int],
    before: Callable[[], None] | None = None,
    keep: Sequence[int] = (),
) -> Program:
    """Start a program.

    Args:
        command: its words; the first is looked up in the environment's ``PATH``.
        environment: its whole environment.
        cwd: an existing directory.
        streams: descriptors of its standard input, output and error.
        before: runs in the new process before the program.
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
            preexec_fn=before,
            pass_fds=keep,
        )
    finally:
        _set_score(_OWN_SCORE)
    return Program(popen)


def _set_score(score: bytes) -> None:
    if _oom_score_fd >= 0:
        os.pwrite(_oom_score_fd, score, 0)


def shell(environment: Mapping[str, str]) -> str:
    """Return the path of the first usable shell.

    Raises:
        BadRequestError: the image has none.
    """
    for name in _SHELLS:
        for directory in (*environment.get("PATH", "").split(":"), "/bin", "/usr/bin"):
            path = f"{directory}/{name}"
            if directory and os.access(path, os.X_OK):
                return path
    raise BadRequestError("the image has no shell: neither bash nor sh is in its PATH or /bin")


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
        if "\0" in value:
            raise BadRequestError(f"the environment variable {name} contains a NUL byte")


def check_cwd(cwd: str, workdir: str) -> str:
    """Return the absolute directory to start in.

    Raises:
        BadRequestError: it is not a directory, or may not be entered.
    """
    path = os.path.join(workdir, cwd) if cwd else workdir
    if "\0" in path or not os.path.isdir(path):
        raise BadRequestError(f"the working directory {cwd or workdir!r} does not exist")
    if not os.access(path, os.X_OK):
        raise BadRequestError(f"the working directory {cwd or workdir!r} may not be entered")
    return path
