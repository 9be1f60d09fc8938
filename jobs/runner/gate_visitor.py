"""Connections from outside: one request after the other, or a splice after an upgrade."""

from __future__ import annotations

import asyncio
import time

from jobs.runner.gate_body import NO_BODY, FramingError
from jobs.runner.gate_http import HEAD_END, HEAD_LIMIT, RefusedError, RequestHead, refusal
from jobs.runner.gate_typing import override

IDLE_SECONDS = 120.0
"""Longer than Traefik keeps an idle connection (90 s): it must be the one that closes."""

HEAD_SECONDS = 15.0
"""A head that has begun must be complete after this long."""

LINGER_SECONDS = 5.0
"""How long a visitor whose request was refused may go on sending; closing at once could lose our
answer."""

WAIT_SECONDS = 60.0
"""How long a request waits for the sandbox to be up, or to stay up."""

VISITOR_LIMIT = 4096


class TooEarlyError(Exception):
    """It cannot be decided yet what becomes of a request."""


class Visitor(asyncio.BufferedProtocol):
    """One connection.

    Attributes:
        exchange: the request in progress.
        full: whether the visitor reads more slowly than we write.
        grant: by what its last request was admitted.
    """

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self.exchange: Exchange | ControlMessage | None = None
        self.grant: Grant | None = None
        self.full = False
        self._held = b""
        self._since = time.monotonic()
        self._choked = False
        self._paused = False
        self._waits = False
        self._deaf = False
        self._pumping = False

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Serve the connection unless there are too many."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        known = len(self._gate.visitors)
        self._gate.greet(self)
        if known >= 2 * VISITOR_LIMIT:
            transport.abort()
        elif known >= VISITOR_LIMIT:
            self.reply(RefusedError(503, "too many connections", b"Retry-After: 1"))

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._gate.visitors.discard(self)
        exchange, self.exchange = self.exchange, None
        if exchange is not None:
            exchange.on_visitor_lost()

    @override
    def eof_received(self) -> bool:
        """Stay open for writing only if both directions are independent of each other."""
        return self.exchange is not None and self.exchange.on_visitor_eof()

    @override
    def get_buffer(self, sizehint: int) -> memoryview:
        """Return the gate's one buffer: what is read is dealt with before the next read."""
        return self._gate.buffer

    @override
    def buffer_updated(self, nbytes: int) -> None:
        """Hand on what was read."""
        data = bytes(self._gate.buffer[:nbytes])
        if self.exchange is not None:
            self.exchange.on_request(data)
        elif not self._deaf:
            if not self._held:
                self._since = time.monotonic()
            self._held += data
            self._pump()

    def _pump(self) -> None:
        """Begin the request that is there if its head is complete; one after the other."""
        if self._pumping:
            return
        self._pumping = True
        while self._held and not self._is_busy and not self._deaf:
            end = self._held.find(HEAD_END, 0, HEAD_LIMIT)
            if end < 0:
                if len(self._held) >= HEAD_LIMIT:
                    self.reply(RefusedError(431, f"the head is over {HEAD_LIMIT} bytes long"))
                break
            end += len(HEAD_END)
            raw, self._held = self._held[:end], self._held[end:]
            self._begin(raw)
        self._pumping = False
        self._update_reading()

    def _begin(self, raw: bytes) -> None:
        try:
            head = RequestHead(raw)
        except FramingError as error:
            self.reply(RefusedError(400, f"malformed or ambiguous request: {error}"))
            return
        try:
            opened = self._gate.open(self, head)
        except TooEarlyError:
            self._held = raw + self._held
            self._waits = True
            self._since = time.monotonic()
        except RefusedError as refused:
            self.reply(refused, head)
        else:
            if isinstance(opened, bytes):
                self.transport.write(opened)
                self._after_reply(head)
            else:
                self.exchange = opened
                opened.start()

    def resume(self) -> None:
        """Decide again about a request that had to wait."""
        if self._waits:
            self._waits = False
            self._pump()

    def reply(self, refused: RefusedError, head: RequestHead | None = None) -> None:
        """Answer ourselves; without a head the connection cannot go on."""
        method, path, close = "", "", True
        if head is not None:
            method, path = head.method.decode(), head.path
            close = not head.keep_alive or head.length != NO_BODY
        self.transport.write(refusal(refused, method, path, close=close))
        self._after_reply(head)

    def _after_reply(self, head: RequestHead | None) -> None:
        whole = head is not None and head.length == NO_BODY
        self.next(persist=whole and head is not None and head.keep_alive, linger=not whole)

    def next(self, *, persist: bool, linger: bool) -> None:
        """Go on with the next request, or close.

        Args:
            persist: whether there may be a next request.
            linger: whether the visitor may still be sending, so that closing at once could lose
                our answer.
        """
        self.exchange = None
        self._choked = False
        self._since = time.monotonic()
        if persist:
            if self._held:
                self._pump()
            return
        self._deaf = True
        linger = linger or bool(self._held)
        self._held = b""
        self._update_reading()
        if linger and not self.transport.is_closing():
            self.transport.write_eof()
        else:
            self.transport.close()

    # -- the pace ----------------------------------------------------------------------------

    def hold(self, data: bytes) -> None:
        """Keep what cannot be dealt with yet, and read no more meanwhile."""
        self._held += data
        self._update_reading()

    def take_held(self) -> bytes:
        """Return what was kept."""
        data, self._held = self._held, b""
        self._update_reading()
        return data

    def choke(self) -> None:
        """Stop reading: what is inside does not keep up."""
        self._choked = True
        self._update_reading()

    def unchoke(self) -> None:
        """Read on."""
        self._choked = False
        self._update_reading()

    @property
    def _is_busy(self) -> bool:
        return self.exchange is not None or self.full or self._waits

    def _update_reading(self) -> None:
        wanted = not self._choked and not (self._is_busy and self._held)
        if wanted and self._paused:
            self._paused = False
            self.transport.resume_reading()
        elif not wanted and not self._paused:
            self._paused = True
            self.transport.pause_reading()

    @override
    def pause_writing(self) -> None:
        """Hold the app back."""
        self.full = True
        if self.exchange is not None:
            self.exchange.set_full(full=True)

    @override
    def resume_writing(self) -> None:
        """Let the app go on."""
        self.full = False
        if self.exchange is not None:
            self.exchange.set_full(full=False)
        else:
            self._pump()

    # -- time --------------------------------------------------------------------------------

    def expire(self, now: float) -> None:
        """Close a connection that has been silent, half-said or on its way out for too long."""
        if self.exchange is not None:
            return
        waited = now - self._since
        if self._deaf:
            if waited > LINGER_SECONDS and not self.transport.get_write_buffer_size():
                self.transport.abort()
        elif self._waits:
            if waited > WAIT_SECONDS:
                self._waits = False
                self.reply(RefusedError(503, "the sandbox is not up yet", b"Retry-After: 1"))
        elif self._held:
            if waited > HEAD_SECONDS:
                self.reply(RefusedError(408, "the head of the request did not come in time"))
        elif waited > IDLE_SECONDS:
            self.transport.close()

    def recheck(self, policy: Policy | None, now: float) -> None:
        """Cut the connection if what let it in lets nobody in any more; without a policy, all."""
        if self.grant is not None and (policy is None or not policy.holds(self.grant, now)):
            self.transport.abort()


TYPE_CHECKING = False
if TYPE_CHECKING:
    from jobs.runner.gate_auth import Grant, Policy
    from jobs.runner.gate_exchange import Exchange
    from jobs.runner.gate_message import ControlMessage
    from jobs.runner.gate_service import Gate
