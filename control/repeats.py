"""``Idempotency-Key``: a POST that is sent again is answered again, and not done again."""

from __future__ import annotations

import hashlib
import re
from datetime import timedelta
from http import HTTPStatus
from typing import TYPE_CHECKING

from control.asgi import field_value, raw_path, respond
from control.errors import ConflictError, InvalidError, UnauthenticatedError
from control.keys import bearer

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from control.asgi import App, Message, Receive, Scope, Send
    from control.keys import KeyRing
    from control.store import RepeatStore

_FIELD = b"idempotency-key"
_KEY = re.compile(r"[\x21-\x7e]{1,255}")
_KEPT = timedelta(days=1)
# Longer than any call is held: whoever began it is gone.
_STALE = timedelta(minutes=3)


class Repeats:
    """The API, where a call with a key is done once."""

    def __init__(
        self, api: App, store: RepeatStore, keys: KeyRing, now: Callable[[], datetime]
    ) -> None:
        self._api, self._store, self._keys, self._now = api, store, keys, now

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request.

        Raises:
            InvalidError: the key cannot be one.
            ConflictError: it was used for another request, or that one is not answered yet.
        """
        text = field_value(scope, _FIELD)
        owner = self._owner(scope)
        if scope["method"] != "POST" or text is None or owner is None:
            await self._api(scope, receive, send)
            return
        if _KEY.fullmatch(text) is None:
            raise InvalidError("Idempotency-Key must have 1 to 255 printable ASCII characters")
        body = await _whole(receive)
        request = hashlib.sha256(raw_path(scope) + b"?" + scope["query_string"] + b"\n" + body)
        now = self._now()
        known = await self._store.claim(owner, text, request.hexdigest(), now, now - _STALE)
        if known is None:
            await self._first(scope, body, send, owner, text)
            return
        if known.request != request.hexdigest():
            raise ConflictError("This Idempotency-Key was used for another request")
        if known.status is None:
            raise ConflictError("The first request with this Idempotency-Key is not answered yet")
        fields = [(b"content-type", b"application/json"), (b"idempotency-replayed", b"true")]
        await respond(scope, send, known.status, fields, known.body)

    async def forget(self) -> None:
        """Remove what is too old to be sent again."""
        await self._store.forget(self._now() - _KEPT)

    def _owner(self, scope: Scope) -> str | None:
        try:
            key = self._keys.authenticate(bearer(field_value(scope, b"authorization")))
        except UnauthenticatedError:
            return None  # the API says so
        return key.organization_id

    async def _first(self, scope: Scope, body: bytes, send: Send, owner: str, text: str) -> None:
        sent: list[Message] = []

        # ASGI wants coroutines.
        async def given() -> Message:  # noqa: RUF029
            return {"type": "http.request", "body": body}

        async def keep(message: Message) -> None:  # noqa: RUF029
            sent.append(message)

        await self._api(scope, given, keep)
        status: int = sent[0]["status"]
        if status < HTTPStatus.INTERNAL_SERVER_ERROR:
            answered = b"".join(message.get("body", b"") for message in sent[1:])
            await self._store.finish(owner, text, status, answered)
        else:
            await self._store.drop(owner, text)  # it may go well the next time
        for message in sent:
            await send(message)


async def _whole(receive: Receive) -> bytes:
    parts = []
    while True:
        message = await receive()
        parts.append(message.get("body", b""))
        if not message.get("more_body"):
            return b"".join(parts)
