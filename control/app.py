"""Put the parts together. Nothing happens at import, and nothing is global."""

from __future__ import annotations

import asyncio
import socket
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from secrets import token_hex
from typing import TYPE_CHECKING, Self

from fastapi import FastAPI

from control.api import (
    description,
    envelope,
    internal,
    keys,
    metrics,
    organizations,
    previews,
    public,
    sandboxes,
    snapshots,
    volumes,
)
from control.archives import Archives
from control.assignments import assignment
from control.edge import Edge
from control.entry import Door
from control.errors import UnavailableError
from control.events import Events
from control.forward import Forwarder
from control.front import Doors, Front
from control.keys import KeyRing
from control.metrics import Metrics, Reading
from control.model import State
from control.nodes import Nodes
from control.organizations import Organizations
from control.reconcile import collect
from control.reconcile.apply import SCHEDULER_SECONDS, World, bounded, send
from control.reconcile.collector import Collector
from control.reconcile.lease import Leader
from control.reconcile.loop import Reconciler
from control.reconcile.plan import Limits
from control.reconcile.routes import Routes
from control.reconcile.snapshots import SnapshotKeeper
from control.reconcile.volumes import VolumeKeeper
from control.records import Records
from control.repeats import Repeats
from control.reports import Reports
from control.room import require_growth
from control.sandboxes import Sandboxes
from control.service import Service
from control.snapshots import Snapshots
from control.trail import Trail
from control.volumes import Volumes
from control.waking import Waker

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from control.gates import Gates
    from control.model import DesiredState, Resources, Sandbox
    from control.naming import SandboxId
    from control.settings import Settings
    from control.store import Store
    from control.vault import Keys
    from jobs.scheduler import Scheduler
    from traefik.registry import RouteRegistry

# How soon a key that another control made or called back is so here.
_KEYS_SECONDS = 1.0

# Previews first: their paths are longer than those of sandboxes that they begin with.
_ROUTERS = (
    previews.router,
    sandboxes.router,
    keys.router,
    organizations.router,
    snapshots.router,
    volumes.router,
    public.router,
    description.router,
    metrics.router,
    internal.router,
)


@dataclass(frozen=True, slots=True)
class Adapters:
    """What control works with; any of them may be a double."""

    store: Store
    scheduler: Scheduler
    registry: RouteRegistry
    gates: Gates


