"""What handlers see of HTTP: requests with streamed bodies, and the kinds of answers.

Refuses to know sockets: a connection (``server.py``) feeds bodies and sends answers.
Names that are not UTF-8 travel as surrogate escapes (U+DC80 to U+DCFF) in both directions.
"""

from __future__ import annotations

import asyncio
import json
import re
from typing import NamedTuple, TypeVar

from yurt_agent.errors import BodyTooLargeError, InvalidBodyError, ToolboxError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import (
        AsyncGenerator,
        AsyncIterator,
        Awaitable,
        Callable,
        Mapping,
    )
    from io import FileIO
    from typing import Protocol

    from yurt_agent.user import Identity
    from yurt_agent.websocket import WebSocket

    class Flow(Protocol):
        """What a request needs of its connection."""

        def pause(self) -> None:
            """Stop reading from the client."""

        def resume(self) -> None:
            """Read on."""

        def invite_body(self) -> None:
            """Send ``100 Continue`` if the client waits for it."""

        async def upgrade(
            self, request: Request, subprotocol: str | None, max_message: int
        ) -> WebSocket:
            """Turn the connection into a WebSocket."""

    Handler = Callable[["Request"], Awaitable["Response | None"]]

_T = TypeVar("_T")

JSON_LIMIT = 1 << 20
"""Longest JSON body in bytes."""

BODY_BUFFER = 1 << 20
"""Bytes of a body that may wait for the handler before reading stops."""

REASONS = {
    100: "Continue",
    200: "OK",
    201: "Created",
    202: "Accepted",
    204: "No Content",
    206: "Partial Content",
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    408: "Request Timeout",
    409: "Conflict",
    410: "Gone",
    413: "Content Too Large",
    416: "Range Not Satisfiable",
    422: "Unprocessable Content",
    426: "Upgrade Required",
    429: "Too Many Requests",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    502: "Bad Gateway",
    503: "Service Unavailable",
    507: "Insufficient Storage",
}


_ESCAPE = re.compile(rb"%([0-9A-Fa-f]{2})")


def unquote(raw: bytes) -> str:
    """Decode percent escapes; bytes that are not UTF-8 become surrogate escapes."""
    if b"%" in raw:
        raw = _ESCAPE.sub(lambda match: bytes((int(match[1], 16),)), raw)
    return raw.decode("utf-8", "surrogateescape")


def parse_query(raw: bytes) -> dict[str, list[str]]:
    """Split a query string; names keep the order and all of their values."""
    query: dict[str, list[str]] = {}
    for item in raw.split(b"&"):
        if item:
            name, _, value = item.replace(b"+", b" ").partition(b"=")
            query.setdefault(unquote(name), []).append(unquote(value))
    return query


class DisconnectedError(ConnectionError):
    """The client went away before the request or the answer was complete."""


class Body:
    """The bytes of a request on their way to its handler; holds about ``BODY_BUFFER`` at most."""

    __slots__ = ("_chunks", "_failure", "_flow", "_size", "_waiter", "asked", "ended", "unwanted")

    def __init__(self, flow: Flow) -> None:
        self._flow = flow
        self._chunks: list[bytes] = []
        self._size = 0
        self._waiter: asyncio.Future[None] | None = None
        self._failure: Exception | None = None
        self.asked = False
        self.ended = False
        self.unwanted = False

    def feed(self, data: bytes) -> None:
        """Take what arrived."""
        if self.unwanted:
            return
        self._chunks.append(data)
        self._size += len(data)
        if self._size >= BODY_BUFFER:
            self._flow.pause()
        self._wake()

    def finish(self) -> None:
        """Mark the end."""
        self.ended = True
        self._wake()

    def fail(self, failure: Exception) -> None:
        """Let the reader raise: the rest will never come."""
        self._failure = failure
        self._wake()

    def discard(self) -> None:
        """Drop what is here and what still comes."""
        self.unwanted = True
        self._chunks.clear()
        self._size = 0
        self._flow.resume()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def batch(self) -> list[bytes]:
        """Return all that has arrived, at least one chunk; empty at the end.

        Raises:
            DisconnectedError: the client went away in the middle.
        """
        if not self.asked:
            self.asked = True
            if not self._chunks and not self.ended:
                self._flow.invite_body()
        while not self._chunks:
            if self._failure is not None:
                raise self._failure
            if self.ended:
                return []
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        chunks, self._chunks, self._size = self._chunks, [], 0
        self._flow.resume()
        return chunks


