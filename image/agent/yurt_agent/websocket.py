"""One WebSocket over an upgraded connection, framed by websockets' sans-I/O protocol.

Imported at the first upgrade only. No compression; pings are answered here and sent every
``PING_SECONDS``, so a vanished client is noticed.
"""

from __future__ import annotations

import asyncio
from collections import deque

from websockets.frames import Frame, Opcode
from websockets.http11 import Request as Handshake
from websockets.protocol import OPEN
from websockets.server import ServerProtocol

from yurt_agent.errors import BadRequestError
from yurt_agent.http import DisconnectedError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from typing import Protocol

    class Line(Protocol):
        """What a WebSocket needs of its connection."""

        def write(self, data: bytes) -> None:
            """Queue bytes."""

        async def drain(self) -> None:
            """Wait until the client has taken enough of them."""

        def pause(self) -> None:
            """Stop reading."""

        def resume(self) -> None:
            """Read on."""

        def hang_up(self) -> None:
            """End after what was written."""

        def cut(self) -> None:
            """End at once."""


QUEUE_BYTES = 1 << 20
PING_SECONDS = 20.0
DEAD_SECONDS = 60.0
CLOSE_SECONDS = 5.0
REASON_BYTES = 123

_HANDSHAKE = ("host", "upgrade", "connection", "sec-websocket-key", "sec-websocket-version")


class WebSocket:
    """Messages to and from one client.

    A client that disconnects ends ``receive`` with None, makes ``send`` raise
    ``DisconnectedError``, and cancels the handler.
    """

    def __init__(self, line: Line, max_message: int) -> None:
        self._line = line
        self._protocol = ServerProtocol(max_size=max_message)
        self._messages: deque[bytes | str] = deque()
        self._queued = 0
        self._pieces: list[bytes] = []
        self._text = False
        self._waiter: asyncio.Future[None] | None = None
        self._loop = asyncio.get_running_loop()
        self._heard = self._loop.time()
        self._paused = False
        self._ticker: asyncio.TimerHandle | None = None
        self._closed = self._loop.create_future()
        self.subprotocol: str | None = None

    def open(self, headers: Mapping[str, str], subprotocol: str | None) -> None:
        """Answer the handshake.

        The library sees only the headers that make the handshake: offers of subprotocols may be
        longer than its limit on lines, and without an offer of extensions it accepts none.

        Raises:
            BadRequestError: the handshake is malformed.
        """
        lines = [f"{name}: {headers[name]}" for name in _HANDSHAKE if name in headers]
        self._protocol.receive_data(
            ("GET / HTTP/1.1\r\n" + "\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
        )
        events = self._protocol.events_received()
        if not events or not isinstance(events[0], Handshake):
            raise BadRequestError("malformed WebSocket handshake")
        response = self._protocol.accept(events[0])
        if response.status_code != 101:
            raise BadRequestError((response.body or b"").decode().strip())
        if subprotocol is not None:
            response.headers["Sec-WebSocket-Protocol"] = subprotocol
            self.subprotocol = subprotocol
        self._protocol.send_response(response)
        self._flush()
        self._ticker = self._loop.call_later(PING_SECONDS, self._tick)

    async def receive(self) -> bytes | str | None:
        """Return the next message: str for text, bytes for binary, None once it is closed."""
        while not self._messages:
            if self._closed.done():
                return None
            self._waiter = self._loop.create_future()
            await self._waiter
        message = self._messages.popleft()
        self._queued -= len(message)
        if self._paused and self._queued < QUEUE_BYTES:
            self._paused = False
            self._line.resume()
        return message

    async def __aiter__(self) -> AsyncIterator[bytes | str]:
        """Yield messages until it is closed."""
        while (message := await self.receive()) is not None:
            yield message

    async def send(self, message: bytes | str) -> None:
        """Send a text (str) or binary (bytes) message, and wait if the client reads slowly.

        Raises:
            DisconnectedError: it is closed.
        """
        if self._protocol.state is not OPEN:
            raise DisconnectedError("the WebSocket is closed")
        if isinstance(message, str):
            self._protocol.send_text(message.encode("utf-8", "replace"))
        else:
            self._protocol.send_binary(message)
        self._flush()
        await self._line.drain()

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Close and wait a little for the client's agreement; closing twice is fine."""
        if self._protocol.state is OPEN:
            short = reason.encode("utf-8", "replace")[:REASON_BYTES].decode("utf-8", "ignore")
            self._protocol.send_close(code, short)
            self._flush()
        if self._paused:
            self._paused = False
            self._line.resume()
        await asyncio.wait((self._closed,), timeout=CLOSE_SECONDS)
        self._end()
        self._line.hang_up()

    @property
    def close_code(self) -> int | None:
        """The client's close code, 1006 if it just vanished, None while open."""
        return self._protocol.close_code

    def feed(self, data: bytes) -> None:
        """Take what arrived."""
        self._heard = self._loop.time()
        if self._closed.done():
            return
        self._protocol.receive_data(data)
        for event in self._protocol.events_received():
            if isinstance(event, Frame):
                self._take(event)
        self._flush()

    def lost(self) -> None:
        """Note that the connection is gone."""
        if not self._closed.done():
            self._protocol.receive_eof()
        self._end()

    def _take(self, frame: Frame) -> None:
        if frame.opcode is Opcode.CLOSE:
            self._end()
            return
        if frame.opcode in {Opcode.PING, Opcode.PONG}:
            return
        if frame.opcode is not Opcode.CONT:
            self._text = frame.opcode is Opcode.TEXT
        self._pieces.append(bytes(frame.data))
        if not frame.fin:
            return
        raw = b"".join(self._pieces)
        self._pieces = []
        try:
            message = raw.decode() if self._text else raw
        except UnicodeDecodeError:
            self._protocol.fail(1007, "text that is not UTF-8")
            return
        self._messages.append(message)
        self._queued += len(message)
        if self._queued >= QUEUE_BYTES and not self._paused:
            self._paused = True
            self._line.pause()
        self._wake()

    def _flush(self) -> None:
        for data in self._protocol.data_to_send():
            if data:
                self._line.write(data)
            else:
                self._end()
                self._line.hang_up()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _end(self) -> None:
        if self._ticker is not None:
            self._ticker.cancel()
            self._ticker = None
        if not self._closed.done():
            self._closed.set_result(None)
        self._wake()

    def _tick(self) -> None:
        if not self._paused and self._loop.time() - self._heard > DEAD_SECONDS:
            self._line.cut()
            return
        self._protocol.send_ping(b"")
        self._flush()
        self._ticker = self._loop.call_later(PING_SECONDS, self._tick)
