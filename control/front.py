"""The first look at each request: for whom is it?

Read are the ``Host`` field and the path as they were sent, each by one parser; everything after
uses what they returned. The API answers to its own names only, so that no page on the internet can
reach it by a name that it points here.
"""

from __future__ import annotations

import logging
import re
import time
from dataclasses import dataclass
from http import HTTPStatus
from secrets import token_hex
from typing import TYPE_CHECKING

from control.api.envelope import envelope, no_route
from control.asgi import field_value, raw_path, respond
from control.errors import InvalidError, MisdirectedError, TooLargeError, YurtError
from control.listen import is_for_runners
from control.logs import REQUEST_ID
from control.naming import parse_preview_host, parse_toolbox_path, split_host

if TYPE_CHECKING:
    from control.asgi import App, Message, Receive, Scope, Send
    from control.edge import Edge
    from control.metrics import Metrics
    from control.model import ApiKey
    from control.settings import Settings
    from control.trail import Trail

MAX_BODY_BYTES = 1 << 20
EVENTS_PATH = b"/api/socket.io/"
REPORT_PATH = b"/internal/report"
METRICS_PATH = b"/metrics"
REQUEST_ID_FIELD = b"x-request-id"
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")
_ID_BYTES = 16
_ROUTE = "yurt.route"
_HEADS = frozenset({"http.response.start", "websocket.http.response.start"})
_READING = frozenset({"GET", "HEAD", "OPTIONS"})

# A signed label opens a preview as long as it is not expired: it is no word for a log.
_SIGNED = re.compile(r"(?<=/signed-preview-url/)[^/]+")

# What an answer about something new begins with.
_MADE = re.compile(rb'^\{"id":"([^"]{1,64})"')
_LOOKED_AT = 100

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Doors:
    """Who serves what is let in."""

    api: App
    edge: Edge
    events: App


class Front:
    """The application that the server runs: the API and the edge behind one door."""

    def __init__(self, settings: Settings, doors: Doors, trail: Trail, metrics: Metrics) -> None:
        self._settings, self._trail, self._metrics = settings, trail, metrics
        self._api, self._edge, self._events = doors.api, doors.edge, doors.events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, under its id."""
        request_id = _identified(scope)
        token = REQUEST_ID.set(request_id)
        told = self._told(scope, send, request_id)
        try:
            await self._route(scope, receive, told)
        except YurtError as error:
            response = envelope(error, scope["path"])
            fields = [(n, v) for n, v in response.raw_headers if n != b"content-length"]
            await respond(scope, told, error.status, fields, bytes(response.body))
        finally:
            REQUEST_ID.reset(token)

    def _told(self, scope: Scope, send: Send, request_id: str) -> Send:
        """Measure until the answer begins, and give it the request's id."""
        begin = time.perf_counter()

        async def tell(message: Message) -> None:
            if message["type"] in _HEADS:
                fields = message.get("headers", ())
                if all(name.lower() != REQUEST_ID_FIELD for name, _ in fields):
                    fields = [*fields, (REQUEST_ID_FIELD, request_id.encode())]
                message = {**message, "headers": fields}
                seconds = time.perf_counter() - begin
                method = scope.get("method", "GET")
                self._metrics.answered(method, _route_of(scope), message["status"], seconds)
            await send(message)

        return tell

    async def _route(self, scope: Scope, receive: Receive, send: Send) -> None:
        field = field_value(scope, b"host")
        if field is None:
            raise InvalidError("A request names exactly one host")
        name, _ = split_host(field)
        preview = parse_preview_host(name, self._settings.domains)
        if preview is not None:
            scope[_ROUTE] = "preview"
            await self._edge.preview(scope, receive, send, preview)
            return
        if name not in self._settings.own_hosts:
            raise MisdirectedError(f"This server does not answer for {name[:255]}")
        path = raw_path(scope)
        sandbox_id = parse_toolbox_path(path.decode("latin-1"))
        if sandbox_id is not None:
            scope[_ROUTE] = "toolbox"
            await self._edge.toolbox(scope, receive, send, sandbox_id)
            return
        if path == EVENTS_PATH and scope["type"] == "websocket":
            await self._events(scope, receive, send)
            return
        is_ours = (
            path.startswith(b"/api/")
            or path == METRICS_PATH
            or (
                path == REPORT_PATH and is_for_runners(scope["server"], self._settings.control_door)
            )
        )
        if not is_ours or scope["type"] == "websocket":
            raise no_route(scope.get("method", "GET"), scope["path"])
        await self._api(scope, _bounded(scope, receive), _audited(scope, send, self._trail))


def _identified(scope: Scope) -> str:
    """Return the request's id, a new one unless the client sent one that is fit for a log.

    Whoever serves the request finds it among its fields, and so does a gate that it is passed to.
    """
    sent = field_value(scope, REQUEST_ID_FIELD) or ""
    if _REQUEST_ID.fullmatch(sent):
        return sent
    made = token_hex(_ID_BYTES)
    others = [(name, value) for name, value in scope["headers"] if name != REQUEST_ID_FIELD]
    scope["headers"] = [*others, (REQUEST_ID_FIELD, made.encode())]
    return made


def _route_of(scope: Scope) -> str:
    """Return the template that a request fits."""
    route: str = getattr(scope.get("route"), "path", "") or scope.get(_ROUTE, "none")
    return route


def _bounded(scope: Scope, receive: Receive) -> Receive:
    """Refuse bodies that are too large, those that say so at once."""
    if int(_digits(field_value(scope, b"content-length"))) > MAX_BODY_BYTES:
        raise TooLargeError(f"The body is larger than {MAX_BODY_BYTES >> 20} MiB")
    taken = 0

    async def take() -> Message:
        nonlocal taken
        message = await receive()
        taken += len(message.get("body", b""))
        if taken > MAX_BODY_BYTES:
            raise TooLargeError(f"The body is larger than {MAX_BODY_BYTES >> 20} MiB")
        return message

    return take


def _audited(scope: Scope, send: Send, trail: Trail) -> Send:
    """Note who changed what, and how that ended, before it is answered."""
    if scope["method"] in _READING:
        return send
    held: list[Message] = []

    async def note(message: Message) -> None:
        if message["type"] == "http.response.start":
            held.append(message)
            return
        if held:
            start = held.pop()
            await _write(scope, start["status"], message.get("body", b""), trail)
            await send(start)
        await send(message)

    return note


async def _write(scope: Scope, status: int, body: bytes, trail: Trail) -> None:
    key: ApiKey | None = scope.get("yurt.key")
    path = _SIGNED.sub("...", scope["path"])
    extra = {"method": scope["method"], "path": path, "status": status}
    logger.info("request", extra={**extra, "key": key.name if key else None})
    if key is not None:
        found = _MADE.search(body[:_LOOKED_AT]) if status < HTTPStatus.BAD_REQUEST else None
        source = field_value(scope, b"x-daytona-source") or field_value(scope, b"user-agent")
        made = found[1].decode() if found else ""
        await trail.note(key, scope["method"], path, status, made=made, source=source or "")


def _digits(text: str | None) -> str:
    """Return a decimal number that Python reads; the server refused malformed ones already."""
    return text[:20] if text and text.isdecimal() else "0"
