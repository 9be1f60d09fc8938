"""Python that remembers: a process of the image's own Python for each context.

It starts with the first piece of code. Pieces of one context run one after the other. What they
print is held up when the client is slow; what is printed between two pieces, by threads and
children that go on, is dropped. A piece that does not end when interrupted takes its process, and
all that it remembers, with it.
"""

from __future__ import annotations

import asyncio
import codecs
import json
import os
import signal
import time
from contextlib import suppress
from functools import partial
from typing import NamedTuple

from yurt_agent import spawn
from yurt_agent.codes import python_words
from yurt_agent.errors import BadRequestError, NotFoundError, ToolboxError, timestamp
from yurt_agent.execute import memory_file
from yurt_agent.pipes import Sink, Source

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from yurt_agent.user import Identity

BEHIND = 256 << 10
"""Bytes that may wait for a client before the code is held up."""

PIECE = 64 << 10
"""Bytes of output in one message."""

INTERRUPT_SECONDS = 3.0
"""Time between interrupting code and killing its process."""

_END_SECONDS = 1.0
_DROP_SECONDS = 0.02
_LONGEST_REPORT = 8 << 20
_BOOT = (
    'exec(compile(open({source}, encoding="utf-8").read(), "<interpreter>", "exec"),'
    ' {{"__name__": "<interpreter>", "arguments": ({orders}, {reports})}})'
)
_WORKER = os.path.join(os.path.dirname(__file__), "interpreter_worker.py")


class Piece(NamedTuple):
    """Code to run, with variables of its own; ``seconds`` 0 is no limit."""

    code: str
    envs: Mapping[str, str]
    seconds: float


class Outcome(NamedTuple):
    """What became of a piece: its error, if any, and whether we ended it at its time-out."""

    error: Mapping[str, str] | None
    timed_out: bool = False


class Output:
    """What a piece prints, on its way to one client; without one it is dropped."""

    def __init__(self) -> None:
        self._sources: dict[str, Source] = {}
        self._texts: list[tuple[str, bytearray]] = []
        self._waiting = 0
        self._held = False
        self._wanted = False
        self._changed = asyncio.Event()
        self._decoders = dict[str, codecs.IncrementalDecoder]()

    def read_from(self, pipes: Mapping[str, int]) -> None:
        """Read pipes by the names of their streams; own them."""
        for name, fd in pipes.items():
            self._sources[name] = Source(fd, partial(self._take, name))

    def _take(self, name: str, data: bytes) -> None:
        if not self._wanted:
            # Whoever prints for nobody goes on, but slowly.
            self._sources[name].pause()
            asyncio.get_running_loop().call_later(_DROP_SECONDS, self._sources[name].resume)
            return
        if self._texts and self._texts[-1][0] == name:
            self._texts[-1][1].extend(data)
        else:
            self._texts.append((name, bytearray(data)))
        self._waiting += len(data)
        self._changed.set()
        if self._waiting >= BEHIND and not self._held:
            self._held = True
            for source in self._sources.values():
                source.pause()

    def _go_on(self) -> None:
        self._held = False
        for source in self._sources.values():
            source.resume()

    def begin(self) -> None:
        """Keep from now on what is printed; not what was printed before."""
        self.drain()
        self._texts.clear()
        self._waiting = 0
        self._wanted = True
        self._go_on()
        make = codecs.getincrementaldecoder("utf-8")
        self._decoders = {name: make("replace") for name in ("stdout", "stderr")}

    def drain(self) -> None:
        """Take what is in the pipes."""
        for source in self._sources.values():
            source.drain()

    def finish(self) -> None:
        """Take what is in the pipes, and nothing that comes after it."""
        self.drain()
        self._wanted = False
        self._changed.set()

    def drop(self) -> None:
        """Forget what there is: nobody will ask for it."""
        self._wanted = False
        self._texts.clear()
        self._go_on()

    async def next(self) -> list[tuple[str, str]]:
        """Return what came since, as texts by stream; empty at the end."""
        while not self._texts:
            if not self._wanted:
                tails = [(name, end.decode(b"", True)) for name, end in self._decoders.items()]
                self._decoders.clear()
                return [tail for tail in tails if tail[1]]
            self._changed.clear()
            await self._changed.wait()
        texts, self._texts, self._waiting = self._texts, [], 0
        if self._held:
            self._go_on()
        return [
            (name, self._decoders[name].decode(data[start : start + PIECE]))
            for name, data in texts
            for start in range(0, len(data), PIECE)
        ]

    def close(self) -> None:
        """Read no more."""
        self._wanted = self._held = False
        for source in self._sources.values():
            source.close()
        self._changed.set()


