"""Connections from the gate to the agent and to ports inside, kept for the next request."""

from __future__ import annotations

import asyncio
import time

from jobs.runner.gate_route import AGENT_PORT
from jobs.runner.gate_typing import override

_IDLE_PER_PORT = 64
_AGENT_IDLE_SECONDS = 30.0
PORT_IDLE_SECONDS = 4.0
"""Below the five seconds after which Node and uvicorn close an idle connection."""

_UNREPEATABLE_IDLE_SECONDS = 1.0
"""The same for a request that must not be sent twice, should the app close at that moment."""


class Upstream(asyncio.BufferedProtocol):
    """One connection to a port inside. It serves one exchange at a time."""

    def __init__(self, pool: Pool, port: int, exchange: Exchange) -> None:
        self._pool = pool
        self.port = port
        self.exchange: Exchange | None = exchange
        self.idle_since = 0.0
        self.full = False

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See ``asyncio.BaseProtocol``."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        if self.exchange is not None:
            self.exchange.attach(self)

    @override
    def get_buffer(self, sizehint: int) -> memoryview:
        """Return the gate's one buffer: what is read is dealt with before the next read."""
        return self._pool.buffer

    @override
    def buffer_updated(self, nbytes: int) -> None:
        """Hand on what was read."""
        if self.exchange is None:
            self.transport.abort()  # nobody asked
        else:
            self.exchange.on_answer(bytes(self._pool.buffer[:nbytes]))

    @override
    def eof_received(self) -> bool:
        """Stay open for writing only if both directions are independent of each other."""
        return self.exchange is not None and self.exchange.on_upstream_eof()

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the exchange, or take the connection out of the pool."""
        exchange, self.exchange = self.exchange, None
        if exchange is None:
            self._pool.remove(self)
        else:
            exchange.on_upstream_lost(exc)

    @override
    def pause_writing(self) -> None:
        """Hold the visitor back: what is inside reads slowly."""
        self.full = True
        if self.exchange is not None:
            self.exchange.visitor.choke()

    @override
    def resume_writing(self) -> None:
        """Let the visitor go on."""
        self.full = False
        if self.exchange is not None:
            self.exchange.visitor.unchoke()


class Pool:
    """Idle connections by port, the latest used first."""

    def __init__(self, buffer: memoryview) -> None:
        self.buffer = buffer
        self._idle: dict[int, list[Upstream]] = {}

    def __bool__(self) -> bool:
        return bool(self._idle)

    def take(self, port: int, *, repeatable: bool) -> Upstream | None:
        """Return a connection that can be expected to be still open."""
        idle = self._idle.get(port)
        if not idle:
            return None
        upstream = idle[-1]
        waited = time.monotonic() - upstream.idle_since
        if port != AGENT_PORT and not repeatable and waited > _UNREPEATABLE_IDLE_SECONDS:
            return None
        self.remove(upstream)
        return None if upstream.transport.is_closing() else upstream

    def put(self, upstream: Upstream) -> None:
        """Keep a connection whose exchange is over; too many are closed."""
        idle = self._idle.setdefault(upstream.port, [])
        if len(idle) >= _IDLE_PER_PORT or upstream.full or upstream.transport.is_closing():
            upstream.transport.abort()
            if not idle:
                del self._idle[upstream.port]
            return
        upstream.idle_since = time.monotonic()
        idle.append(upstream)

    def remove(self, upstream: Upstream) -> None:
        """Forget a connection that was closed."""
        idle = self._idle.get(upstream.port, [])
        if upstream in idle:
            idle.remove(upstream)
            if not idle:
                del self._idle[upstream.port]

    def expire(self) -> None:
        """Close what has been idle for long."""
        now = time.monotonic()
        for port, idle in list(self._idle.items()):
            limit = _AGENT_IDLE_SECONDS if port == AGENT_PORT else PORT_IDLE_SECONDS
            for upstream in [one for one in idle if now - one.idle_since > limit]:
                upstream.transport.close()
                self.remove(upstream)


TYPE_CHECKING = False
if TYPE_CHECKING:
    from jobs.runner.gate_exchange import Exchange