class Control:
    """A control that is ready to serve; use as an asynchronous context manager.

    Attributes:
        app: the ASGI application.
        records: the records, with a bell.
    """

    def __init__(self, settings: Settings, secrets: Keys, adapters: Adapters) -> None:
        self._settings, self._secrets, self._adapters = settings, secrets, adapters
        store = adapters.store
        self.records = Records(store.sandboxes)
        self._nodes = Nodes(store.nodes)
        holder = f"{socket.gethostname()}-{token_hex(8)}"
        self._leader = Leader(store, "reconcile", holder)
        self._keys = KeyRing(store.keys, now, self.wake)
        self._trail = Trail(store.trail, settings.audit_days, now)
        self._forwarder = Forwarder()
        self._metrics = Metrics()
        self._archives = Archives(settings.archives)
        routes = Routes(adapters.registry)
        self._volumes = VolumeKeeper(
            store.volumes,
            adapters.scheduler,
            store.sandboxes.disks,
            now,
            keep_deleted=timedelta(seconds=settings.destroyed_seconds),
        )
        self._world = self._described_world(routes)
        self.reconciler = Reconciler(
            self._world,
            store.sandboxes,
            resync=timedelta(seconds=settings.resync_seconds),
            chore=self._chores,
            waited=self._metrics.waits.observe,
        )
        self.collector = Collector(
            self._world,
            store.sandboxes,
            self.wake,
            limits=collect.Limits(
                timedelta(seconds=settings.stop_warning_seconds),
                archives=settings.archives is not None,
            ),
            share=settings.collect_share,
        )
        self.keeper = SnapshotKeeper(self._world, store, settings)
        self.keeper.woken = self.wake
        self.api = create_api(self._service())
        self._waker = Waker(self.records, self.wake, now, settings.hold_seconds)
        door = Door(self.assignment, settings.domains, now)
        edge = Edge(self.records, self._keys, routes, self._forwarder, self._waker, door)
        self._repeats = Repeats(self.api, store.repeats, self._keys, now)
        self._events = Events(self._keys, settings.toolbox_url)
        self.records.listener = self._notice
        self.app = Front(
            settings,
            Doors(self._repeats, edge, self._events.app),
            self._trail,
            self._metrics,
        )

    async def _chores(self) -> None:
        await self._keys.note_use()
        await self._trail.forget()
        await self._repeats.forget()

    def _described_world(self, routes: Routes) -> World:
        settings = self._settings
        return World(
            records=self.records,
            archives=self._archives,
            scheduler=self._adapters.scheduler,
            routes=routes,
            gates=self._adapters.gates,
            assignment=self.assignment,
            now=now,
            control_url=settings.report_url,
            volumes=self._volumes,
            pids=settings.pids,
            disks=self._adapters.store.sandboxes.disks if settings.nomad_url else None,
            limits=Limits(
                domain=",".join(settings.domains),
                start_deadline=timedelta(seconds=settings.start_deadline_seconds),
                stop_grace=timedelta(seconds=settings.stop_grace_seconds),
                keep_destroyed=timedelta(seconds=settings.destroyed_seconds),
            ),
        )

    def _service(self) -> Service:
        settings, store = self._settings, self._adapters.store
        return Service(
            settings=settings,
            store=store,
            sandboxes=lambda owner: Sandboxes(
                self._snapshots(owner), store, self.records, settings, self.wake, now
            ),
            volumes=lambda owner: Volumes(owner, store.volumes, settings, self._volumes.wake, now),
            archives=self._archives,
            snapshots=self._snapshots,
            organizations=Organizations(store, self._keys, now),
            keys=self._keys,
            reports=Reports(
                self.records,
                self._archives,
                self._adapters.scheduler.allocation,
                self.assignment,
                self.wake,
                now,
            ),
            node_key=self._nodes.key,
            tell_use=self._tell_use,
            require_growth=self._require_growth,
            troubles=lambda: self.reconciler.troubles,
            metrics=self._metrics_text,
            now=now,
        )

    def _notice(self, old: tuple[State, DesiredState] | None, sandbox: Sandbox) -> None:
        self._events.notice(old, sandbox)
        self._metrics.noticed(sandbox)

    async def _metrics_text(self) -> bytes:
        reconciler = self.reconciler
        silent = set(reconciler.troubles)
        try:
            counts: Mapping[str, int] | None = await self._adapters.store.sandboxes.states()
        except UnavailableError:
            counts = None
            silent.add("database")
        resynced, (waiting, working) = reconciler.resynced_at, reconciler.queue.lengths
        reading = Reading(
            sandboxes=counts,
            silent=silent,
            leads=reconciler.is_running,
            waiting=waiting,
            working=working,
            resync_age=None if resynced is None else time.monotonic() - resynced,
            failures=reconciler.failures,
            silences=reconciler.silences,
        )
        return self._metrics.text(reading)

    def _snapshots(self, owner: str) -> Snapshots:
        store = self._adapters.store.snapshots
        return Snapshots(owner, store, self._settings, self.keeper.wake, now)

    def wake(self, sandbox_id: SandboxId) -> None:
        """Have a look at a sandbox soon."""
        self.reconciler.wake(sandbox_id)

    async def assignment(self, sandbox: Sandbox) -> Mapping[str, Any]:
        """Write a sandbox's assignment with the keys of now."""
        if self._settings.is_shared:
            await self._keys.refresh()
        written = assignment(sandbox, self._keys.of(sandbox.organization_id), now())
        settings = self._settings
        busy = {"share": settings.busy_cpu, "most_seconds": settings.busy_max_seconds}
        is_secure = settings.base_url.startswith("https:")
        told = {**written, "busy": busy, "secure": is_secure}
        told["grace"] = settings.offline_grace_seconds
        if sandbox.state is State.RESTORING:
            told["archive"] = self._archives.access(sandbox)
        return told

    async def _require_growth(self, sandbox: Sandbox, wanted: Resources) -> None:
        """Require that a sandbox can grow where it is.

        Raises:
            NoCapacityError: it cannot.
            UnavailableError: the scheduler cannot be asked now.
        """
        kept = await self._adapters.store.sandboxes.disks()
        async with bounded("nodes", SCHEDULER_SECONDS):
            nodes = await self._adapters.scheduler.nodes()
        require_growth(sandbox, wanted, nodes, kept, self._settings.memory_reserve)

    async def _tell_use(self, sandbox: Sandbox) -> None:
        """Tell the gate of a started sandbox of its use: it decides whether that is idle.

        Raises:
            UnavailableError: it does not answer; so it would not agree to a stop either.
        """
        if sandbox.state is State.STARTED:
            async with bounded("allocation", SCHEDULER_SECONDS):
                allocation = await self._adapters.scheduler.allocation(sandbox.id)
            await send(self._world, sandbox, allocation, {"op": "touch"})

    async def __aenter__(self) -> Self:
        """Read the keys."""
        await self._keys.load(self._secrets.api_key)
        await self._forwarder.__aenter__()
        await self._events.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._waker.close()
        await self._events.__aexit__()
        await self._forwarder.__aexit__()

    async def run(self) -> None:
        """Reconcile, whenever that is this control's part, until cancelled."""
        if not self._settings.is_shared:
            await self._reconcile()
            return
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._leader.lead(self._reconcile, self.reconciler.queue.clear))
            tasks.create_task(self._follow_records())
            tasks.create_task(self._follow_keys())

    async def _reconcile(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.reconciler.run())
            tasks.create_task(self._volumes.run())
            tasks.create_task(self.collector.run())
            tasks.create_task(self.keeper.run())

    async def _follow_records(self) -> None:
        """Hear what other controls change: somebody here may wait for it, or reconcile it."""
        async for sandbox_id in self._adapters.store.changes():
            with suppress(UnavailableError):
                await self.records.follow(sandbox_id)
            self.wake(sandbox_id)

    async def _follow_keys(self) -> None:
        while True:
            await asyncio.sleep(_KEYS_SECONDS)
            with suppress(UnavailableError):
                await self._keys.refresh()

    def close(self) -> None:
        """Answer everybody who waits: this process is about to end."""
        self.records.close()


def create_api(service: Service) -> FastAPI:
    """Make the API over some use cases; it describes itself nowhere without a key."""
    api = FastAPI(openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False)
    api.state.service = service
    envelope.install(api)
    for router in _ROUTERS:
        api.include_router(router)
    return api


def now() -> datetime:
    """Tell the time, in milliseconds: what is stored comes back equal."""
    moment = datetime.now(UTC)
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)