class Process:
    """One Python process with its pipes."""

    def __init__(self, words: Sequence[str], environment: Mapping[str, str], cwd: str) -> None:
        """Start it.

        Raises:
            OSError: it cannot be started.
        """
        self.output = Output()
        self._line = b""
        self._done: asyncio.Future[Mapping[str, str] | None] | None = None
        with open(_WORKER, encoding="utf-8") as file:
            source = memory_file(file.read())
        null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        orders, out, err, reports = (os.pipe() for _ in range(4))
        inside = (source, orders[0], reports[1])
        boot = _BOOT.format(
            source=f'"/proc/self/fd/{source}"', orders=orders[0], reports=reports[1]
        )
        self._orders = Sink(orders[1])
        self._reports = Source(reports[0], self._take)
        self.output.read_from({"stdout": out[0], "stderr": err[0]})
        try:
            self.program = spawn.start(
                [*words, "-u", "-c", boot],
                environment=environment,
                cwd=cwd,
                streams=(null, out[1], err[1]),
                keep=inside,
            )
        except OSError:
            self._close()
            raise
        finally:
            for fd in (null, out[1], err[1], *inside):
                os.close(fd)
        self._ending = asyncio.get_running_loop().create_task(self._until_end())

    def _take(self, data: bytes) -> None:
        *lines, self._line = (self._line + data).split(b"\n")
        for line in lines:
            if self._done is not None and not self._done.done():
                self._done.set_result(_reported(line))
        if len(self._line) > _LONGEST_REPORT:
            self._reports.close()  # the code writes to what is not its own

    async def _until_end(self) -> None:
        code = await self.program.wait()
        self._reports.drain()
        self.output.drain()
        if self._done is not None and not self._done.done():
            reason = f"the interpreter ended with exit code {code}; what it remembered is gone"
            self._done.set_result({"name": "InterpreterExited", "value": reason, "traceback": ""})
        self._close()

    def _close(self) -> None:
        self._orders.close()
        self._reports.close()

    async def run(self, piece: Piece) -> Outcome:
        """Run a piece; one that is cancelled or too late is interrupted, then killed."""
        self._done = asyncio.get_running_loop().create_future()
        order = {"code": piece.code, "envs": dict(piece.envs)}
        timed_out = False
        try:
            async with asyncio.timeout(piece.seconds or None):
                await self._orders.write(json.dumps(order).encode() + b"\n")
                await asyncio.wait((self._done,))
        except TimeoutError:
            timed_out = True
        finally:
            if not self._done.done():
                await asyncio.shield(self._interrupt(self._done))
        return Outcome(self._done.result(), timed_out)

    async def _interrupt(self, done: asyncio.Future[Mapping[str, str] | None]) -> None:
        """Do what Ctrl-C does in a terminal; if that does not help, end the process."""
        with suppress(ProcessLookupError):
            os.killpg(self.program.pid, signal.SIGINT)
        await asyncio.wait((done,), timeout=INTERRUPT_SECONDS)
        if not done.done():
            await self.end()

    async def end(self) -> None:
        """Kill it with all that it started."""
        await self.program.end()
        await asyncio.wait((self._ending,), timeout=_END_SECONDS)
        if self._done is not None and not self._done.done():
            self._done.set_result({"name": "InterpreterExited", "value": "", "traceback": ""})
        self.output.close()


def _reported(line: bytes) -> Mapping[str, str] | None:
    """Read a report; the code can write to where it comes from, so it may be anything."""
    try:
        error = json.loads(line)["error"]
        return error and {name: str(error[name]) for name in ("name", "value", "traceback")}
    except (ValueError, KeyError, TypeError):
        return {"name": "InterpreterError", "value": "malformed report", "traceback": ""}


class Context:
    """See the module."""

    def __init__(self, name: str, cwd: str, identity: Identity) -> None:
        self.id, self.cwd = name, cwd
        self._identity = identity
        self._created_at = timestamp(time.time())
        self._turn = asyncio.Lock()
        self._process: Process | None = None
        self._deleted = False

    def describe(self) -> dict[str, object]:
        """Return it as the wire shows it."""
        return {
            "id": self.id,
            "cwd": self.cwd,
            "createdAt": self._created_at,
            "active": not self._deleted,
            "language": "python",
        }

    @property
    def turn(self) -> asyncio.Lock:
        """Held by the piece that runs."""
        return self._turn

    def process(self) -> Process:
        """Return the process, started if there is none; to be called with the turn.

        Raises:
            NotFoundError: the context was deleted.
            BadRequestError: the image has no Python.
            ToolboxError: it cannot be started.
        """
        if self._deleted:
            raise NotFoundError(f"context {self.id!r} not found")
        if self._process is None or not self._process.program.running:
            if self._process is not None:
                self._process.output.close()
            words = python_of(self._identity)
            try:
                self._process = Process(words, self._identity.environment, self.cwd)
            except OSError as error:
                raise ToolboxError(f"Python could not be run: {error.strerror}") from error
        return self._process

    async def delete(self) -> None:
        """End its process, whatever it does."""
        self._deleted = True
        if self._process is not None:
            await self._process.end()


def python_of(identity: Identity) -> list[str]:
    """Return the words that start the image's Python.

    Raises:
        BadRequestError: it has none.
    """
    words = python_words(identity.environment)
    if not words:
        raise BadRequestError(
            "there is no python3 in the PATH of this sandbox: install it, or use a snapshot with it"
        )
    return words


class Contexts:
    """All contexts of the sandbox, and the default one, which is always there."""

    def __init__(self) -> None:
        self._contexts: dict[str, Context] = {}
        self._default: Context | None = None

    def listed(self) -> list[Context]:
        """Return those that were made by a call."""
        return list(self._contexts.values())

    def get(self, name: str, identity: Identity) -> Context:
        """Return a context; no name means the default one.

        Raises:
            NotFoundError: there is none of that id.
        """
        if not name:
            if self._default is None:
                self._default = Context("default", identity.workdir, identity)
            return self._default
        if name not in self._contexts:
            raise NotFoundError(f"context {name!r} not found")
        return self._contexts[name]

    def add(self, cwd: str, identity: Identity) -> Context:
        """Make a context in a directory that exists.

        Raises:
            BadRequestError: the image has no Python.
        """
        python_of(identity)
        context = Context(os.urandom(12).hex(), cwd, identity)
        self._contexts[context.id] = context
        return context

    async def delete(self, name: str) -> None:
        """End a context.

        Raises:
            NotFoundError: there is none of that id.
        """
        if name not in self._contexts:
            raise NotFoundError(f"context {name!r} not found")
        await asyncio.shield(self._contexts.pop(name).delete())


CONTEXTS = Contexts()
