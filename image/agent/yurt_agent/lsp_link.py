"""JSON-RPC with a language server: requests, notifications, and answers to what it asks.

Knows no language and no process, only a pair of streams.
"""

from __future__ import annotations

import asyncio
import itertools
import json

from yurt_agent.errors import BadGatewayError, BadRequestError, RequestTimeoutError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

MESSAGE_BYTES = 64 << 20
"""Longest message that is taken from a server; a longer one ends the connection."""

HEAD_LINES = 16
_UNKNOWN_METHOD = -32601
_EMPTY_ANSWERS = frozenset({"client/registerCapability", "window/workDoneProgress/create"})


class Link:
    """One connection; many may ask at once."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Own both streams, and read from now on."""
        self._reader, self._writer = reader, writer
        self._numbers = itertools.count(1)
        self._asked: dict[int, asyncio.Future[object]] = {}
        self._task = asyncio.get_running_loop().create_task(self._read())

    async def request(self, method: str, params: object, seconds: float) -> object:
        """Ask, and return the result.

        Raises:
            RequestTimeoutError: no answer came in time; the server is told to give up.
            BadRequestError: the server refuses.
            BadGatewayError: the server has ended.
        """
        if self.ended:
            raise _ended()
        number = next(self._numbers)
        answer = self._asked[number] = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(seconds):
                await self._send({"id": number, "method": method, "params": params})
                return await answer
        except TimeoutError:
            raise RequestTimeoutError(
                f"the language server did not answer {method} within {seconds:.0f} s: ask again, "
                "or stop and start it"
            ) from None
        finally:
            del self._asked[number]
            if not answer.done() and not self._task.done():
                self._write({"method": "$/cancelRequest", "params": {"id": number}})

    async def notify(self, method: str, params: object) -> None:
        """Tell.

        Raises:
            BadGatewayError: the server has ended.
        """
        await self._send({"method": method, "params": params})

    @property
    def ended(self) -> bool:
        """Whether nothing more can come from the server."""
        return self._task.done()

    def close(self) -> None:
        """End; who still waits for an answer hears that the server has ended."""
        self._task.cancel()
        self._writer.close()

    async def _send(self, message: Mapping[str, object]) -> None:
        self._write(message)
        try:
            await self._writer.drain()
        except OSError:
            raise _ended() from None

    def _write(self, message: Mapping[str, object]) -> None:
        body = json.dumps({"jsonrpc": "2.0", **message}).encode()
        self._writer.write(b"Content-Length: %d\r\n\r\n%b" % (len(body), body))

    async def _read(self) -> None:
        try:
            while True:
                self._take(await self._message())
        except (OSError, EOFError, ValueError):
            pass  # it has ended, or speaks another protocol: in both cases nothing more comes
        finally:
            self._writer.close()
            for answer in self._asked.values():
                if not answer.done():
                    answer.set_exception(_ended())

    async def _message(self) -> dict[str, object]:
        size = -1
        for _ in range(HEAD_LINES):
            line = (await self._reader.readuntil(b"\r\n")).strip().lower()
            if not line and size >= 0:
                break
            name, _, value = line.partition(b":")
            if name == b"content-length":
                size = int(value)
        if not 0 <= size <= MESSAGE_BYTES:
            raise ValueError(f"a message of {size} bytes")
        message = json.loads(await self._reader.readexactly(size))
        if not isinstance(message, dict):
            raise ValueError("a message that is no object")
        return message

    def _take(self, message: Mapping[str, object]) -> None:
        number = message.get("id")
        if "method" in message:
            if number is not None:
                self._write({"id": number, **_reply(message)})
            return
        answer = self._asked.get(number) if isinstance(number, int) else None
        if answer is None or answer.done():
            return  # nobody waits for it any more
        error = message.get("error")
        if isinstance(error, dict):
            reason = error.get("message") or error
            answer.set_exception(BadRequestError(f"the language server refuses: {reason}"))
        else:
            answer.set_result(message.get("result"))


def _reply(message: Mapping[str, object]) -> dict[str, object]:
    """Answer what a server asks of an editor; we are none and have nothing to show."""
    method, params = message["method"], message.get("params")
    if method == "workspace/configuration" and isinstance(params, dict):
        return {"result": [None] * len(params.get("items", ()))}
    if method in _EMPTY_ANSWERS:
        return {"result": None}
    return {"error": {"code": _UNKNOWN_METHOD, "message": f"{method} is not supported here"}}


def _ended() -> BadGatewayError:
    return BadGatewayError("the language server has ended: the next call starts it again")
