"""Language servers of the sandbox's user: one for each language and project that was started.

What a client has started stays known until it is stopped. Its process is there only while it is
of use: one that died, was long unused or had to make room for another is started by the next
call, with the documents that were open.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import time

from yurt_agent import spawn
from yurt_agent.errors import (
    BadGatewayError,
    BadRequestError,
    BodyTooLargeError,
    ToolboxError,
    from_os_error,
)
from yurt_agent.http import in_thread
from yurt_agent.lsp_forms import CAPABILITIES, Language, file_uri, language, options
from yurt_agent.lsp_link import Link
from yurt_agent.paths import decode, open_regular
from yurt_agent.pipes import Source

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from yurt_agent.user import Identity

START_SECONDS = 60.0
REQUEST_SECONDS = 30.0
IDLE_SECONDS = 600.0
"""A server that nobody asked for this long gives its memory back (30 to 300 MB)."""

MOST_RUNNING = 4
"""Processes at once; starting one more ends the one that was unused for longest."""

MOST_OPEN = 256
"""Documents open in one server; one more closes the one that was opened first."""

DOCUMENT_BYTES = 4 << 20
_SAID_BYTES = 2 << 10
_LOOKED_AT = 20_000
"""Files that are looked at to find one of a language."""

_GRACE_SECONDS = 2.0


class Process:
    """A server's process and the connection with it."""

    def __init__(self, program: spawn.Program, link: Link, said: Source) -> None:
        self.program, self.link, self._said = program, link, said

    async def end(self) -> None:
        """End it and what it has started."""
        if self.program.running:
            try:
                await self.link.request("shutdown", None, _GRACE_SECONDS)
                await self.link.notify("exit", None)
            except ToolboxError:
                pass  # it is made to, then
        self.link.close()
        await asyncio.shield(self.program.end(grace_seconds=_GRACE_SECONDS))
        self._said.close()


