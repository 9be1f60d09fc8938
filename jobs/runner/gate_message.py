"""Control's messages: taken whole from a visitor and passed to the holder, unread."""

from __future__ import annotations

import asyncio

from jobs.runner.gate_body import body_of
from jobs.runner.gate_holder import MESSAGE_LIMIT
from jobs.runner.gate_http import RefusedError, answer, refusal


class ControlMessage:
    """A message from control to the holder, which alone can read its seal."""

    __slots__ = ("_answering", "_body", "_gate", "_head", "_taken", "visitor")

    def __init__(self, gate: Gate, visitor: Visitor, head: RequestHead) -> None:
        """Prepare to take the message.

        Raises:
            RefusedError: it is not a POST of bounded length.
        """
        if head.method != b"POST":
            raise RefusedError(405, "messages are posted", b"Allow: POST")
        if head.length < 0:
            raise RefusedError(411, "a message has a Content-Length")
        if head.length > MESSAGE_LIMIT:
            raise RefusedError(413, f"a message is at most {MESSAGE_LIMIT} bytes long")
        self._gate, self.visitor, self._head = gate, visitor, head
        self._body = body_of(head.length)
        self._taken: list[bytes] = []
        self._answering: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Take what is there of the body."""
        self.on_request(self.visitor.take_held())

    def on_request(self, data: bytes) -> None:
        """Take bytes that control sent."""
        if self._answering is not None:
            self.visitor.hold(data)
            return
        if self._body is not None:
            forward, data = self._body.take(data)
            self._taken.append(forward)
        if self._body is None or self._body.done:
            self._answering = asyncio.get_running_loop().create_task(self._answer())
            if data:
                self.visitor.hold(data)

    async def _answer(self) -> None:
        fields = {
            name.decode(): value.decode("latin-1")
            for name, value in self._head.fields
            if name.startswith(b"x-yurt-")
        }
        try:
            got = await self._gate.link.message(fields, b"".join(self._taken).decode())
        except UnicodeDecodeError:
            refused = RefusedError(400, "the message is not UTF-8")
            text = refusal(refused, "POST", self._head.path, close=False)
        except TimeoutError:
            refused = RefusedError(504, "the runner did not answer")
            text = refusal(refused, "POST", self._head.path, close=False)
        else:
            lines = [f"{name}: {value}".encode() for name, value in got["headers"].items()]
            text = answer(got["status"], lines, got["body"].encode())
        self.visitor.transport.write(text)
        self.visitor.next(persist=self._head.keep_alive, linger=False)

    def on_visitor_eof(self) -> bool:
        """Control has gone away."""
        return False

    def on_visitor_lost(self) -> None:
        """Let nobody wait for the answer."""
        if self._answering is not None:
            self._answering.cancel()

    def set_full(self, *, full: bool) -> None:
        """Nothing streams here."""


TYPE_CHECKING = False
if TYPE_CHECKING:
    from jobs.runner.gate_http import RequestHead
    from jobs.runner.gate_service import Gate
    from jobs.runner.gate_visitor import Visitor
