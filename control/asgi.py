"""What the parts below the framework share of ASGI: types, header fields, ready answers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from http import HTTPStatus
from typing import Any

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

Fields = list[tuple[bytes, bytes]]

_DENIAL = "websocket.http.response"


def field_values(scope: Scope, name: bytes) -> list[str]:
    """Return the values of a header field, ``name`` in lower case."""
    return [value.decode("latin-1") for key, value in scope["headers"] if key == name]


def field_value(scope: Scope, name: bytes) -> str | None:
    """Return the value of a header field that is there once; None if it is not, or more often."""
    values = field_values(scope, name)
    return values[0] if len(values) == 1 else None


def raw_path(scope: Scope) -> bytes:
    """Return the path as it was asked for, nothing decoded."""
    raw: bytes = scope.get("raw_path") or scope["path"].encode()
    return raw.partition(b"?")[0]


async def respond(scope: Scope, send: Send, status: int, fields: Fields, body: bytes) -> None:
    """Send a whole answer; to a WebSocket handshake, too."""
    prefix = "http"
    if scope["type"] == "websocket":
        if _DENIAL not in scope.get("extensions", {}):
            await send({"type": "websocket.close", "code": 1008})
            return
        prefix = "websocket.http"
    if status != HTTPStatus.NO_CONTENT:
        fields = [*fields, (b"content-length", str(len(body)).encode())]
    await send({"type": f"{prefix}.response.start", "status": status, "headers": fields})
    await send({"type": f"{prefix}.response.body", "body": b"" if _is_head(scope) else body})


def _is_head(scope: Scope) -> bool:
    return scope.get("method") == "HEAD"