class Request:
    """One request; the body is read on demand.

    Attributes:
        method: upper case. HEAD arrives as GET with ``head_only`` set.
        path: decoded path, for messages; routes match on ``target``.
        headers: lower-case names; repeated ones are joined by ``", "``.
        params: the pattern's named segments, decoded.
        identity: the user, environment and work directory of the sandbox.
        body_stream: the body as it arrives.
    """

    __slots__ = (
        "_flow",
        "_query",
        "body_stream",
        "chunks",
        "head_only",
        "headers",
        "identity",
        "keep_alive",
        "method",
        "params",
        "path",
        "refusal",
        "target",
        "upgrade",
    )

    identity: Identity

    def __init__(self, method: str, target: bytes, headers: dict[str, str], flow: Flow) -> None:
        self.head_only = method == "HEAD"
        self.method = "GET" if self.head_only else method
        self.target = target.partition(b"?")[0]
        self.path = unquote(self.target)
        self.headers = headers
        self.params: dict[str, str] = {}
        self.body_stream = Body(flow)
        self.keep_alive = True
        self.upgrade = False
        self.chunks = True
        self.refusal: ToolboxError | None = None
        self._query: bytes | dict[str, list[str]] = target.partition(b"?")[2]
        self._flow = flow

    @property
    def query(self) -> dict[str, list[str]]:
        """All query values by name, decoded."""
        if isinstance(self._query, bytes):
            self._query = parse_query(self._query)
        return self._query

    def first(self, name: str, default: str = "") -> str:
        """Return the first query value of a name."""
        values = self.query.get(name)
        return values[0] if values else default

    def wants(self, name: str) -> bool:
        """Tell whether a query flag is set: ``true``, ``1`` or ``yes`` in any case."""
        return self.first(name).lower() in {"true", "1", "yes"}

    async def stream(self) -> AsyncIterator[bytes]:
        """Yield the body as it arrives; reading slowly slows the client down."""
        while batch := await self.body_stream.batch():
            for chunk in batch:
                yield chunk

    async def body(self, limit: int = JSON_LIMIT) -> bytes:
        """Return the whole body.

        Raises:
            BodyTooLargeError: it is longer than ``limit`` bytes.
        """
        chunks: list[bytes] = []
        size = 0
        async for chunk in self.stream():
            size += len(chunk)
            if size > limit:
                raise BodyTooLargeError(f"the body is longer than {limit} bytes")
            chunks.append(chunk)
        return b"".join(chunks)

    async def json(self, limit: int = JSON_LIMIT) -> dict[str, object]:
        """Return the JSON object in the body; an empty body is an empty object.

        Raises:
            InvalidBodyError: the body is no JSON object.
        """
        raw = await self.body(limit)
        if not raw.strip():
            return {}
        try:
            value = json.loads(raw)
        except (ValueError, RecursionError) as error:
            raise InvalidBodyError(f"the body is not valid JSON: {error}") from error
        if not isinstance(value, dict):
            raise InvalidBodyError("the body must be a JSON object")
        return value

    async def websocket(
        self,
        choose: Callable[[list[str]], str | None] = lambda _offered: None,
        *,
        max_message: int = 1 << 20,
    ) -> WebSocket:
        """Accept the upgrade; nothing may have been answered yet.

        Args:
            choose: picks one of the subprotocols that the client offers, or none.
            max_message: longest incoming message in bytes.

        Raises:
            UpgradeRequiredError: the request is no WebSocket handshake.
            BadRequestError: the handshake is malformed.
        """
        offered = self.headers.get("sec-websocket-protocol", "")
        chosen = choose([item.strip() for item in offered.split(",") if item.strip()])
        return await self._flow.upgrade(self, chosen, max_message)


class FileSlice(NamedTuple):
    """Bytes of an open file, sent by the kernel; the sender does not close it."""

    file: FileIO
    offset: int
    size: int


class Response:
    """A complete answer in memory."""

    def __init__(
        self,
        body: bytes = b"",
        status: int = 200,
        headers: Mapping[str, str] | None = None,
        *,
        content_type: str = "",
    ) -> None:
        """Answer with ``body``; header names in any case, values in latin-1."""
        self.status = status
        self.body = body
        self.headers = dict(headers or {})
        if content_type:
            self.headers["Content-Type"] = content_type

    @classmethod
    def json(
        cls, value: object, status: int = 200, headers: Mapping[str, str] | None = None
    ) -> Response:
        """Answer with JSON; surrogate escapes come out as ``\\udcXX``, so it is always ASCII."""
        return cls(json.dumps(value).encode(), status, headers, content_type="application/json")

    @classmethod
    def text(cls, value: str | bytes, status: int = 200) -> Response:
        """Answer with plain text."""
        raw = value.encode("utf-8", "surrogateescape") if isinstance(value, str) else value
        return cls(raw, status, content_type="text/plain; charset=utf-8")


class StreamResponse(Response):
    """An answer that is made while it is sent."""

    def __init__(
        self,
        pieces: AsyncGenerator[bytes | FileSlice, None],
        status: int = 200,
        headers: Mapping[str, str] | None = None,
        *,
        content_type: str = "application/octet-stream",
        length: int | None = None,
    ) -> None:
        """Answer with what ``pieces`` yields.

        The iterator is asked only as fast as the client reads, and closed in every case. If it
        raises or yields another number of bytes than ``length``, the connection is cut.

        Args:
            pieces: an asynchronous generator; its ``finally`` always runs.
            status: HTTP status.
            headers: further headers.
            content_type: media type.
            length: number of bytes, if known; else the answer is sent in chunks.
        """
        super().__init__(b"", status, headers, content_type=content_type)
        self.pieces = pieces
        self.length = length


async def in_thread(work: Callable[..., _T], *arguments: object) -> _T:
    """Run blocking work in the small thread pool.

    Cancellation is delivered only after the work has ended, so that what it uses can be
    cleaned up safely.
    """
    future = asyncio.get_running_loop().run_in_executor(None, work, *arguments)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        await asyncio.wait((future,))
        raise