class Server:
    """The server of one language and project; see the module."""

    def __init__(self, name: str, project: bytes, identity: Identity) -> None:
        self._name, self._project, self._identity = name, project, identity
        self._language: Language = language(name)
        self._turn = asyncio.Lock()
        self._process: Process | None = None
        self._documents: dict[bytes, tuple[int, int]] = {}
        self._users = 0
        self._last_words = b""
        self._stopped = False
        self.used = time.monotonic()

    @property
    def running(self) -> bool:
        """Whether it has a process."""
        process = self._process
        return process is not None and process.program.running and not process.link.ended

    @property
    def busy(self) -> bool:
        """Whether somebody waits for it."""
        return self._users > 0

    async def start(self) -> None:
        """Have a process.

        Raises:
            BadRequestError: the image has no such server.
            BadGatewayError: it ended at once; the message has its last words.
        """
        async with self._turn:
            await self._running_link()

    async def sleep(self) -> None:
        """End the process, if there is one; what was open will be again."""
        async with self._turn:
            await self._end()

    async def stop(self) -> None:
        """End it for good; who still waits for it hears that it is not started."""
        self._stopped = True
        await self.sleep()

    async def open(self, path: bytes) -> str:
        """Tell the server a document as it is on the disk now; return its address.

        Raises:
            ToolboxError: it cannot be read.
        """
        async with self._in_use():
            await self._sync(await self._running_link(), path)
        return file_uri(path)

    async def close(self, path: bytes) -> None:
        """Tell it that nobody looks at a document any more; one that is not open is no error."""
        async with self._in_use():
            known = self._documents.pop(path, None)
            if known is not None and self.running:
                assert self._process is not None
                await self._process.link.notify(
                    "textDocument/didClose", {"textDocument": {"uri": file_uri(path)}}
                )

    async def ask(self, method: str, params: object) -> object:
        """Ask the server, and once more if it had died without our knowing.

        Raises:
            ToolboxError: it refuses, has ended, or takes too long.
        """
        self._users += 1
        try:
            try:
                return await self._request(method, params)
            except BadGatewayError:
                return await self._request(method, params)
        finally:
            self._users -= 1
            self.used = time.monotonic()

    async def open_any(self) -> bool:
        """Open some document of a project that has none open, where the server needs one.

        False if the project has none that this server knows.
        """
        if self._documents or not self._language.needs_document:
            return True
        path = await in_thread(_first, self._project, tuple(self._language.suffixes))
        if path is not None:
            await self.open(path)
        return path is not None

    async def _request(self, method: str, params: object) -> object:
        async with self._in_use():
            link = await self._running_link()
        return await link.request(method, params, REQUEST_SECONDS)

    def _in_use(self) -> asyncio.Lock:
        """Return what one caller at a time holds, so that messages keep their order."""
        self.used = time.monotonic()
        return self._turn

    async def _running_link(self) -> Link:
        if self._stopped:
            raise not_started(self._name, self._project)
        if self.running:
            assert self._process is not None
            return self._process.link
        await self._end()
        process = self._process = await self._launch()
        try:
            await process.link.request("initialize", self._greeting(), START_SECONDS)
            await process.link.notify("initialized", {})
            opened, self._documents = list(self._documents), {}
            for path in opened:
                if await in_thread(os.path.isfile, path):
                    await self._sync(process.link, path)
        except BaseException as error:
            await self._end()
            if isinstance(error, BadGatewayError):
                raise BadGatewayError(
                    f"{self._language.command[0]} ended at its start: "
                    f"{self._last_words.decode('utf-8', 'replace').strip() or 'it said nothing'}"
                ) from error
            raise
        return process.link

    async def _launch(self) -> Process:
        environment = dict(self._identity.environment)
        command, *more = self._language.command
        program = shutil.which(command, path=environment.get("PATH", ""))
        if program is None:
            raise BadRequestError(
                f"there is no {command} in the PATH of this sandbox: install it "
                f"({self._language.remedy}) or use a snapshot with it"
            )
        ours, theirs = socket.socketpair()
        read, write = os.pipe()
        self._last_words = b""
        said = Source(read, self._hear)
        try:
            started = spawn.start(
                [program, *more],
                environment=environment,
                cwd=os.fsdecode(self._project),
                streams=(theirs.fileno(), theirs.fileno(), write),
            )
        except OSError as error:
            ours.close()
            said.close()
            raise BadRequestError(f"{program} cannot be run: {error.strerror}") from error
        finally:
            theirs.close()
            os.close(write)
        return Process(started, Link(*await asyncio.open_connection(sock=ours)), said)

    def _hear(self, data: bytes) -> None:
        self._last_words = (self._last_words + data)[-_SAID_BYTES:]

    def _greeting(self) -> dict[str, object]:
        uri = file_uri(self._project)
        name = decode(os.path.basename(self._project))
        return {
            "processId": None,
            "rootUri": uri,
            "workspaceFolders": [{"uri": uri, "name": name}],
            "capabilities": CAPABILITIES,
            "initializationOptions": options(self._name, self._python()),
        }

    def _python(self) -> str:
        """Find the interpreter of the project: its own, else the one on the ``PATH``."""
        own = os.path.join(os.fsdecode(self._project), ".venv/bin/python")
        path = self._identity.environment.get("PATH", "")
        return own if os.access(own, os.X_OK) else shutil.which("python3", path=path) or ""

    async def _sync(self, link: Link, path: bytes) -> None:
        text = await in_thread(_text, path)
        version, digest = self._documents.get(path, (0, 0))
        if version and digest == hash(text):
            return
        if version:
            change = {
                "textDocument": {"uri": file_uri(path), "version": version + 1},
                "contentChanges": [{"text": text}],
            }
            await link.notify("textDocument/didChange", change)
        else:
            await self._make_room(link)
            document = {
                "uri": file_uri(path),
                "languageId": self._kind(path),
                "version": 1,
                "text": text,
            }
            await link.notify("textDocument/didOpen", {"textDocument": document})
        self._documents[path] = (version + 1, hash(text))

    async def _make_room(self, link: Link) -> None:
        while len(self._documents) >= MOST_OPEN:
            oldest = next(iter(self._documents))
            del self._documents[oldest]
            await link.notify("textDocument/didClose", {"textDocument": {"uri": file_uri(oldest)}})

    def _kind(self, path: bytes) -> str:
        return self._language.suffixes.get(os.path.splitext(os.fsdecode(path))[1], self._name)

    async def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            await process.end()


