"""Routes in memory: for tests and for a control that serves no traffic."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from traefik.registry import Route


class MemoryRegistry:
    """A ``RouteRegistry`` that forgets when the process ends."""

    def __init__(self) -> None:
        self._routes: dict[str, Route] = {}

    async def register(self, route: Route) -> None:
        """See ``RouteRegistry.register``."""
        self._routes[route.sandbox_id] = route

    async def deregister(self, sandbox_id: str) -> None:
        """See ``RouteRegistry.deregister``."""
        self._routes.pop(sandbox_id, None)

    async def routes(self) -> list[Route]:
        """See ``RouteRegistry.routes``."""
        return list(self._routes.values())
