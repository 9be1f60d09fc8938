"""Several controls over one database: each serves, one reconciles, and each hears of the others."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Self

import httpx
import pytest
from typing_extensions import override

from control.app import Adapters, Control
from tests.support.control_rig import Rig, eventually
from tests.support.records import a_snapshot, a_store

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from control.naming import SandboxId
    from control.store import Store

pytestmark = pytest.mark.unit

TELLING = {"insert", "change", "remove"}


class Told:
    """Records or keys whose changes are told to all but the one who made them."""

    def __init__(self, target: Any, shared: Shared) -> None:
        self._target, self._shared = target, shared

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._target, name)
        if name not in TELLING:
            return found

        async def call(*args: Any, **more: Any) -> Any:
            result = await found(*args, **more)
            await self._shared.tell()
            return result

        return call


class Shared:
    """A store like that of PostgreSQL, over one of SQLite; ``others`` are those over the same."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._queue: asyncio.Queue[SandboxId] = asyncio.Queue()
        self.others: list[Shared] = []
        self.sandboxes, self.keys = Told(store.sandboxes, self), Told(store.keys, self)
        self.snapshots, self.nodes = store.snapshots, store.nodes
        self.volumes, self.trail = store.volumes, store.trail
        self.repeats = store.repeats
        self.lease, self.release, self.ping = store.lease, store.release, store.ping

    async def tell(self) -> None:
        for outline in await self._store.sandboxes.survey():
            for other in self.others:
                other._queue.put_nowait(outline.id)

    async def changes(self) -> AsyncIterator[SandboxId]:
        while True:
            yield await self._queue.get()


class Replica:
    def __init__(self, rig: Rig) -> None:
        mine: Any = rig.store
        shared: Any = Shared(mine._store)
        shared.others, mine.others = [mine], [shared]
        adapters = Adapters(shared, rig.scheduler, rig.registry, rig)
        self.control = Control(rig.settings, rig.secrets, adapters)
        self.rig = rig

    async def begin(self) -> None:
        await self.control.__aenter__()
        self.running = asyncio.ensure_future(self.control.run())
        self.http = httpx.AsyncClient(
            transport=httpx.ASGITransport(self.control.app, raise_app_exceptions=False),
            base_url="http://localhost:9878/api",
            headers={"authorization": f"Bearer {self.rig.secrets.api_key}"},
        )

    async def end(self) -> None:
        self.running.cancel()
        await asyncio.gather(self.running, return_exceptions=True)
        await self.http.aclose()
        await self.control.__aexit__()

    @property
    def leads(self) -> bool:
        return self.control._leader.leads


class Replicas(Rig):
    """The rig's own control leads, unless it is ended; ``other`` stands by."""

    @override
    async def __aenter__(self) -> Self:
        await super().__aenter__()
        await self.until_leads(self)
        self.other = Replica(self)
        await self.other.begin()
        return self

    @override
    async def __aexit__(self, *args: object) -> None:
        await self.other.end()
        await super().__aexit__(*args)

    @property
    def leads(self) -> bool:
        return self.control._leader.leads

    async def until_leads(self, replica: Replica | Replicas) -> None:
        async def does() -> bool:
            await asyncio.sleep(0)
            return replica.leads

        await eventually(does)


@asynccontextmanager
async def replicas(directory: Path) -> AsyncIterator[Replicas]:
    async with a_store(directory) as store:
        await store.snapshots.put(a_snapshot())
        shared: Any = Shared(store)
        settings = {"database_url": "postgresql://h/yurt", "hold_seconds": 4}
        async with Replicas(directory, shared, **settings) as rig:
            yield rig


async def test_what_is_asked_of_one_is_done_by_the_other_and_answered(tmp_path: Path) -> None:
    async with replicas(tmp_path) as rig:
        assert (rig.leads, rig.other.leads) == (True, False)
        made = (await rig.other.http.post("/sandbox", json={})).json()
        assert made["state"] == "started"
        stopped = (await rig.other.http.post(f"/sandbox/{made['id']}/stop")).json()
        assert stopped["state"] == "stopped"


async def test_the_other_takes_over_from_one_that_is_gone(tmp_path: Path) -> None:
    async with replicas(tmp_path) as rig:
        made = await rig.create()
        await rig.end()
        rig.http = rig.other.http
        await rig.until_leads(rig.other)
        stopped = (await rig.other.http.post(f"/sandbox/{made['id']}/stop")).json()
        assert stopped["state"] == "stopped"
        await rig.begin()


async def test_a_key_that_one_makes_or_calls_back_is_so_for_all(tmp_path: Path) -> None:
    async with replicas(tmp_path) as rig:
        made = await rig.create()
        runner = rig.runners[made["id"]]
        body = {"name": "new", "permissions": ["write:sandboxes"]}
        key = (await rig.other.http.post("/api-keys", json=body)).json()["value"]

        async def entry(number: int, status: int) -> None:
            fields = {"authorization": f"Bearer {key}"}

            async def is_so() -> bool:
                there = await rig.http.get("/sandbox", headers=fields)
                enter = len(runner.assignment["keys"])
                return (enter, there.status_code) == (number, status)

            await eventually(is_so)

        await entry(2, 200)
        await rig.other.http.delete("/api-keys/new")
        await entry(1, 401)
