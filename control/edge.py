"""What answers for sandboxes where no route does: not started, not there, or not routed yet.

A sandbox that is up is reached through here until Traefik has its route: a request is passed on to
the gate, which authorises it as ever. For one that is not up, the same rules are applied here; if
it stopped by itself, somebody who comes to use it starts it by that, and is held meanwhile.
"""

from __future__ import annotations

import html
from http import HTTPStatus
from typing import TYPE_CHECKING

from control.api.envelope import envelope
from control.asgi import field_value, raw_path, respond
from control.entry import read_head
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
from control.waking import is_use
from jobs.runner.gate_cookie import ENTRY_LINES, ENTRY_PAGE, is_navigation
from jobs.runner.gate_exchange import ANY_ORIGIN, is_preflight, preflight_lines

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from control.asgi import Fields, Receive, Scope, Send
    from control.entry import Door
    from control.forward import Forwarder
    from control.keys import KeyRing
    from control.model import Sandbox
    from control.naming import PreviewHost, SandboxId
    from control.reconcile.routes import Routes
    from control.records import Records
    from control.waking import Waker
    from jobs.runner.gate_http import RequestHead

# Whoever opens a page is shown that it takes its time after this long.
PAGE_SECONDS = 10.0
# Clients look for these words to tell a sandbox that sleeps from one that is broken.
_ASLEEP = "no IP address found. Is the Sandbox started?"
_STARTING = "the sandbox is still starting; try again"
_PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>
<body style="font-family:sans-serif;margin:15vh auto;max-width:32rem"><h1>{title}</h1><p>{text}</p>
"""


class StoppedError(UnavailableError):
    """A preview of a sandbox that does not run."""

    retryable = False


class StartingError(UnavailableError):
    """A sandbox that is not up yet."""


_TITLES: Mapping[type[YurtError], str] = {
    StoppedError: "This sandbox is not started",
    StartingError: "This sandbox is starting",
}


class Edge:
    """Answers for sandboxes."""

    def __init__(
        self,
        records: Records,
        keys: KeyRing,
        routes: Routes,
        forwarder: Forwarder,
        waker: Waker,
        door: Door,
    ) -> None:
        self._records, self._keys, self._routes = records, keys, routes
        self._forwarder, self._waker, self._door = forwarder, waker, door

    async def toolbox(
        self, scope: Scope, receive: Receive, send: Send, sandbox_id: SandboxId
    ) -> None:
        """Answer a call to a sandbox's toolbox."""
        try:
            sandbox = await self._there(sandbox_id)
            if sandbox is None:
                self._require_key(scope)
                raise not_found(sandbox_id)
            if not _is_up(sandbox):
                head = read_head(scope)
                try:
                    await self._door.admit(head, sandbox)
                except UnauthenticatedError:
                    self._require_key(scope)
                    raise not_found(sandbox_id) from None  # it is for somebody else's sandboxes
                wakes = is_use(head.values, is_preview=False, has_credential=True)
                sandbox = await self._up(sandbox, wakes=wakes)
            if not _is_up(sandbox):
                raise InvalidError(_why_not(sandbox))
            await self._pass_on(scope, receive, send, sandbox)
        except YurtError as error:
            await self._refuse(scope, send, error, [])

    async def preview(
        self, scope: Scope, receive: Receive, send: Send, wanted: PreviewHost
    ) -> None:
        """Answer a request for a port of a sandbox."""
        more: Fields = []
        try:
            sandbox = await self._there(wanted.sandbox_id)
            if sandbox is None:
                raise NotFoundError("Sandbox not found: it was deleted, or never existed")
            if not _is_up(sandbox):
                head = read_head(scope)
                if is_preflight(head):  # browsers send no credentials with it
                    await respond(
                        scope, send, HTTPStatus.NO_CONTENT, _fields(preflight_lines(head)), b""
                    )
                    return
                try:
                    sandbox = await self._woken(head, sandbox, more)
                except UnauthenticatedError as error:
                    if not is_navigation(head.values):
                        raise
                    await respond(scope, send, error.status, _fields(ENTRY_LINES), ENTRY_PAGE)
                    return
            if not _is_up(sandbox):
                raise StoppedError(f"{_ASLEEP} It is {sandbox.state.value}.")
            await self._pass_on(scope, receive, send, sandbox)
        except YurtError as error:
            await self._refuse(scope, send, error, more)

    async def _woken(self, head: RequestHead, sandbox: Sandbox, more: Fields) -> Sandbox:
        """Return the record after a preview's wait; ``more`` gets fields for any refusal."""
        admission = await self._door.admit(head, sandbox)
        if admission.cors and b"origin" in head.values:
            more += _fields([ANY_ORIGIN])  # the page is to see that it sleeps
        has_credential = admission.grant.kind not in {"public", "cookie"}
        wakes = is_use(head.values, is_preview=True, has_credential=has_credential)
        is_page = is_navigation(head.values) and head.method == b"GET"
        return await self._up(sandbox, wakes=wakes, is_page=is_page)

    async def _there(self, sandbox_id: SandboxId) -> Sandbox | None:
        """Return the record; None if there is no such sandbox any more."""
        sandbox = await self._records.get(sandbox_id)
        return None if sandbox is None or sandbox.state is State.DESTROYED else sandbox

    async def _up(self, sandbox: Sandbox, *, wakes: bool, is_page: bool = False) -> Sandbox:
        """Return the record when it is up, or else does not start.

        Raises:
            StartingError: that takes too long for who waits.
        """
        most = PAGE_SECONDS if is_page else None
        sandbox = await self._waker.wait(sandbox, wakes=wakes, most_seconds=most)
        if sandbox.state in STARTING_STATES:
            raise StartingError(_STARTING)
        return sandbox

    def _require_key(self, scope: Scope) -> None:
        """Require a key that opens toolboxes, whosever.

        Raises:
            UnauthenticatedError: there is none.
        """
        try:
            key = self._keys.authenticate(bearer(field_value(scope, b"authorization")))
            require(key, Permission.WRITE_SANDBOXES)
        except ForbiddenError as error:
            raise UnauthenticatedError(str(error)) from error

    async def _pass_on(self, scope: Scope, receive: Receive, send: Send, sandbox: Sandbox) -> None:
        route = await self._routes.find(sandbox.id, sandbox.run.generation)
        if route is None:
            raise UnavailableError("the sandbox is not reachable yet; try again")
        await self._forwarder.pass_on(scope, receive, send, (route.address, route.port))

    async def _refuse(self, scope: Scope, send: Send, error: YurtError, more: Fields) -> None:
        path = raw_path(scope).decode("latin-1")
        response = envelope(error, path)
        fields, body = response.raw_headers, bytes(response.body)
        if "text/html" in (field_value(scope, b"accept") or ""):
            page = _PAGE.format(
                title=_TITLES.get(type(error), "Sorry"), text=html.escape(str(error))
            )
            fields = [(n, v) for n, v in fields if n != b"content-type"]
            fields.append((b"content-type", b"text/html; charset=utf-8"))
            if isinstance(error, StartingError) and scope.get("method") == "GET":
                fields.append((b"refresh", b"1"))
            body = page.encode()
        kept = [(name, value) for name, value in fields if name != b"content-length"]
        await respond(scope, send, error.status, [*kept, *more], body)


def _why_not(sandbox: Sandbox) -> str:
    """Tell somebody who may use it why a sandbox is not up."""
    why = f" ({sandbox.error_reason})" if sandbox.error_reason else ""
    return f"{_ASLEEP} It is {sandbox.state.value}{why}."


def _fields(lines: Iterable[bytes]) -> Fields:
    """Read header lines."""
    pairs = (line.partition(b": ") for line in lines)
    return [(name.lower(), value) for name, _, value in pairs]


def _is_up(sandbox: Sandbox) -> bool:
    """Tell whether a sandbox may answer; while its node is lost, its gate may all the same."""
    return sandbox.state in {State.STARTED, State.UNKNOWN}
