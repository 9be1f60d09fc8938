"""One request and its answer on their way through the gate.

Bytes are passed on as they come; only where a message ends is followed, to know when the
connections are free again. After an upgrade not even that.
"""

from __future__ import annotations

import asyncio

from jobs.runner.gate_activity import is_work
from jobs.runner.gate_body import UNTIL_CLOSE, Endless, FramingError, body_of
from jobs.runner.gate_cookie import is_navigation
from jobs.runner.gate_holder import DialError
from jobs.runner.gate_http import (
    HEAD_END,
    HEAD_LIMIT,
    RefusedError,
    ResponseHead,
    answer,
    refusal,
)
from jobs.runner.gate_route import AGENT_PORT

_REPEATABLE = frozenset((b"GET", b"HEAD", b"OPTIONS", b"PUT", b"DELETE", b"PROPFIND", b"REPORT"))
ANY_ORIGIN = b"Access-Control-Allow-Origin: *"
_SWITCHING = 101
_OK = 200
_CONTROL_FRAMES = frozenset((0x89, 0x8A))
_CONTROL_FRAME_LIMIT = 2 + 4 + 125

# A proxy written in Go (Traefik) looks at the request once more after it has sent the last byte of
# its body. If the answer's head overtakes that look, it takes the request for broken and closes the
# connection: what it has not read by then is lost. So an answer that does not come in one piece
# waits until the request has been with us for this long.
_SETTLE_SECONDS = 0.005
_ONE_PIECE = 4096

# How often somebody is tried to be reached who may be about to listen.
_AGAIN_SECONDS = 0.2


def is_preflight(head: RequestHead) -> bool:
    """Tell whether a browser asks by this request if a page may send another one."""
    asks = b"access-control-request-method" in head.values and b"origin" in head.values
    return asks and head.method == b"OPTIONS"


def preflight_lines(head: RequestHead) -> list[bytes]:
    """Allow what a preflight asks for, to pages of any origin, without credentials."""
    lines = [
        ANY_ORIGIN,
        b"Access-Control-Allow-Methods: " + head.values[b"access-control-request-method"],
        b"Access-Control-Max-Age: 600",
        b"Vary: Access-Control-Request-Method, Access-Control-Request-Headers",
    ]
    wanted = head.values.get(b"access-control-request-headers")
    if wanted:
        lines.append(b"Access-Control-Allow-Headers: " + wanted)
    return lines


def preflight_answer(head: RequestHead) -> bytes:
    """Answer a preflight."""
    return answer(204, preflight_lines(head), b"")


