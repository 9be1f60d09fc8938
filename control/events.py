"""Events for clients that would rather be told than ask: Socket.IO, by WebSocket only.

A client says in its first packet which key it has, and hears of its organisation's sandboxes.
Nothing depends on it: who hears nothing asks again.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, Self

import socketio  # type: ignore[import-untyped]

from control.api.wire import Sdk, sandbox_json
from control.errors import UnauthenticatedError
from control.front import EVENTS_PATH

if TYPE_CHECKING:
    from control.asgi import App
    from control.keys import KeyRing
    from control.model import ApiKey, DesiredState, Sandbox, State

_WAITING = 10_000  # a burst beyond this is not told of


class Events:
    """Tells clients what changed; use as an asynchronous context manager."""

    def __init__(self, keys: KeyRing, toolbox_url: str) -> None:
        self._keys, self._toolbox_url = keys, toolbox_url
        self._visitors: dict[str, ApiKey] = {}
        self._waiting: asyncio.Queue[tuple[str, str, dict[str, Any]]] = asyncio.Queue(_WAITING)
        # Any origin: who has no key is told nothing, and there are no cookies.
        self._server = socketio.AsyncServer(
            async_mode="asgi", transports=["websocket"], cors_allowed_origins="*"
        )
        self._server.on("connect", self._connect)
        self._server.on("disconnect", self._disconnect)
        self.app: App = socketio.ASGIApp(self._server, socketio_path=EVENTS_PATH.decode())

    async def __aenter__(self) -> Self:
        self._telling = asyncio.create_task(self._tell())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._telling.cancel()
        await asyncio.gather(self._telling, return_exceptions=True)
        await self._server.shutdown()

    async def _connect(self, visitor: str, _environ: object, auth: object = None) -> None:
        token = auth.get("token") if isinstance(auth, dict) else None
        try:
            self._visitors[visitor] = self._keys.authenticate(str(token))
        except UnauthenticatedError as error:
            raise socketio.exceptions.ConnectionRefusedError(str(error)) from error

    async def _disconnect(self, visitor: str, *_: object) -> None:
        self._visitors.pop(visitor, None)

    def notice(self, old: tuple[State, DesiredState] | None, sandbox: Sandbox) -> None:
        """Tell of a record that may be other than it was; ``old`` is None for a new one."""
        organization_id = sandbox.organization_id
        if all(key.organization_id != organization_id for key in self._visitors.values()):
            return
        shown = sandbox_json(sandbox, Sdk(), self._toolbox_url)
        if old is None:
            self._put(organization_id, "sandbox.created", shown)
            return
        state, desired = old
        if sandbox.state is not state:
            states = {"oldState": state.value, "newState": sandbox.state.value}
            self._put(organization_id, "sandbox.state.updated", {"sandbox": shown, **states})
        if sandbox.desired_state is not desired:
            wishes = {
                "oldDesiredState": desired.value,
                "newDesiredState": sandbox.desired_state.value,
            }
            told = {"sandbox": shown, **wishes}
            self._put(organization_id, "sandbox.desired-state.updated", told)

    def _put(self, organization_id: str, event: str, content: dict[str, Any]) -> None:
        with contextlib.suppress(asyncio.QueueFull):
            self._waiting.put_nowait((organization_id, event, content))

    async def _tell(self) -> None:
        while True:
            organization_id, event, content = await self._waiting.get()
            for visitor, key in list(self._visitors.items()):
                if key.organization_id != organization_id:
                    continue
                if self._keys.holds(key):
                    await self._server.emit(event, content, to=visitor)
                else:
                    await self._server.disconnect(visitor)
