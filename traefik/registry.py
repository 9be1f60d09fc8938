"""Where a started sandbox is reached: one route each, in a registry that Traefik reads.

Knows no Traefik syntax (``rules``) and no storage (``files``, ``consul``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Route:
    """The way to one started sandbox: everything addressed to it goes to its gate.

    ``domain`` is the preview domain, several of them comma-separated, e.g. ``localhost``.
    """

    sandbox_id: str
    generation: int
    address: str
    port: int
    domain: str


class RouteRegistry(Protocol):
    """Routes by sandbox id. A registry is derived: control can rebuild it from its records."""

    async def register(self, route: Route) -> None:
        """Make ``route`` the only one of its sandbox; a former one is overwritten.

        When it returns, the route outlives Traefik and control; Traefik follows within a moment.

        Raises:
            UnavailableError: it may be there or not; the former one, too.
        """

    async def deregister(self, sandbox_id: str) -> None:
        """Remove the route of a sandbox; one that has none is fine.

        Raises:
            UnavailableError: the route may still be there.
        """

    async def routes(self) -> list[Route]:
        """List all routes, in no order.

        Raises:
            UnavailableError: the list would not be complete.
        """