class Exchange:
    """A request that was admitted, from its head to the end of its answer.

    Args:
        gate: the gate.
        visitor: the connection that it came by.
        head: its head.
        port: where it goes.
        sent: the head as it is to be sent there.
        admission: what its answer is to say to browsers.
    """

    __slots__ = (
        "_answer",
        "_answer_body",
        "_body",
        "_cookie",
        "_cors",
        "_counts",
        "_dialling",
        "_ends",
        "_gate",
        "_head",
        "_held",
        "_holds",
        "_over",
        "_persist",
        "_port",
        "_repeatable",
        "_retry",
        "_sent",
        "_sent_at",
        "_spliced",
        "_upstream",
        "_works",
        "visitor",
    )

    def __init__(
        self,
        gate: Gate,
        visitor: Visitor,
        head: RequestHead,
        port: int,
        sent: bytes,
        admission: Admission,
    ) -> None:
        self._gate, self.visitor = gate, visitor
        self._head, self._port, self._sent = head, port, sent
        self._cors, self._cookie = admission.cors, admission.cookie
        self._body = body_of(head.length, drop_trailers=True)
        self._repeatable = self._body is None and head.method in _REPEATABLE
        self._retry = False
        self._upstream: Upstream | None = None
        self._dialling: asyncio.Task[None] | None = None
        self._answer = b""
        self._answer_body: Body | None = None
        self._held: tuple[bytes, bytes] | None = None
        self._sent_at = 0.0
        self._persist = False
        self._spliced = False
        self._ends = 0
        self._over = False
        skip = head.values.get(b"x-daytona-skip-last-activity-update", b"")
        self._counts = skip.lower() != b"true"
        self._works = port == AGENT_PORT and is_work(sent.split(b" ", 2)[1])
        self._holds = self._counts
        if self._holds:
            gate.activity.hold()

    # -- towards the app ---------------------------------------------------------------------

    def start(self) -> None:
        """Send the request on a kept connection, or dial."""
        upstream = self._gate.pool.take(self._port, repeatable=self._repeatable)
        if upstream is None:
            self._dial()
        else:
            self._retry = self._repeatable
            upstream.exchange = self
            self.attach(upstream)

    def _dial(self) -> None:
        self._dialling = asyncio.get_running_loop().create_task(self._connect())

    async def _connect(self) -> None:
        is_page = self._body is None and is_navigation(self._head.values)
        while True:
            try:
                await self._gate.connect(self._port, self)
            except DialError as error:
                if is_page and self._gate.is_fresh:
                    await asyncio.sleep(_AGAIN_SECONDS)
                    continue
                self._fail(RefusedError(502, str(error)))
            return

    def attach(self, upstream: Upstream) -> None:
        """Send the request on a connection that is ours now."""
        if self._over:
            upstream.transport.abort()
            return
        self._upstream = upstream
        if self.visitor.full:
            upstream.transport.pause_reading()
        upstream.transport.write(self._sent)
        if self._body is not None:
            self._send_body(self._body, self.visitor.take_held())

    def on_request(self, data: bytes) -> None:
        """Take bytes that the visitor sent."""
        if self._spliced and self._upstream is not None:
            if self._gate.is_quiet and self._counts and not _is_keepalive(data):
                self.visitor.hold(data)  # taken now it would be lost with the sandbox's end
                return
            self._upstream.transport.write(data)
            self._stir(data)
        elif self._body is None or self._upstream is None or self._body.done:
            self.visitor.hold(data)
        else:
            self._send_body(self._body, data)
            self._stir(data)

    def resume(self) -> None:
        """Take what had to wait while the gate was quiet."""
        if self._spliced:
            held = self.visitor.take_held()
            if held:
                self.on_request(held)

    def _send_body(self, body: Body, data: bytes) -> None:
        try:
            forward, rest = body.take(data)
        except FramingError as error:
            self._fail(RefusedError(400, f"malformed request: {error}"))
            return
        if forward and self._upstream is not None:
            self._upstream.transport.write(forward)
        if body.done:
            self._sent_at = asyncio.get_running_loop().time()
        if rest:
            self.visitor.hold(rest)

    # -- towards the visitor -----------------------------------------------------------------

    def on_answer(self, data: bytes) -> None:
        """Take bytes that came from inside."""
        if self._held is not None:
            self._held = (self._held[0], self._held[1] + data)
        elif self._answer_body is not None:
            self._pass_on(self._answer_body, b"", data)
            self._stir(data)
        elif self._spliced:
            self.visitor.transport.write(data)
            self._stir(data)
        else:
            self._retry = False
            self._answer += data
            try:
                self._read_heads()
            except FramingError as error:
                text = f"port {self._port} inside the sandbox does not answer in HTTP: {error}"
                self._fail(RefusedError(502, text))

    def _read_heads(self) -> None:
        """Read the head of the answer and those of interim ones (100, 103) before it."""
        while (end := self._answer.find(HEAD_END, 0, HEAD_LIMIT)) >= 0:
            end += len(HEAD_END)
            raw, rest = self._answer[:end], self._answer[end:]
            head = ResponseHead(raw, self._head.method)
            self._answer = rest
            if head.status == _SWITCHING:
                self._splice(raw, rest)
                return
            if head.status >= _OK:
                self._begin_answer(head, raw, rest)
                return
            self.visitor.transport.write(raw)
        if len(self._answer) >= HEAD_LIMIT:
            raise FramingError("its head is too long")

    def _begin_answer(self, head: ResponseHead, raw: bytes, rest: bytes) -> None:
        self._answer = b""
        self._answered()
        if self._cors and not head.answers_cors:
            if is_preflight(self._head):
                self.visitor.transport.write(preflight_answer(self._head))
                self._persist = self._head.keep_alive  # whatever becomes of the app's connection
                self._finish(reuse=False)
                return
            raw = raw[:-2] + ANY_ORIGIN + b"\r\nAccess-Control-Expose-Headers: *\r\n\r\n"
        if self._cookie:
            raw = raw[:-2] + self._cookie + b"\r\n\r\n"
        kept = self._head.keep_alive and head.keep_alive
        self._persist = kept and head.length != UNTIL_CLOSE
        body = body_of(head.length)
        if body is None:
            self.visitor.transport.write(raw)
            self._finish(reuse=not rest)
        else:
            self._answer_body = body
            if not self._hold(head, raw, rest):
                self._pass_on(body, raw, rest)

    def _hold(self, head: ResponseHead, raw: bytes, rest: bytes) -> bool:
        """Keep the beginning of an answer back that came very soon after its request's end."""
        loop = asyncio.get_running_loop()
        early = self._sent_at + _SETTLE_SECONDS - loop.time()
        whole = 0 <= head.length <= len(rest) and len(raw) + head.length <= _ONE_PIECE
        if early <= 0 or whole or self._upstream is None:
            return False
        self._held = (raw, rest)
        self._upstream.transport.pause_reading()
        loop.call_later(early, self._release)
        return True

    def _release(self) -> None:
        """Send what was kept back."""
        held, self._held = self._held, None
        if held is None or self._over or self._answer_body is None:
            return
        if self._upstream is not None and not self.visitor.full:
            self._upstream.transport.resume_reading()
        self._pass_on(self._answer_body, *held)

    def _pass_on(self, body: Body, head: bytes, data: bytes) -> None:
        """Send what belongs to the answer, with its head where it has not been sent yet."""
        try:
            forward, rest = body.take(data)
        except FramingError:
            self._break_off()
            return
        self.visitor.transport.write(head + forward if head else forward)
        if body.done:
            self._finish(reuse=not rest)

    def _splice(self, raw: bytes, rest: bytes) -> None:
        if not self._head.upgrade or self._upstream is None:
            raise FramingError("it switches protocols unasked")
        self._spliced = True
        self._answered()
        self.visitor.transport.write(raw + rest)
        held = self.visitor.take_held()
        if held:
            self._upstream.transport.write(held)

    def _answered(self) -> None:
        """Note activity; from here on only bytes are some, unless it is work."""
        if self._counts:
            self._gate.activity.touch()
            if not self._works:
                self._release_hold()

    def _release_hold(self) -> None:
        if self._holds:
            self._holds = False
            self._gate.activity.release()

    def _stir(self, data: bytes) -> None:
        """Note activity, unless all that was sent is a WebSocket's ping or pong."""
        if self._counts and not (self._spliced and _is_keepalive(data)):
            self._gate.activity.touch()

    # -- ends --------------------------------------------------------------------------------

    def _finish(self, *, reuse: bool) -> None:
        """End after a complete answer; connections go on where nothing is left on them."""
        sent = self._body is None or self._body.done
        upstream = self._detach()
        if upstream is not None:
            if reuse and sent and self._persist:
                if self.visitor.full:
                    upstream.transport.resume_reading()
                self._gate.pool.put(upstream)
            else:
                upstream.transport.abort()
        self.visitor.next(persist=self._persist and sent, linger=not sent)

    def _fail(self, refused: RefusedError) -> None:
        """End with an answer of our own, if none has begun."""
        if self._answer_body is not None:
            self._break_off()
            return
        upstream = self._detach()
        if upstream is not None:
            upstream.transport.abort()
        sent = self._body is None
        persist = sent and self._head.keep_alive
        if self._cors:
            refused.lines += (ANY_ORIGIN,)  # pages elsewhere are to see what is wrong
        text = refusal(refused, self._head.method.decode(), self._head.path, close=not persist)
        self.visitor.transport.write(text)
        self.visitor.next(persist=persist, linger=not sent)

    def _break_off(self) -> None:
        """End in the middle of an answer, in a way that cannot be taken for its end."""
        upstream = self._detach()
        if upstream is not None:
            upstream.transport.abort()
        self.visitor.transport.abort()

    def _detach(self) -> Upstream | None:
        upstream, self._upstream = self._upstream, None
        if upstream is not None:
            upstream.exchange = None
        if self._holds and self._works and (self._answer_body is not None or self._spliced):
            self._gate.activity.touch()
        self._release_hold()
        self._over = True
        return upstream

    def on_upstream_lost(self, error: Exception | None) -> None:
        """Deal with the app closing the connection."""
        self._upstream = None
        self._release()
        if self._over:
            return
        if self._retry:
            self._retry = False
            self._dial()
        elif self._spliced:
            self._detach()
            self.visitor.transport.close()
        elif self._answer_body is not None:
            if error is None and isinstance(self._answer_body, Endless):
                self._detach()
                self.visitor.transport.close()
            else:
                self._break_off()
        else:
            text = f"port {self._port} inside the sandbox closed the connection without an answer"
            self._fail(RefusedError(502, text))

    def on_upstream_eof(self) -> bool:
        """Pass a half-close on; tell whether the other half stays open."""
        return self._spliced and self._half_close(self.visitor.transport)

    def on_visitor_eof(self) -> bool:
        """See ``on_upstream_eof``; a plain HTTP client that half-closes has gone away."""
        if not self._spliced or self._upstream is None:
            return False
        return self._half_close(self._upstream.transport)

    def _half_close(self, other: asyncio.Transport) -> bool:
        self._ends += 1
        if self._ends == 1 and not other.is_closing():
            other.write_eof()
            return True
        other.close()
        return False

    def on_visitor_lost(self) -> None:
        """Deal with the visitor going away."""
        if self._dialling is not None:
            self._dialling.cancel()
        upstream = self._detach()
        if upstream is not None:
            upstream.transport.abort()

    def set_full(self, *, full: bool) -> None:
        """Hold the app back while the visitor reads slowly."""
        if self._upstream is not None:
            if full:
                self._upstream.transport.pause_reading()
            else:
                self._upstream.transport.resume_reading()


def _is_keepalive(data: bytes) -> bool:
    """Tell whether ``data`` is exactly one ping or pong frame of a WebSocket (RFC 6455)."""
    size = len(data)
    if not 2 <= size <= _CONTROL_FRAME_LIMIT or data[0] not in _CONTROL_FRAMES:
        return False
    mask = 4 if data[1] & 0x80 else 0
    return size == 2 + mask + (data[1] & 0x7F)


TYPE_CHECKING = False
if TYPE_CHECKING:
    from jobs.runner.gate_auth import Admission
    from jobs.runner.gate_body import Body
    from jobs.runner.gate_http import RequestHead
    from jobs.runner.gate_service import Gate
    from jobs.runner.gate_upstream import Upstream
    from jobs.runner.gate_visitor import Visitor
