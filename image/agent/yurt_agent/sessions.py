"""Sessions: a long-lived shell each, whose commands run one after the other in that very shell.

The shell reads one line for each command: it sources the command's file with its streams turned
to pipes of the command's own, so that ``cd`` and exports stay, and then writes the exit code to a
pipe. If the command ends the shell (``exit 3``) or replaces it (``exec server``), the end of that
process is the end of the command, and the next one gets a new shell.
"""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress

from yurt_agent import processes, spawn
from yurt_agent.commands import NOT_RUN, Command, Directory
from yurt_agent.errors import BadRequestError, ConflictError, NotFoundError, UnavailableError
from yurt_agent.marks import STDERR
from yurt_agent.spool import Log

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Coroutine, Sequence

    from yurt_agent.user import Identity

ENTRYPOINT, ENTRYPOINT_COMMAND = "entrypoint", "entrypoint_command"

KEPT_COMMANDS = 1000
"""Commands of a session that are remembered."""

IDLE_SHELLS = 256
"""Shells that may wait for a next command; of more, the longest idle ones are let go."""

GRACE_SECONDS = 1.0
"""Time between asking a deleted session's processes to end and killing them."""

_directory = Directory()
_with_shell: dict[Session, None] = {}


class Session:
    """A shell and its commands; the shell starts with the first of them."""

    def __init__(self, name: str, identity: Identity, cwd: str) -> None:
        """Begin; ``cwd`` is where each new shell starts."""
        self.id = name
        self.commands: dict[str, Command] = {}
        self._identity, self._cwd = identity, cwd
        self._shell: spawn.Program | None = None
        self._orders = -1
        self._turn = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()

    def describe(self) -> dict[str, object]:
        """Return it as the wire shows it."""
        commands = [command.describe() for command in self.commands.values()]
        return {"sessionId": self.id, "commands": commands}

    def command(self, name: str) -> Command:
        """Return a command.

        Raises:
            NotFoundError: there is none of that id.
        """
        if name not in self.commands:
            raise NotFoundError(f"command {name!r} not found in session {self.id!r}")
        return self.commands[name]

    def run(self, text: str, *, interactive: bool) -> Command:
        """Queue a command behind those that were given before.

        Raises:
            BadRequestError: it is the entrypoint's session, which has no shell.
        """
        if self.id == ENTRYPOINT:
            raise BadRequestError("the entrypoint's session takes no commands; create another one")
        command = Command(os.urandom(12).hex(), text, interactive=interactive)
        self._keep(command)
        self._do(self._run(command))
        return command

    def _keep(self, command: Command) -> None:
        self.commands[command.id] = command
        if len(self.commands) > KEPT_COMMANDS:
            old = next((c for c in self.commands.values() if c.exit_code is not None), None)
            if old is not None:
                del self.commands[old.id]
                old.abandon()

    def _do(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self, command: Command) -> None:
        async with self._turn:
            try:
                shell = self._living_shell()
                line = command.prepare(f"{_directory.path()}/{command.id[:8]}")
            except (OSError, BadRequestError, UnavailableError) as error:
                command.take(STDERR, f"the command could not be run: {error}\n".encode())
                command.end(NOT_RUN)
                return
            with suppress(BrokenPipeError):  # the shell has just ended: its exit code tells
                os.write(self._orders, line.encode())  # far below what a pipe takes at once
            ended = asyncio.ensure_future(shell.wait())
            try:
                await asyncio.wait({command.reported, ended}, return_when=asyncio.FIRST_COMPLETED)
                command.end(ended.result() if ended.done() else NOT_RUN)
            finally:
                ended.cancel()
                _directory.release()

    def _living_shell(self) -> spawn.Program:
        if self._shell is None or not self._shell.running:
            self._close_orders()
            _let_idle_shells_go()
            read, self._orders = os.pipe()
            null = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
            try:
                self._shell = spawn.start(
                    spawn.shell(self._identity.environment),
                    environment=self._identity.environment,
                    cwd=self._cwd if os.path.isdir(self._cwd) else "/",
                    streams=(read, null, null),
                )
            finally:
                os.close(read)
                os.close(null)
        _with_shell.pop(self, None)
        _with_shell[self] = None  # the last one: most recently used
        return self._shell

    @property
    def idle_shell(self) -> int:
        """The pid of a shell that waits for its next command, else 0."""
        waits = self._shell is not None and self._shell.running and not self._turn.locked()
        return self._shell.pid if waits and self._shell is not None else 0

    def let_shell_go(self) -> None:
        """End an idle shell as if its input had ended; a next command gets a new one."""
        self._close_orders()
        self._shell = None
        _with_shell.pop(self, None)

    def _close_orders(self) -> None:
        if self._orders >= 0:
            os.close(self._orders)
            self._orders = -1

    async def close(self) -> None:
        """End the shell and what hangs below it; what has lost its parent lives on."""
        _with_shell.pop(self, None)
        waiting = list(self._tasks)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        if self._shell is not None:
            await self._shell.end(whole_session=False, grace_seconds=GRACE_SECONDS)
        for command in self.commands.values():
            command.abandon()
        _directory.release()
        self._close_orders()


