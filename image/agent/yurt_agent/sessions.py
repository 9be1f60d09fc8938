"""Sessions: a long-lived shell each, whose commands run one after the other in that very shell.

The shell reads one line for each command: it sources the command's file with its streams turned
to pipes of the command's own, so that ``cd`` and exports stay, and then writes the exit code to a
pipe. If the command ends the shell (``exit 3``) or replaces it (``exec server``), the end of that
process is the end of the command, and the next one gets a new shell.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from contextlib import suppress

from yurt_agent import spawn
from yurt_agent.errors import ConflictError, GoneError, NotFoundError, UnavailableError
from yurt_agent.spool import Spool

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from yurt_agent.user import Identity

ENTRYPOINT, ENTRYPOINT_COMMAND = "entrypoint", "entrypoint_command"
_PLACES = ("/tmp", "/var/tmp", "/dev/shm")
_STATUS_READ = 4096


class Command:
    """One command of a session and its log."""

    def __init__(self, name: str, text: str, path: str, *, interactive: bool) -> None:
        self.id, self.text, self.path = name, text, path
        self.interactive = interactive
        self.exit_code: int | None = None
        self.spool = Spool(path)
        self._ended = asyncio.Event()
        self._input = -1
        if interactive:
            os.mkfifo(f"{path}.in", 0o600)
            self._input = os.open(f"{path}.in", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)

    def describe(self) -> dict[str, object]:
        """Return it as the wire shows it; without an exit code while it runs."""
        shown: dict[str, object] = {"id": self.id, "command": self.text}
        if self.exit_code is not None:
            shown["exitCode"] = self.exit_code
        return shown

    def end(self, code: int) -> None:
        """Note that it has ended."""
        if self.exit_code is None:
            self.exit_code = code
            self.spool.finish()
            self._close_input()
            self._ended.set()

    async def wait(self) -> int:
        """Return the exit code."""
        await self._ended.wait()
        assert self.exit_code is not None
        return self.exit_code

    def write(self, data: str) -> None:
        """Type a line into its standard input.

        Raises:
            GoneError: it has ended, or takes no input.
            UnavailableError: it does not read what was typed before.
        """
        if self._input < 0:
            raise GoneError(
                f"command {self.id} has ended or takes no input", code="COMMAND_ALREADY_COMPLETED"
            )
        line = data if data.endswith("\n") else f"{data}\n"
        try:
            os.write(self._input, line.encode())
        except BlockingIOError:
            raise UnavailableError(f"command {self.id} does not read its input") from None

    def _close_input(self) -> None:
        if self._input >= 0:
            os.close(self._input)
            self._input = -1

    def close(self) -> None:
        """Let go of everything."""
        self.end(spawn.NOT_STARTED)
        self.spool.close()


class Session:
    """A shell and its commands; ``cwd`` is where each new shell starts."""

    def __init__(self, name: str, directory: str, identity: Identity, cwd: str) -> None:
        self.id = name
        self.commands: dict[str, Command] = {}
        self._directory, self._identity, self._cwd = directory, identity, cwd
        self._shell: spawn.Program | None = None
        self._orders = -1
        self._turn = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self._statuses: dict[str, asyncio.Future[int]] = {}
        self._received = b""
        self._closed = False
        os.mkdir(directory, 0o700)
        os.mkfifo(f"{directory}/status", 0o600)
        flags = os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC
        self._status = os.open(f"{directory}/status", flags)
        asyncio.get_running_loop().add_reader(self._status, self._read_status)

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
        """Queue a command behind those that were given before."""
        name = os.urandom(12).hex()
        command = Command(name, text, f"{self._directory}/{name}", interactive=interactive)
        self.commands[name] = command
        task = asyncio.get_running_loop().create_task(self._run(command))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return command

    async def _run(self, command: Command) -> None:
        async with self._turn:
            shell = self._living_shell()
            if shell is None:
                command.end(spawn.NOT_STARTED)
                return
            _write_text(command.path, command.text + "\n")
            ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
            self._statuses[command.id] = ended
            self._order(command)
            gone = asyncio.ensure_future(shell.wait())
            await asyncio.wait({ended, gone}, return_when=asyncio.FIRST_COMPLETED)
            self._read_status()  # the shell may have written the code and ended right after
            del self._statuses[command.id]
            command.end(ended.result() if ended.done() else gone.result())
            gone.cancel()

    def _living_shell(self) -> spawn.Program | None:
        if self._closed:
            return None
        if self._shell is None or not self._shell.running:
            if self._orders >= 0:
                os.close(self._orders)
            read, self._orders = os.pipe()
            null = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
            try:
                self._shell = spawn.start(
                    [spawn.shell(self._identity.environment)],
                    environment=self._identity.environment,
                    cwd=self._cwd if os.path.isdir(self._cwd) else "/",
                    streams=(read, null, null),
                )
            finally:
                os.close(read)
                os.close(null)
        return self._shell

    def _order(self, command: Command) -> None:
        """Tell the shell what to run.

        ``command .`` keeps a syntax error in the file from ending shells that follow POSIX to
        the letter.
        """
        path = command.path
        stdin = f"{path}.in" if command.interactive else os.devnull
        line = (
            f"command . '{path}' <'{stdin}' >'{path}.out' 2>'{path}.err'; "
            f"echo \"{command.id} $?\" >'{self._directory}/status'\n"
        )
        with suppress(BrokenPipeError):  # the shell has just ended: its exit code tells
            os.write(self._orders, line.encode())  # below a pipe's capacity: does not wait

    def _read_status(self) -> None:
        try:
            self._received += os.read(self._status, _STATUS_READ)
        except (BlockingIOError, OSError):
            return
        *lines, self._received = self._received.split(b"\n")
        for line in lines:
            name, _, code = line.decode("ascii", "replace").partition(" ")
            ended = self._statuses.get(name)
            if ended is not None and not ended.done() and code.isdigit():
                ended.set_result(int(code))

    async def close(self, grace_seconds: float = 0) -> None:
        """Kill the shell and what hangs below it; after ``grace_seconds`` of SIGTERM, if any."""
        self._closed = True
        shell = self._shell
        if shell is not None and shell.running:
            if grace_seconds:
                for pid in spawn.tree(shell.pid, whole_session=True):
                    _terminate(pid)
                with suppress(TimeoutError):
                    await asyncio.wait_for(shell.wait(), grace_seconds)
            # Not the whole session: what has lost its parent was left running on purpose.
            await shell.kill_tree(whole_session=False)
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for command in self.commands.values():
            command.close()
        asyncio.get_running_loop().remove_reader(self._status)
        os.close(self._status)
        if self._orders >= 0:
            os.close(self._orders)
        shutil.rmtree(self._directory, ignore_errors=True)


def _write_text(path: str, text: str) -> None:
    with open(path, "w", encoding="utf-8", errors="surrogateescape") as file:
        file.write(text)


def _terminate(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGTERM)
    except (ProcessLookupError, PermissionError):
        return


class Entrypoint(Session):
    """The image's own program as a session of one command, without a shell around it."""

    def start(self, words: Sequence[str]) -> None:
        """Start it; one that cannot be started ends with code -1 and says so in its log."""
        path = f"{self._directory}/{ENTRYPOINT_COMMAND}"
        command = Command(ENTRYPOINT_COMMAND, " ".join(words), path, interactive=False)
        self.commands[command.id] = command
        null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        out = os.open(command.spool.out_path, os.O_WRONLY | os.O_CLOEXEC)
        err = os.open(command.spool.err_path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            self._shell = spawn.start(
                words,
                environment=self._identity.environment,
                cwd=self._cwd,
                streams=(null, out, err),
            )
        except OSError as error:
            os.write(err, f"{words[0]}: {error.strerror}\n".encode())
            command.end(spawn.NOT_STARTED)
        else:
            task = asyncio.get_running_loop().create_task(self._until_end(command, self._shell))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        finally:
            for fd in (null, out, err):
                os.close(fd)

    async def _until_end(self, command: Command, program: spawn.Program) -> None:
        command.end(await program.wait())


class Sessions:
    """All sessions of the sandbox, below one private directory."""

    def __init__(self) -> None:
        self._sessions: dict[str, Session] = {}
        self._directory = ""

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

    def create(self, name: str, identity: Identity, cwd: str) -> Session:
        """Make a session; its shell starts with its first command.

        Raises:
            ConflictError: the id is taken.
        """
        if name in self._sessions or name == ENTRYPOINT:
            raise ConflictError(f"session {name!r} already exists")
        spawn.shell(identity.environment)
        session = Session(name, self._new_directory(), identity, cwd)
        self._sessions[name] = session
        return session

    def start_entrypoint(self, identity: Identity, words: Sequence[str]) -> None:
        """Start the image's own program."""
        entrypoint = Entrypoint(ENTRYPOINT, self._new_directory(), identity, identity.workdir)
        self._sessions[ENTRYPOINT] = entrypoint
        entrypoint.start(words)

    def _new_directory(self) -> str:
        if not self._directory:
            place = next((p for p in _PLACES if os.access(p, os.W_OK)), "")
            if not place:
                raise UnavailableError(f"none of {', '.join(_PLACES)} can be written to")
            path = f"{place}/.yurt-{os.urandom(8).hex()}"
            os.mkdir(path, 0o700)
            self._directory = path
        return f"{self._directory}/{os.urandom(8).hex()}"

    async def delete(self, name: str, grace_seconds: float = 0) -> None:
        """End a session; what has made itself a daemon lives on."""
        session = self.get(name)
        del self._sessions[name]
        await session.close(grace_seconds)

    async def stop_everything(self, grace_seconds: float) -> None:
        """End every session and leave no file behind."""
        names = list(self._sessions)
        await asyncio.gather(*(self.delete(name, grace_seconds) for name in names))
        if self._directory:
            shutil.rmtree(self._directory, ignore_errors=True)
            self._directory = ""


SESSIONS = Sessions()
