"""The HTTP/1.1 server: one connection is one ``asyncio`` protocol around httptools' parser.

Refuses to know routes: it hands each request to one coroutine function and sends what that
returns. Requests on a connection are answered in order; a client that goes away cancels the
handler; memory per connection is bounded whatever either side does.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque

import httptools

from yurt_agent.errors import (
    BadRequestError,
    HeadTooLargeError,
    RequestTimeoutError,
    ToolboxError,
    UpgradeRequiredError,
)
from yurt_agent.http import DisconnectedError, Request
from yurt_agent.sender import CutShortError, Sender

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket

    from typing_extensions import override

    from yurt_agent.http import Handler, Response
    from yurt_agent.websocket import WebSocket
else:

    def override(method: object) -> object:
        """Stand in for ``typing.override``, which Python 3.11 lacks."""
        return method


HEAD_LIMIT = 32 << 10
"""Longest request line with headers, in bytes."""

HEAD_SECONDS = 30.0
"""A head that has begun must be complete after this long."""

DRAIN_SECONDS = 30.0
"""How long the rest of a body that nobody wants may take before the connection is cut."""

LINGER_SECONDS = 5.0
"""How long a client may take to close after we have; closing at once could lose our answer."""

CLEAN_UP_SECONDS = 2.0
"""How long handlers may take to clean up when the server closes."""

logger = logging.getLogger(__name__)


class Connection(asyncio.Protocol):
    """One client connection; see the module."""

    def __init__(self, app: Handler, connections: set[Connection]) -> None:
        self._app = app
        self._connections = connections
        self._loop = asyncio.get_running_loop()
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport | None = None
        self._sender: Sender | None = None
        self.task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._current: Request | None = None
        self._incoming: Request | None = None
        self._waiting: deque[Request] = deque()
        self._websocket: WebSocket | None = None
        self._target = b""
        self._headers: dict[str, str] = {}
        self._head_size = 0
        self._quiet_size = 0
        self._in_head = False
        self._progress = False
        self._full = False
        self._deaf = False
        self._upgraded = False
        self._held = False
        self._gone = False
        self._rest = b""

    # What the transport tells us.

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._sender = Sender(transport)
        self._connections.add(self)

    @override
    def data_received(self, data: bytes) -> None:
        """Parse, or hand to the WebSocket; ignore what comes after our last answer."""
        if self._websocket is not None:
            self._websocket.feed(data)
        elif self._deaf:
            return
        elif self._upgraded:
            self._rest += data
        else:
            self._parse(data)

    @override
    def eof_received(self) -> None:
        """Close: a client that ends its side has gone, for all that we can know."""
        self._abandon()

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel whatever still runs for this client."""
        self._connections.discard(self)
        self._abandon()

    @override
    def pause_writing(self) -> None:
        """Hold what is sent: the client reads slower than we write."""
        if self._sender is not None:
            self._sender.pause()

    @override
    def resume_writing(self) -> None:
        """Let it go on."""
        if self._sender is not None:
            self._sender.resume()

    def _abandon(self) -> None:
        # Once: the handler may be cleaning up already when the end is followed by the loss.
        if self._gone:
            return
        self._gone = self._deaf = True
        self._waiting.clear()
        self._stop_timer()
        gone = DisconnectedError("the client went away")
        if self._incoming is not None:
            self._incoming.body_stream.fail(gone)
        if self._websocket is not None:
            self._websocket.lost()
        if self.task is not None:
            self.task.cancel()
        self.resume_writing()

    # What the parser tells us.

    def _parse(self, data: bytes) -> None:
        self._progress = False
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._upgraded = True
            self._rest = data[upgrade.args[0] :]
        except httptools.HttpParserError as error:
            self._refuse(BadRequestError(f"malformed HTTP request: {error}"))
            return
        # Bytes that complete neither a head nor a piece of a body pile up in the parser.
        self._quiet_size = 0 if self._progress else self._quiet_size + len(data)
        if self._quiet_size > HEAD_LIMIT:
            self._refuse(HeadTooLargeError(f"the request head is longer than {HEAD_LIMIT} bytes"))
        elif self._in_head and self._timer is None:
            self._timer = self._loop.call_later(HEAD_SECONDS, self._head_late)
        self._regulate()

    def on_message_begin(self) -> None:
        """Begin a head."""
        self._in_head = True
        self._target = b""
        self._headers = {}
        self._head_size = 0

    def on_url(self, url: bytes) -> None:
        """Take a piece of the request target."""
        self._target += url
        self._head_size += len(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header; trailers are dropped."""
        if not self._in_head:
            return
        self._head_size += len(name) + len(value) + 4
        key = name.lower().decode("latin-1")
        text = value.decode("latin-1")
        known = self._headers.get(key)
        self._headers[key] = text if known is None else f"{known}, {text}"

    def on_headers_complete(self) -> None:
        """Start the handler, or queue the request behind the one that is being answered."""
        self._in_head = False
        self._progress = True
        self._stop_timer()
        method = self._parser.get_method().decode("latin-1")
        request = Request(method, self._target, self._headers, self)
        request.upgrade = self._parser.should_upgrade()
        request.chunks = self._parser.get_http_version() == "1.1"
        request.keep_alive = (
            request.chunks and self._parser.should_keep_alive() and not request.upgrade
        )
        if self._head_size > HEAD_LIMIT:
            request.refusal = HeadTooLargeError(f"the head is longer than {HEAD_LIMIT} bytes")
            request.keep_alive = False
        self._incoming = request
        self._enter(request)

    def on_body(self, body: bytes) -> None:
        """Take a piece of a body."""
        self._progress = True
        if self._incoming is not None:
            self._incoming.body_stream.feed(body)

    def on_message_complete(self) -> None:
        """End a body."""
        self._progress = True
        if self._incoming is not None:
            self._stop_timer()
            self._incoming.body_stream.finish()
            self._incoming = None
            if self.task is None:
                self._next()

    # Flow control.

    def pause(self) -> None:
        """Stop reading: a body has filled its buffer."""
        self._full = True
        self._regulate()

    def resume(self) -> None:
        """Read on."""
        self._full = False
        self._regulate()

    def _regulate(self) -> None:
        """Read exactly while what would come has a place to go."""
        upgrading = self._upgraded and self._websocket is None
        hold = not self._deaf and (self._full or upgrading or bool(self._waiting))
        if hold != self._held and self._transport is not None:
            self._held = hold
            if hold:
                self._transport.pause_reading()
            else:
                self._transport.resume_reading()

    async def drain(self) -> None:
        """Wait until the client has taken enough of what was written."""
        assert self._sender is not None
        await self._sender.drain()

    def write(self, data: bytes) -> None:
        """Queue bytes for the client; follow it by ``drain``."""
        assert self._sender is not None
        self._sender.write(data)

    # The order of requests.

    def _enter(self, request: Request) -> None:
        if self.task is None and self._current is None:
            self._current = request
            self.task = self._loop.create_task(self._serve(request))
        else:
            self._waiting.append(request)

    def _next(self) -> None:
        self._current = None
        if self._waiting:
            self._enter(self._waiting.popleft())
        self._regulate()

    def _refuse(self, error: ToolboxError) -> None:
        """Answer, after all that was asked before, with an error; then close."""
        self._deaf = True
        self._stop_timer()
        if self._incoming is not None:
            self._incoming.body_stream.fail(error)
            self._incoming = None
            if self.task is None:
                # Answered already, while the rest of the body was still coming.
                self._shut()
            self._regulate()
            return
        request = Request("GET", self._target, {}, self)
        request.body_stream.finish()
        request.keep_alive = False
        request.refusal = error
        self._enter(request)
        self._regulate()

    def _head_late(self) -> None:
        self._timer = None
        self._refuse(RequestTimeoutError("the request head did not arrive in time"))

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def _serve(self, request: Request) -> None:
        """Run the handler and send its answer; then pass on to the next request."""
        try:
            response = await self._app(request)
            if self._websocket is not None:
                await self._websocket.close(1000 if response is None else 1011)
            elif response is not None:
                await self._answer(request, response)
        except DisconnectedError:
            self._abort()
        except (CutShortError, OSError) as error:
            logger.warning("answer to %s %s was cut: %s", request.method, request.path, error)
            self._abort()
        except Exception:
            logger.exception("answer to %s %s was cut", request.method, request.path)
            self._abort()
        finally:
            self.task = None
        self._answered(request)

    def _answered(self, request: Request) -> None:
        body = request.body_stream
        if not request.keep_alive or (self._deaf and not self._waiting):
            self._shut()
        elif body.ended:
            self._next()
        else:
            # A client may well send all of a body that it has an answer to already.
            body.discard()
            self._timer = self._loop.call_later(DRAIN_SECONDS, self._abort)

    def _abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def _shut(self) -> None:
        """End our side and give the client a moment to read and end its own."""
        if self._transport is None or self._transport.is_closing():
            return
        self._deaf = True
        self._stop_timer()
        self._transport.write_eof()
        self._timer = self._loop.call_later(LINGER_SECONDS, self._abort)
        self._regulate()

    # Answers.

    def invite_body(self) -> None:
        """Send ``100 Continue`` if the client waits for it."""
        request = self._current
        if request is not None and request.chunks and _expects(request):
            self.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    async def _answer(self, request: Request, response: Response) -> None:
        body = request.body_stream
        if self._deaf or (_expects(request) and not body.asked and not body.ended):
            # The client may, or may not, send the body that we never asked for.
            request.keep_alive = False
        assert self._sender is not None
        await self._sender.send(request, response)

    async def upgrade(
        self, request: Request, subprotocol: str | None, max_message: int
    ) -> WebSocket:
        """Turn the connection into a WebSocket."""
        if not request.upgrade or request.headers.get("upgrade", "").lower() != "websocket":
            raise UpgradeRequiredError("connect by WebSocket", headers={"Upgrade": "websocket"})
        # Imported only here: it costs 10 ms that most sandboxes never need.
        from yurt_agent.websocket import WebSocket

        websocket = WebSocket(self, max_message)
        websocket.open(request.headers, subprotocol)
        self._websocket = websocket
        await self.drain()
        rest, self._rest = self._rest, b""
        if rest:
            websocket.feed(rest)
        self._regulate()
        return websocket

    def hang_up(self) -> None:
        """End the connection after the last WebSocket frame."""
        self._shut()

    def cut(self) -> None:
        """Drop the connection at once."""
        self._abort()


def _expects(request: Request) -> bool:
    return request.headers.get("expect", "").lower() == "100-continue"


class Server:
    """Accepts connections on one socket and answers them by one coroutine function."""

    def __init__(self, app: Handler) -> None:
        self._app = app
        self._connections: set[Connection] = set()
        self._server: asyncio.Server | None = None

    async def listen(self, listener: socket.socket) -> None:
        """Accept from now on."""
        self._server = await asyncio.get_running_loop().create_server(
            lambda: Connection(self._app, self._connections), sock=listener, backlog=1024
        )

    async def close(self) -> None:
        """Accept no more, cut what is open, and let its handlers clean up."""
        if self._server is not None:
            self._server.close()
        handlers = [task for connection in self._connections if (task := connection.task)]
        for connection in list(self._connections):
            connection.cut()
        if handlers:
            await asyncio.wait(handlers, timeout=CLEAN_UP_SECONDS)