def _let_idle_shells_go() -> None:
    """Make room for one more shell; those with children are at work in the background."""
    excess = len(_with_shell) + 1 - IDLE_SHELLS
    if excess <= 0:
        return
    parents = {process.parent for process in processes.living().values()}
    for session in list(_with_shell):
        if excess > 0 and session.idle_shell and session.idle_shell not in parents:
            session.let_shell_go()
            excess -= 1


class Entrypoint(Session):
    """The image's own program as a session of one command, without a shell around it."""

    def start(self, words: Sequence[str]) -> None:
        """Start it; one that cannot be started ends with code -1 and says so in its log."""
        command = Command(ENTRYPOINT_COMMAND, " ".join(words))
        self._keep(command)
        null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        read_out, out = os.pipe()
        read_err, err = os.pipe()
        command.read_from(read_out, read_err)
        try:
            self._shell = spawn.start(
                words,
                environment=self._identity.environment,
                cwd=self._cwd,
                streams=(null, out, err),
            )
        except OSError as error:
            command.take(STDERR, f"{words[0]}: {error.strerror}\n".encode())
            command.end(NOT_RUN)
        else:
            self._do(self._until_end(command, self._shell))
        finally:
            for fd in (null, out, err):
                os.close(fd)

    async def _until_end(self, command: Command, program: spawn.Program) -> None:
        command.end(await program.wait())


class Sessions:
    """All sessions of the sandbox."""

    def __init__(self) -> None:
        self._sessions: dict[str, Session] = {}

    def listed(self) -> list[Session]:
        """Return those that clients have made."""
        return [s for s in self._sessions.values() if s.id != ENTRYPOINT]

    def get(self, name: str) -> Session:
        """Return a session.

        Raises:
            NotFoundError: there is none of that id.
        """
        if name not in self._sessions:
            raise NotFoundError(f"session {name!r} not found")
        return self._sessions[name]

    def described(self, name: str) -> dict[str, object]:
        """Return a session as the wire shows it.

        SDKs find the entrypoint's in every sandbox; without an entrypoint it has no command.

        Raises:
            NotFoundError: there is none of that id.
        """
        if name == ENTRYPOINT and name not in self._sessions:
            return {"sessionId": ENTRYPOINT, "commands": []}
        return self.get(name).describe()

    def entrypoint_log(self) -> Log:
        """Return what the entrypoint has said; nothing, and no more, without one."""
        if ENTRYPOINT in self._sessions:
            return self._sessions[ENTRYPOINT].command(ENTRYPOINT_COMMAND).log
        log = Log()
        log.finish()
        return log

    def create(self, name: str, identity: Identity, cwd: str) -> None:
        """Make a session.

        Raises:
            ConflictError: the id is taken.
            BadRequestError: the image has no shell.
        """
        if name in self._sessions or name == ENTRYPOINT:
            raise ConflictError(f"session {name!r} already exists")
        spawn.shell(identity.environment)
        self._sessions[name] = Session(name, identity, cwd)

    def start_entrypoint(self, identity: Identity, words: Sequence[str]) -> None:
        """Start the image's own program."""
        entrypoint = Entrypoint(ENTRYPOINT, identity, identity.workdir)
        self._sessions[ENTRYPOINT] = entrypoint
        entrypoint.start(words)

    async def delete(self, name: str) -> None:
        """End a session; what has made itself a daemon lives on.

        Raises:
            NotFoundError: there is none of that id.
            BadRequestError: it is the entrypoint's, which ends with the sandbox.
        """
        session = self.get(name)
        if name == ENTRYPOINT:
            raise BadRequestError("the entrypoint's session ends with the sandbox")
        del self._sessions[name]
        await asyncio.shield(session.close())


SESSIONS = Sessions()
