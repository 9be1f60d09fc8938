"""The gate as a whole: what it knows of its sandbox, and what becomes of each request."""

from __future__ import annotations

import asyncio
import codecs
import gc
import json
import os
import socket
import sys
import time

from jobs.runner import gate_cookie
from jobs.runner.gate_activity import Activity
from jobs.runner.gate_auth import Policy, vouch
from jobs.runner.gate_exchange import Exchange, is_preflight, preflight_answer
from jobs.runner.gate_holder import HolderLink
from jobs.runner.gate_http import RefusedError, answer
from jobs.runner.gate_message import ControlMessage
from jobs.runner.gate_route import AGENT_PORT, HEALTH, MESSAGE, PREVIEW, Router
from jobs.runner.gate_upstream import Pool, Upstream
from jobs.runner.gate_visitor import TooEarlyError, Visitor

_BACKLOG = 512
ENCODINGS = ("ascii", "idna", "latin-1")
"""Loaded on demand, which is impossible once there are no files."""

_BUFFER_BYTES = 128 << 10
"""Read at once; a slow reader can have this much and asyncio's 64 KiB in our memory."""

_PROBES = ((socket.TCP_KEEPIDLE, 60), (socket.TCP_KEEPINTVL, 15), (socket.TCP_KEEPCNT, 4))
"""After this many seconds of silence ask whether the visitor is still there; so often."""

TICK_SECONDS = 2.0
FRESH_SECONDS = 15.0
"""How long after its start a sandbox's programs may need until they listen."""

_UNREADY = {"lapsed": "cut off: it is not known any more who may enter"}
_RETRY_AFTER = b"Retry-After: 1"
_LONGEST_TIMER = 86400.0


