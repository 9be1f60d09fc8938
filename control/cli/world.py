"""The cluster that the settings name, for server commands: store, Nomad, Consul and gates.

Control may run or not: commands work on the same store as it does.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from control.errors import InvalidError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from control.gates import Gates
    from control.settings import Settings
    from control.store import Store
    from jobs.scheduler import Scheduler
    from traefik.registry import RouteRegistry


@dataclass(frozen=True, slots=True)
class World:
    """What commands work with; any of them may be a double."""

    settings: Settings
    store: Store
    scheduler: Scheduler
    routes: RouteRegistry
    gates: Gates


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
    from control.vault import Vault, load_keys

    if not (settings.data / "secrets.json").exists():
        raise NotFoundError(f"no secrets of control in {settings.data}: set YURT_DATA to its own")
    where = settings.database_url or settings.data / "yurt.db"
    async with opened(where, Vault(load_keys(settings.data).master_key)) as store:
        yield store


@asynccontextmanager
async def open_world(settings: Settings) -> AsyncIterator[World]:
    """Open everything that the settings name.

    Raises:
        InvalidError: they name no cluster.
        UnavailableError: something does not answer.
    """
    from control.gates import HttpGates
    from jobs.nomad import NomadScheduler, NomadSettings
    from traefik.consul import ConsulRegistry, ConsulSettings

    require_cluster(settings)
    nomad = NomadSettings(
        settings.nomad_url,
        settings.token("NOMAD"),
        settings.nomad_ca,
        settings.nomad_cert,
        settings.nomad_key,
        settings.nomad_namespace,
        settings.nomad_region,
        settings.node_pool,
        settings.node_class,
        settings.memory_reserve,
    )
    consul = ConsulSettings(
        settings.consul_url,
        settings.token("CONSUL"),
        settings.consul_ca,
        settings.consul_cert,
        settings.consul_key,
    )
    async with open_store(settings) as store:

        async def key_of(name: str) -> bytes | None:
            node = await store.nodes.get(name)
            return node.key if node else None

        async with (
            NomadScheduler(nomad) as scheduler,
            ConsulRegistry(consul) as routes,
            HttpGates(key_of) as gates,
        ):
            yield World(settings, store, scheduler, routes, gates)
