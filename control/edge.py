"""What answers for sandboxes where no route does: not started, not there, or not routed yet.

A sandbox that is up is reached through here until Traefik has its route: a request is passed on to
the gate, which authorises it as ever. For one that is not up, the toolbox is answered only to those
who may use it.
"""

from __future__ import annotations

import hmac
import html
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

from control.api.envelope import envelope
from control.asgi import field_value, raw_path, respond
from control.errors import (
    ForbiddenError,
    InvalidError,
    NotFoundError,
    UnauthenticatedError,
    UnavailableError,
    YurtError,
)
from control.keys import bearer, require
from control.lifecycle import not_found
from control.model import STARTING_STATES, Permission, State

if TYPE_CHECKING:
    from control.asgi import Receive, Scope, Send
    from control.forward import Forwarder
    from control.keys import KeyRing
    from control.model import Sandbox
    from control.naming import PreviewHost, SandboxId
    from control.reconcile.routes import Routes
    from control.records import Records

HOLD_SECONDS = 5.0
# Clients look for these words to tell a sandbox that sleeps from one that is broken.
_ASLEEP = "no IP address found. Is the Sandbox started?"
_PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>
<body style="font-family:sans-serif;margin:15vh auto;max-width:32rem"><h1>{title}</h1><p>{text}</p>
"""


class StoppedError(UnavailableError):
    """A preview of a sandbox that does not run."""

    retryable = False


class Edge:
    """Answers for sandboxes."""

    def __init__(
        self, records: Records, keys: KeyRing, routes: Routes, forwarder: Forwarder
    ) -> None:
        self._records, self._keys, self._routes = records, keys, routes
        self._forwarder = forwarder

    async def toolbox(
        self, scope: Scope, receive: Receive, send: Send, sandbox_id: SandboxId
    ) -> None:
        """Answer a call to a sandbox's toolbox."""
        try:
            sandbox = await self._awake(sandbox_id)
            if sandbox is None or not _is_up(sandbox):
                self._authorise(scope, sandbox, sandbox_id)
            if sandbox is None:
                raise not_found(sandbox_id)
            if sandbox.state in STARTING_STATES:
                raise UnavailableError("the sandbox is still starting; try again")
            if not _is_up(sandbox):
                raise InvalidError(f"{_ASLEEP} It is {sandbox.state.value}.")
            await self._pass_on(scope, receive, send, sandbox)
        except YurtError as error:
            await self._refuse(scope, send, error)

    async def preview(
        self, scope: Scope, receive: Receive, send: Send, wanted: PreviewHost
    ) -> None:
        """Answer a request for a port of a sandbox."""
        try:
            sandbox = await self._awake(wanted.sandbox_id)
            if sandbox is None:
                raise NotFoundError("Sandbox not found: it was deleted, or never existed")
            if sandbox.state in STARTING_STATES:
                raise UnavailableError("the sandbox is still starting; try again")
            if not _is_up(sandbox):
                raise StoppedError(f"{_ASLEEP} It is {sandbox.state.value}.")
            await self._pass_on(scope, receive, send, sandbox)
        except YurtError as error:
            await self._refuse(scope, send, error)

    async def _awake(self, sandbox_id: SandboxId) -> Sandbox | None:
        """Return the record, after a short wait if it is just starting; None if there is none."""
        sandbox = await self._records.get(sandbox_id)
        if sandbox is not None and sandbox.state in STARTING_STATES:
            sandbox = await self._records.wait(
                sandbox, lambda s: s.state not in STARTING_STATES, HOLD_SECONDS
            )
        return None if sandbox is None or sandbox.state is State.DESTROYED else sandbox

    def _authorise(self, scope: Scope, sandbox: Sandbox | None, sandbox_id: SandboxId) -> None:
        """Require what the gate would require; sandboxes of others look like unknown ones.

        Raises:
            UnauthenticatedError: no credential for any sandbox.
            NotFoundError: one for another organisation's.
        """
        token = sandbox.secrets.preview_token if sandbox else ""
        query = parse_qs(scope["query_string"].decode("latin-1"))
        sent = [
            field_value(scope, b"x-daytona-preview-token") or "",
            *query.get("DAYTONA_SANDBOX_AUTH_KEY", ()),
        ]
        if token and any(hmac.compare_digest(token.encode(), one.encode()) for one in sent):
            return
        try:
            key = self._keys.authenticate(bearer(field_value(scope, b"authorization")))
            require(key, Permission.WRITE_SANDBOXES)
        except ForbiddenError as error:
            raise UnauthenticatedError(str(error)) from error
        if sandbox is not None and key.organization_id != sandbox.organization_id:
            raise not_found(sandbox_id)

    async def _pass_on(self, scope: Scope, receive: Receive, send: Send, sandbox: Sandbox) -> None:
        route = await self._routes.find(sandbox.id, sandbox.run.generation)
        if route is None:
            raise UnavailableError("the sandbox is not reachable yet; try again")
        await self._forwarder.pass_on(scope, receive, send, (route.address, route.port))

    async def _refuse(self, scope: Scope, send: Send, error: YurtError) -> None:
        path = raw_path(scope).decode("latin-1")
        response = envelope(error, path)
        fields, body = response.raw_headers, bytes(response.body)
        if "text/html" in (field_value(scope, b"accept") or ""):
            title = "This sandbox is not started" if isinstance(error, StoppedError) else "Sorry"
            page = _PAGE.format(title=title, text=html.escape(str(error)))
            fields = [(n, v) for n, v in fields if n != b"content-type"]
            fields.append((b"content-type", b"text/html; charset=utf-8"))
            body = page.encode()
        kept = [(name, value) for name, value in fields if name != b"content-length"]
        await respond(scope, send, error.status, kept, body)


def _is_up(sandbox: Sandbox) -> bool:
    """Tell whether a sandbox may answer; while its node is lost, its gate may all the same."""
    return sandbox.state in {State.STARTED, State.UNKNOWN}
