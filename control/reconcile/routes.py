"""The routes as this process knows them, so that a look at one sandbox does not read them all."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from traefik.registry import Route, RouteRegistry


# All routes at once cost something, and one that is missing is asked for again and again.
_ASK_SECONDS = 1.0


class Routes:
    """A registry and what it last said.

    It is asked again at each resync; a difference meanwhile costs a needless write, no more.
    """

    def __init__(self, registry: RouteRegistry) -> None:
        self._registry = registry
        self._known: dict[str, Route] = {}
        self._found: dict[str, Route] = {}
        self._asking, self._asked_at = asyncio.Lock(), -_ASK_SECONDS

    async def refresh(self) -> dict[str, Route]:
        """Ask for all routes and return them by sandbox id.

        Raises:
            UnavailableError: the registry cannot be asked.
        """
        self._known = {route.sandbox_id: route for route in await self._registry.routes()}
        return dict(self._known)

    def get(self, sandbox_id: str) -> Route | None:
        """Return the route of a sandbox, if it has one."""
        return self._known.get(sandbox_id)

    async def find(self, sandbox_id: str, generation: int) -> Route | None:
        """Return the route of a start; another control may have registered it.

        Raises:
            UnavailableError: the registry cannot be asked.
        """
        known = self._known.get(sandbox_id)
        if known is not None and known.generation == generation:
            return known
        async with self._asking:
            now = asyncio.get_running_loop().time()
            if now >= self._asked_at + _ASK_SECONDS:
                self._asked_at = now
                self._found = {route.sandbox_id: route for route in await self._registry.routes()}
            found = self._found.get(sandbox_id)
        return found if found is not None and found.generation == generation else None

    async def register(self, route: Route) -> None:
        """See ``RouteRegistry.register``."""
        await self._registry.register(route)
        self._known[route.sandbox_id] = route

    async def deregister(self, sandbox_id: str) -> None:
        """See ``RouteRegistry.deregister``."""
        await self._registry.deregister(sandbox_id)
        self._known.pop(sandbox_id, None)
