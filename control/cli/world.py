"""The cluster that the settings name, for server commands: store, Nomad, Consul and gates.

Control may run or not: commands work on the same store as it does.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from control.errors import InvalidError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from control.gates import Gates
    from control.settings import Settings
    from control.store import Store
    from jobs.scheduler import Allocation, NodeStatus, Scheduler
    from traefik.registry import RouteRegistry


class Jobs(Protocol):
    """As much of a ``Scheduler`` as it takes to look at everything."""

    async def nodes(self) -> list[NodeStatus]:
        """See ``Scheduler.nodes``."""
        ...

    async def allocations(self) -> list[Allocation]:
        """See ``Scheduler.allocations``."""
        ...

    async def work(
        self, verb: str, arguments: Mapping[str, Any], *, node: str = ""
    ) -> dict[str, Any]:
        """See ``Scheduler.work``."""
        ...


@dataclass(frozen=True, slots=True)
class Sight:
    """What there is to look at, on a cluster or on one machine."""

    store: Store
    scheduler: Jobs
    routes: RouteRegistry
    gates: Gates


@dataclass(frozen=True, slots=True)
class World(Sight):
    """What commands work with; any of them may be a double."""

    scheduler: Scheduler
    settings: Settings


def require_cluster(settings: Settings) -> None:
    """Refuse where there is no cluster.

    Raises:
        InvalidError: settings are missing; the text names them.
    """
    needed = {"YURT_NOMAD_URL": settings.nomad_url, "YURT_CONSUL_URL": settings.consul_url}
    missing = [name for name, value in needed.items() if not value]
    if missing:
        raise InvalidError(
            f"this is for a cluster: set {' and '.join(missing)} as for control (and see that "
            "YURT_DATA is control's data directory)"
        )


@asynccontextmanager
async def open_store(settings: Settings) -> AsyncIterator[Store]:
    """Open the store that the settings name, which must have been made by control.

    Raises:
        NotFoundError: there is none.
    """
    from control.store.opening import open_store as opened
    from control.vault import FileVault

    if not (settings.data / "secrets.json").exists():
        raise NotFoundError(f"no secrets of control in {settings.data}: set YURT_DATA to its own")
    async with opened(settings.store, FileVault(settings.data)) as store:
        yield store


@asynccontextmanager
async def open_world(settings: Settings) -> AsyncIterator[World]:
    """Open everything that the settings name.

    Raises:
        InvalidError: they name no cluster.
        UnavailableError: something does not answer.
    """
    from control.endpoints import consul_settings, nomad_settings
    from control.gates import HttpGates
    from control.nodes import Nodes
    from jobs.nomad import NomadScheduler
    from traefik.consul import ConsulRegistry

    require_cluster(settings)
    async with (
        open_store(settings) as store,
        NomadScheduler(nomad_settings(settings)) as scheduler,
        ConsulRegistry(consul_settings(settings)) as routes,
        HttpGates(Nodes(store.nodes).key) as gates,
    ):
        yield World(store, scheduler, routes, gates, settings)


@asynccontextmanager
async def open_sight(settings: Settings) -> AsyncIterator[Sight]:
    """Open what there is to look at, on a cluster or on this machine; nothing is changed by that.

    Raises:
        InvalidError: the settings name half a cluster.
        NotFoundError: there is no store.
        UnavailableError: something does not answer.
    """
    if settings.nomad_url or settings.consul_url:
        async with open_world(settings) as world:
            yield world
        return
    from control.gates import HttpGates
    from control.nodes import Nodes
    from jobs.local_view import LocalView
    from traefik.files import FileRegistry

    routes = FileRegistry(settings.routes_path)
    async with open_store(settings) as store, HttpGates(Nodes(store.nodes).key) as gates:
        yield Sight(store, LocalView(settings.data), routes, gates)
