"""Pass a request on to a gate: streaming, both ways, HTTP and WebSocket.

Only the edge uses it, in the moments when a sandbox is up but Traefik does not know it yet; so it
need be right, not fast. The gate authorises; here nothing is looked at.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Self

import httpx
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import (
    ConnectionClosed,
    InvalidHandshake,
    InvalidMessage,
    InvalidStatus,
)
from websockets.frames import CloseCode

from control.asgi import field_value, field_values, raw_path, respond
from control.errors import UnavailableError
from control.gates import host, no_tls

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from control.asgi import Fields, Receive, Scope, Send

_CONNECT_SECONDS = 2.0
# Messages are held whole here; through Traefik they are not, and may have any size.
MAX_MESSAGE_BYTES = 16 << 20
# About one connection, not about the request (RFC 9110 §7.6.1), and what only gates may say.
_HOP_BY_HOP = {
    b"connection",
    b"keep-alive",
    b"proxy-connection",
    b"te",
    b"trailer",
    b"transfer-encoding",
    b"upgrade",
    b"expect",
}
_OF_A_HANDSHAKE = b"sec-websocket-"
_UNSENDABLE = {CloseCode.NO_STATUS_RCVD, CloseCode.ABNORMAL_CLOSURE, CloseCode.TLS_HANDSHAKE}


class Forwarder:
    """The way to gates for requests; use as an asynchronous context manager."""

    def __init__(self) -> None:
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
        self._transport = httpx.AsyncHTTPTransport(limits=limits, trust_env=False, verify=no_tls())

    async def __aenter__(self) -> Self:
        await self._transport.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._transport.aclose()

    async def pass_on(
        self, scope: Scope, receive: Receive, send: Send, address: tuple[str, int]
    ) -> None:
        """Pass a request on to ``address`` and its answer back.

        Raises:
            UnavailableError: the gate did not answer; nothing was sent.
        """
        if scope["type"] == "websocket":
            await _websocket(scope, receive, send, address)
        else:
            await self._http(scope, receive, send, address)

    async def _http(
        self, scope: Scope, receive: Receive, send: Send, address: tuple[str, int]
    ) -> None:
        gone = asyncio.Event()
        request = httpx.Request(
            scope["method"],
            f"http://{host(address[0])}:{address[1]}",
            headers=_passed(scope),
            content=_body(receive, gone) if _has_body(scope) else None,
            extensions={
                "target": _target(scope),
                "timeout": {"connect": _CONNECT_SECONDS, "pool": None, "read": None, "write": None},
            },
        )
        passing = asyncio.ensure_future(self._exchange(request, send))
        leaving = asyncio.ensure_future(_left(receive, gone, has_body=_has_body(scope)))
        try:
            await asyncio.wait({passing, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if passing.done():
                await passing
        finally:
            for task in (passing, leaving):
                task.cancel()
            await asyncio.gather(passing, leaving, return_exceptions=True)

    async def _exchange(self, request: httpx.Request, send: Send) -> None:
        try:
            response = await self._transport.handle_async_request(request)
        except httpx.HTTPError as error:
            raise UnavailableError("the sandbox does not answer; try again") from error
        async with contextlib.aclosing(response):
            fields = [
                (name.lower(), value)
                for name, value in response.headers.raw
                if name.lower() not in _HOP_BY_HOP
            ]
            await send(
                {"type": "http.response.start", "status": response.status_code, "headers": fields}
            )
            async for chunk in response.aiter_raw():
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await send({"type": "http.response.body", "body": b""})


def _target(scope: Scope) -> bytes:
    query: bytes = scope["query_string"]
    return raw_path(scope) + (b"?" + query if query else b"")


def _passed(scope: Scope) -> Fields:
    """Select the fields that go on."""
    named = {
        word.strip().lower().encode("latin-1")
        for value in field_values(scope, b"connection")
        for word in value.split(",")
    }
    dropped = _HOP_BY_HOP | (named - {b"host"})
    return [(name, value) for name, value in scope["headers"] if name not in dropped]


def _has_body(scope: Scope) -> bool:
    length = field_value(scope, b"content-length")
    return length not in {None, "0"} or bool(field_values(scope, b"transfer-encoding"))


async def _body(receive: Receive, gone: asyncio.Event) -> AsyncIterator[bytes]:
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            gone.set()
            raise httpx.WriteError("the client went away")
        if message.get("body"):
            yield message["body"]
        if not message.get("more_body"):
            break
    gone.set()  # from here on, ``receive`` only tells of the end


async def _left(receive: Receive, gone: asyncio.Event, *, has_body: bool) -> None:
    """Return when the client has gone away; while its body is sent, that is not our business."""
    if has_body:
        await gone.wait()
    while (await receive())["type"] != "http.disconnect":
        continue


async def _websocket(scope: Scope, receive: Receive, send: Send, address: tuple[str, int]) -> None:
    await receive()  # the handshake
    fields = [
        (name.decode("latin-1"), value.decode("latin-1"))
        for name, value in _passed(scope)
        if not name.startswith(_OF_A_HANDSHAKE) and name not in {b"host", b"origin"}
    ]
    authority = field_value(scope, b"host") or host(address[0])
    try:
        upstream = await connect(
            f"ws://{authority}{_target(scope).decode('latin-1')}",
            host=address[0],
            port=address[1],
            origin=field_value(scope, b"origin"),  # type: ignore[arg-type] # a NewType of str
            subprotocols=scope.get("subprotocols") or None,
            additional_headers=fields,
            user_agent_header=None,
            compression=None,
            max_size=MAX_MESSAGE_BYTES,
            ping_interval=None,
            open_timeout=None,
            proxy=None,
        )
    except InvalidStatus as refused:
        await _deny(scope, send, refused)
        return
    except (OSError, InvalidHandshake, InvalidMessage) as error:
        raise UnavailableError("the sandbox does not answer; try again") from error
    async with upstream:
        await send({"type": "websocket.accept", "subprotocol": upstream.subprotocol})
        await _bridge(receive, send, upstream)


async def _deny(scope: Scope, send: Send, refused: InvalidStatus) -> None:
    response = refused.response
    fields = [
        (name.lower().encode("latin-1"), value.encode("latin-1"))
        for name, value in response.headers.raw_items()
        if name.lower() in {"content-type", "www-authenticate", "retry-after"}
    ]
    await respond(scope, send, response.status_code, fields, bytes(response.body or b""))


async def _bridge(receive: Receive, send: Send, upstream: ClientConnection) -> None:
    """Pass messages both ways until one side ends."""
    up = asyncio.ensure_future(_upwards(receive, upstream))
    down = asyncio.ensure_future(_downwards(send, upstream))
    try:
        await asyncio.wait({up, down}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (up, down):
            task.cancel()
        await asyncio.gather(up, down, return_exceptions=True)


async def _upwards(receive: Receive, upstream: ClientConnection) -> None:
    with contextlib.suppress(ConnectionClosed):
        while (message := await receive())["type"] == "websocket.receive":
            text = message.get("text")
            await upstream.send(message["bytes"] if text is None else text)
        code = message.get("code") or CloseCode.NORMAL_CLOSURE
        await upstream.close(CloseCode.GOING_AWAY if code in _UNSENDABLE else code)


async def _downwards(send: Send, upstream: ClientConnection) -> None:
    try:
        async for message in upstream:
            kind = "text" if isinstance(message, str) else "bytes"
            await send({"type": "websocket.send", kind: message})
    except ConnectionClosed:
        pass
    code = upstream.close_code or CloseCode.NORMAL_CLOSURE
    sendable = CloseCode.INTERNAL_ERROR if code in _UNSENDABLE else code
    await send({"type": "websocket.close", "code": sendable, "reason": upstream.close_reason or ""})