class Gate:
    """Everything that one gate shares between its connections.

    Args:
        channel: the packet socket to the holder.
        sandbox_id: the sandbox that is ours.
        domain: preview domains, separated by commas.
        on_end: called when the holder is gone.
    """

    def __init__(
        self, channel: socket.socket, *, sandbox_id: str, domain: str, on_end: Callable[[], None]
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._sandbox = sandbox_id
        self._router = Router(sandbox_id, domain)
        self._policy: Policy | None = None
        self._phase = "assign"
        self._closed = False
        self._fresh_until = 0.0
        self._quiet: asyncio.TimerHandle | None = None
        self._secret = b""
        self._ticking: asyncio.TimerHandle | None = None
        self._expiring: asyncio.TimerHandle | None = None
        self.buffer = memoryview(bytearray(_BUFFER_BYTES))
        self.visitors: set[Visitor] = set()
        self.pool = Pool(self.buffer)
        self.link = HolderLink(channel, self._on_order, on_end)
        self.activity = Activity(self.link.send)

    # -- orders ------------------------------------------------------------------------------

    def _on_order(self, kind: bytes, order: dict[str, Any]) -> None:
        if kind == b"A":
            if order["phase"] == "ready" and self._phase == "assign":
                self._fresh_until = self._loop.time() + FRESH_SECONDS
            self._phase = order["phase"]
            self._secret = order["secret"].encode()
            self._policy = Policy(self._sandbox, order["assignment"])
            self._recheck()
            if self._phase == "ready":
                self.link.fill_stock()
            self._admit_waiting()
        elif kind == b"C":
            self._closed = True
            self._phase = "stopping"
            self._admit_waiting()
        elif kind == b"Z":
            self._quiesce(order)
        elif kind == b"O":
            self._reopen()
        elif kind == b"T":
            self.activity.touch()

    def _quiesce(self, order: dict[str, Any]) -> None:
        """Let nobody in any more, for a while, unless somebody used the sandbox too lately.

        Nothing can come between the look and the deed: this process does one thing at a time.
        """
        idle = self.activity.idle_seconds
        closed = self._phase == "ready" and idle >= order["idle_seconds"]
        if closed:
            self._reopen()
            self._quiet = self._loop.call_later(order["seconds"], self._reopen)
        said = {"number": order["number"], "idle_seconds": idle, "closed": closed}
        self.link.send(b"Z" + json.dumps(said).encode())

    def _reopen(self) -> None:
        """Let people in again, and take what they sent meanwhile."""
        if self._quiet is None:
            return
        self._quiet.cancel()
        self._quiet = None
        for visitor in list(self.visitors):
            if isinstance(visitor.exchange, Exchange):
                visitor.exchange.resume()
        self._admit_waiting()

    def _admit_waiting(self) -> None:
        """Decide anew about requests that came too early to be decided."""
        for visitor in list(self.visitors):
            visitor.resume()

    @property
    def is_fresh(self) -> bool:
        """Whether programs inside may be about to listen: whoever opens a page waits for that."""
        return self._loop.time() < self._fresh_until

    @property
    def is_quiet(self) -> bool:
        """Whether what visitors send is to wait: the sandbox is about to be stopped, or not."""
        return self._quiet is not None

    def _recheck(self) -> None:
        """Cut whoever is no longer let in; again when the next key expires."""
        policy, now = self._policy, time.time()
        if policy is None:
            return
        for visitor in list(self.visitors):
            visitor.recheck(None if self._phase == "lapsed" else policy, now)
        if self._expiring is not None:
            self._expiring.cancel()
        wait = min(policy.next_expiry(now) - now, _LONGEST_TIMER)
        self._expiring = self._loop.call_later(wait, self._recheck)

    # -- visitors ----------------------------------------------------------------------------

    def greet(self, visitor: Visitor) -> None:
        """Take a visitor in."""
        self.visitors.add(visitor)
        self._tick_later()

    def open(self, visitor: Visitor, head: RequestHead) -> Exchange | ControlMessage | bytes:
        """Decide what becomes of a request: an exchange to be started, or a finished answer.

        Raises:
            RefusedError: it is to be answered so.
            TooEarlyError: the sandbox is starting, or perhaps about to be stopped: it has to wait.
        """
        route = self._router.find(head.host, head.target)
        if route.kind == HEALTH:
            body = json.dumps({"sandbox": self._sandbox, "phase": self._phase}).encode()
            head_only = head.method == b"HEAD"
            return answer(200, [b"Content-Type: application/json"], body, head_only=head_only)
        if route.kind == MESSAGE:
            return ControlMessage(self, visitor, head)
        if not self._closed and (self.is_quiet or self._phase == "assign"):
            raise TooEarlyError
        if self._policy is None or self._phase != "ready":
            verb = _UNREADY.get(self._phase, "stopping")
            raise RefusedError(503, f"the sandbox is {verb}", _RETRY_AFTER)
        try:
            admission = self._policy.admit(head, route, time.time())
        except RefusedError as refused:
            if route.kind == PREVIEW:
                return _turned_away(head, refused)
            raise
        if admission.moves:
            return answer(303, gate_cookie.move(admission.target, admission.cookie), b"")
        visitor.grant = admission.grant
        wish = head.values.get(b"x-daytona-disable-cors", b"")
        if wish.lower() == b"true":
            admission = admission._replace(cors=False)
        sent = self._rendered(head, route, admission)
        return Exchange(self, visitor, head, route.port, sent, admission)

    def _rendered(self, head: RequestHead, route: Route, admission: Admission) -> bytes:
        """Write the head as it goes on."""
        drop, add = admission.drop, admission.add
        drop.update(head.aliases)
        if route.port == AGENT_PORT:
            add += vouch(head, route, self._secret, drop)
        if b"x-forwarded-host" not in head.values:
            add.append(b"X-Forwarded-Host: " + head.host)
        return head.render(admission.target, drop, add)

    async def connect(self, port: int, exchange: Exchange) -> None:
        """Connect to a port inside and attach the connection to ``exchange``.

        Raises:
            DialError: nothing accepts there.
        """
        sock = await self.link.dial(port)
        upstream = Upstream(self.pool, port, exchange)
        await self._loop.create_connection(lambda: upstream, sock=sock)
        self._tick_later()

    # -- time --------------------------------------------------------------------------------

    def _tick_later(self) -> None:
        if self._ticking is None:
            self._ticking = self._loop.call_later(TICK_SECONDS, self._tick)

    def _tick(self) -> None:
        """Close what has been idle for long; no timer runs while there is nothing to close."""
        self._ticking = None
        now = time.monotonic()
        for visitor in list(self.visitors):
            visitor.expire(now)
        self.pool.expire()
        if self.visitors or self.pool:
            self._tick_later()


def _turned_away(head: RequestHead, refused: RefusedError) -> bytes:
    """Answer a browser that may not see a preview, in a way that helps it.

    Raises:
        RefusedError: it is no browser.
    """
    if is_preflight(head):
        return preflight_answer(head)  # browsers send no credentials with it
    if not gate_cookie.is_navigation(head.values):
        raise refused
    lines = [*gate_cookie.ENTRY_LINES, *refused.lines]
    page, is_head = gate_cookie.ENTRY_PAGE, head.method == b"HEAD"
    return answer(refused.status, lines, page, head_only=is_head)


async def _listen(
    listener: socket.socket, channel: socket.socket, *, sandbox_id: str, domain: str
) -> None:
    loop = asyncio.get_running_loop()
    gate = Gate(channel, sandbox_id=sandbox_id, domain=domain, on_end=lambda: os._exit(0))
    await loop.create_server(lambda: Visitor(gate), sock=listener, backlog=_BACKLOG)


def serve(
    listener: socket.socket,
    channel: socket.socket,
    confine: Callable[[], None],
    *,
    sandbox_id: str,
    domain: str,
) -> None:
    """Listen, call ``confine``, and only then read what comes, until the holder is gone."""
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)  # accepted ones inherit it
    for option, value in _PROBES:
        listener.setsockopt(socket.IPPROTO_TCP, option, value)
    loop = asyncio.SelectorEventLoop()
    asyncio.set_event_loop(loop)
    loop.set_exception_handler(report)
    loop.run_until_complete(_listen(listener, channel, sandbox_id=sandbox_id, domain=domain))
    for encoding in ENCODINGS:
        codecs.lookup(encoding)
    confine()
    gc.collect()
    gc.freeze()
    loop.run_forever()


def report(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Write one line about an error that nothing handled; it has cost one connection."""
    error = context.get("exception")
    where = ""
    trace = getattr(error, "__traceback__", None)
    while trace is not None:
        where = f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}"
        trace = trace.tb_next
    sys.stderr.write(f"gate: {context['message']}: {type(error).__name__} at {where}\n")


TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from jobs.runner.gate_auth import Admission
    from jobs.runner.gate_http import RequestHead
    from jobs.runner.gate_route import Route