class Servers:
    """All that were started."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, bytes], Server] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self, name: str, project: bytes, identity: Identity) -> None:
        """Start one; one that was started is there already.

        Raises:
            ToolboxError: it cannot be started, and is then not known.
        """
        known = self._known.get((name, project))
        server = known or Server(name, project, identity)
        self._known[name, project] = server
        try:
            await self._make_room(server)
            await server.start()
        except BaseException:
            if known is None and self._known.get((name, project)) is server:
                del self._known[name, project]
                await server.stop()
            raise
        self._watch()

    async def use(self, name: str, project: bytes) -> Server:
        """Return one that was started.

        Raises:
            BadRequestError: it was not.
        """
        language(name)
        server = self._known.get((name, project))
        if server is None:
            raise not_started(name, project)
        await self._make_room(server)
        self._watch()
        return server

    async def stop(self, name: str, project: bytes) -> None:
        """Stop one and forget it; one that is not known is no error."""
        server = self._known.pop((name, project), None)
        if server is not None:
            await server.stop()

    async def _make_room(self, server: Server) -> None:
        running = [s for s in self._known.values() if s.running and s is not server]
        idle = sorted((s for s in running if not s.busy), key=lambda s: s.used)
        for one in idle[: max(0, len(running) + 1 - MOST_RUNNING)]:
            await one.sleep()

    def _watch(self) -> None:
        """Look again when the first of them may have been unused for long."""
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(IDLE_SECONDS, self._look)

    def _look(self) -> None:
        self._timer = None
        running = [server for server in self._known.values() if server.running]
        limit = time.monotonic() - IDLE_SECONDS
        for server in running:
            if not server.busy and server.used <= limit:
                task = asyncio.get_running_loop().create_task(server.sleep())
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
        if running:
            self._watch()


SERVERS = Servers()


def not_started(name: str, project: bytes) -> BadRequestError:
    """Return the error of a call for a server that was not started."""
    return BadRequestError(
        f"no {name} language server was started for {decode(project)}: "
        "call lsp/start with the same languageId and pathToProject first",
        code="LSP_SERVER_NOT_INITIALIZED",
    )


def _text(path: bytes) -> str:
    """Read a document.

    Raises:
        ToolboxError: it is missing, no file, too long or not readable.
    """
    name = decode(path)
    try:
        with open(open_regular(path), "rb") as file:
            data = file.read(DOCUMENT_BYTES + 1)
    except OSError as error:
        raise from_os_error(error, name) from error
    if len(data) > DOCUMENT_BYTES:
        raise BodyTooLargeError(
            f"{name} is longer than {DOCUMENT_BYTES} bytes: no language server is told of it"
        )
    return data.decode("utf-8", "replace")


def _first(project: bytes, suffixes: tuple[str, ...]) -> bytes | None:
    return next(_sources(project, tuple(suffix.encode() for suffix in suffixes)), None)


def _sources(project: bytes, suffixes: tuple[bytes, ...]) -> Iterator[bytes]:
    looked_at = 0
    for directory, names, files in os.walk(project):
        names[:] = sorted(n for n in names if n != b"node_modules" and not n.startswith(b"."))
        looked_at += len(names) + len(files)
        yield from (os.path.join(directory, f) for f in sorted(files) if f.endswith(suffixes))
        if looked_at > _LOOKED_AT:
            return
