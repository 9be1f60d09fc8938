"""One command of a session: its text, its pipes, its log and its exit code.

The pipes have names, so that a shell that has long been running can open them for this command
alone. They live in a private directory, in memory where the image has a place for that.
"""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from functools import partial

from yurt_agent.errors import GoneError, UnavailableError
from yurt_agent.marks import STDERR, STDOUT, Marker
from yurt_agent.pipes import Sink, Source
from yurt_agent.spool import Log

NOT_RUN = -1
LONGEST_TEXT = 16 << 10
"""Characters of a command's text that are kept once it has ended."""

_PLACES = ("/dev/shm", "/tmp", "/var/tmp")
_SUFFIXES = (".sh", ".in", ".out", ".err", ".code")


class Directory:
    """The private directory: there while something is in it, whatever others do to it."""

    def __init__(self) -> None:
        self._path = ""

    def path(self) -> str:
        """Return its path.

        Raises:
            UnavailableError: there is no place for it.
        """
        if self._path and os.path.isdir(self._path):
            return self._path
        for place in _PLACES:
            path = f"{place}/.yurt-{os.urandom(4).hex()}"
            try:
                os.mkdir(path, 0o700)
            except OSError:
                continue
            self._path = path
            return path
        raise UnavailableError(f"none of {', '.join(_PLACES)} can be written to")

    def release(self) -> None:
        """Remove it if nothing is in it."""
        with suppress(OSError):
            os.rmdir(self._path)


class Command:
    """See the module; an interactive one has a standard input to type into."""

    def __init__(self, name: str, text: str, *, interactive: bool = False) -> None:
        self.id, self.text = name, text
        self.interactive = interactive
        self.exit_code: int | None = None
        self.abandoned = False
        self.log = Log(STDERR)
        self.reported: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._marker = Marker()
        self._sources: list[Source] = []
        self._report: Source | None = None
        self._input: Sink | None = None
        self._path = ""
        self._begun = asyncio.Event()
        self._ended = asyncio.Event()

    def describe(self) -> dict[str, object]:
        """Return it as the wire shows it; without an exit code while it runs."""
        shown: dict[str, object] = {"id": self.id, "command": self.text}
        if self.exit_code is not None:
            shown["exitCode"] = self.exit_code
        return shown

    def prepare(self, path: str) -> str:
        """Make its files and pipes; return the line for the shell that runs it.

        Args:
            path: of its files, without their suffixes; needs no quotes.
        """
        self._path = path
        with open(f"{path}.sh", "w", encoding="utf-8", errors="surrogateescape") as file:
            file.write(self.text + "\n")
        for suffix, stream in ((".out", STDOUT), (".err", STDERR)):
            self._sources.append(Source.named(path + suffix, partial(self.take, stream)))
        self._report = Source.named(f"{path}.code", self._take_code)
        stdin = os.devnull
        if self.interactive:
            stdin = f"{path}.in"
            os.mkfifo(stdin, 0o600)
            # For reading, too: what is typed before the command opens it waits for it.
            self._input = Sink(os.open(stdin, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC))
        self._begun.set()
        # "command" keeps an error in the file from ending shells that follow POSIX to the
        # letter, and a function named "echo" from taking its place. Should the pipe have been
        # removed, the end of the shell is the end of the command.
        return (
            f"command . {path}.sh <{stdin} >{path}.out 2>{path}.err; "
            f'command echo "$?" >{path}.code || exit\n'
        )

    def read_from(self, out: int, err: int) -> None:
        """Take output from two pipes instead of named ones."""
        for fd, stream in ((out, STDOUT), (err, STDERR)):
            self._sources.append(Source(fd, partial(self.take, stream)))

    def take(self, stream: bytes, data: bytes) -> None:
        """Log output."""
        self.log.append(self._marker.mark(stream, data))

    def _take_code(self, data: bytes) -> None:
        text = data.strip()
        if text.isdigit() and not self.reported.done():
            self.reported.set_result(int(text))

    def end(self, code: int) -> None:
        """Note that it has ended, unless it had before; a code that it reported itself counts.

        Children that it left running may go on printing to its log.
        """
        if self.exit_code is not None:
            return
        if self._report is not None:
            self._report.drain()
            self._report.close()
        self.exit_code = self.reported.result() if self.reported.done() else code
        for source in self._sources:
            source.drain()
        self._remove_files()
        self.log.finish()
        if self._input is not None:
            self._input.close()
        self.text = self.text[:LONGEST_TEXT]
        self._begun.set()
        self._ended.set()

    def _remove_files(self) -> None:
        if not self._path:
            return
        for suffix in (".out", ".err"):
            # A pipe that nobody has opened for writing would never come to its end.
            with suppress(OSError):
                os.close(os.open(self._path + suffix, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC))
        for suffix in _SUFFIXES:
            with suppress(OSError):
                os.unlink(self._path + suffix)

    async def wait(self) -> int:
        """Return the exit code.

        Raises:
            GoneError: its session was deleted before it ended.
        """
        await self._ended.wait()
        if self.abandoned or self.exit_code is None:
            raise GoneError(f"the session of command {self.id} was deleted", code="SESSION_ENDED")
        return self.exit_code

    async def type(self, data: str) -> None:
        """Give it a line of input; waits while it does not read what came before.

        Raises:
            GoneError: it has ended, or takes no input.
        """
        line = data if data.endswith("\n") else f"{data}\n"
        if self.interactive:
            await self._begun.wait()
        if self._input is None or not await self._input.write(line.encode("utf-8", "replace")):
            raise GoneError(
                f"command {self.id} has ended or takes no input", code="COMMAND_ALREADY_COMPLETED"
            )

    def abandon(self) -> None:
        """Let go of everything; daemons that still print to it do so in vain, but unharmed."""
        self.abandoned = True
        self.end(NOT_RUN)
        for source in self._sources:
            source.ignore()
        self.log.forget()
