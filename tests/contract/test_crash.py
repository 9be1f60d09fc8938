"""Control may die between any two of its steps: another one brings every sandbox home.

A knife counts the calls by which control changes the world, and cuts it off at one of them, before
or after it took effect. What is left is looked at by a new control.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from typing_extensions import override

from control.app import Adapters
from control.errors import UnavailableError
from control.naming import SandboxId
from control.reconcile.plan import route_to
from tests.support.control_rig import Rig, a_rig, eventually
from tests.support.records import a_snapshot, a_store

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Mapping
    from pathlib import Path

    from control.model import Run
    from jobs.scheduler import Allocation

pytestmark = pytest.mark.contract

CHANGES = {"submit", "stop", "forget", "work", "register", "deregister", "insert", "change"}
CHANGES |= {"remove"}
MOST_CUTS = 40


class Knife:
    def __init__(self) -> None:
        self.at: int | None = None
        self.after = False
        self.is_dead = False
        self.count = 0

    def set(self, at: int | None, *, after: bool = False) -> None:
        self.at, self.after, self.is_dead, self.count = at, after, False, 0

    async def reads(self, call: Callable[[], Awaitable[Any]]) -> Any:
        self._live()
        return await call()

    async def changes(self, call: Callable[[], Awaitable[Any]]) -> Any:
        self._live()
        self.count += 1
        cuts = self.count == self.at
        if cuts and not self.after:
            self.is_dead = True
        self._live()
        result = await call()
        if cuts:
            self.is_dead = True
        self._live()
        return result

    def _live(self) -> None:
        if self.is_dead:
            raise UnavailableError("this control is dead")


class Cut:
    """Anything, behind the knife."""

    def __init__(self, target: Any, knife: Knife) -> None:
        self._target, self._knife = target, knife

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._target, name)
        if name == "changes" or not callable(found):
            return found
        way = self._knife.changes if name in CHANGES else self._knife.reads

        async def call(*args: Any, **more: Any) -> Any:
            return await way(lambda: found(*args, **more))

        return call


class CutStore(Cut):
    def __init__(self, target: Any, knife: Knife) -> None:
        super().__init__(target, knife)
        self.sandboxes = Cut(target.sandboxes, knife)
        self.snapshots, self.keys = target.snapshots, target.keys


class CutRig(Rig):
    knife: Knife

    @override
    def adapters(self) -> Adapters:
        self.knife = Knife()
        return Adapters(
            CutStore(self.store, self.knife),
            Cut(self.scheduler, self.knife),
            Cut(self.registry, self.knife),
            self,
        )

    @override
    async def send(
        self, allocation: Allocation, run: Run, order: Mapping[str, Any]
    ) -> dict[str, Any]:
        sent: dict[str, Any] = await self.knife.changes(
            lambda: Rig.send(self, allocation, run, order)
        )
        return sent

    async def fits(self) -> bool:
        """Tell whether records, jobs, routes and disks say the same."""
        jobs = {found.sandbox_id: found for found in await self.scheduler.allocations()}
        routes = {route.sandbox_id: route for route in await self.registry.routes()}
        disks = set(self.scheduler.disks)
        for outline in await self.store.sandboxes.survey():
            allocation, route = jobs.pop(outline.id, None), routes.pop(outline.id, None)
            has_disk = outline.id in disks
            disks.discard(outline.id)
            match outline.state:
                case "started":
                    fits = (
                        allocation is not None
                        and allocation.running
                        and allocation.generation == outline.generation
                        and self.runners[outline.id].phase == "ready"
                        and self.runners[outline.id].version == outline.assignment_version
                        and route == route_to(allocation, "localhost")
                        and has_disk
                    )
                case "stopped":
                    fits = (allocation, route, has_disk) == (None, None, True)
                case "destroyed":
                    fits = (allocation, route, has_disk) == (None, None, False)
                case _:
                    fits = False
            if not fits:
                return False
        return not (jobs or routes or disks)

    async def dead_or_done(self, work: asyncio.Task[None], key: str, state: str) -> bool:
        """Wait until control is dead, and start another one then, or until all is done."""

        async def reached() -> bool:
            if self.knife.is_dead:
                return True
            if not work.done():
                return False
            sandboxes = self.store.sandboxes
            made = await sandboxes.get(SandboxId(key)) or await sandboxes.named("default", key)
            is_idle = self.control.reconciler.queue.is_idle
            return made is not None and made.state == state and is_idle and await self.fits()

        await eventually(reached)
        was_cut = self.knife.is_dead
        if was_cut:
            await self.end()
            await self.begin()
        self.knife.set(None)
        return was_cut


async def post(rig: CutRig, path: str) -> None:
    await rig.call("POST", f"/sandbox/{path}")


async def die(rig: CutRig, sandbox_id: str) -> None:
    await asyncio.sleep(0)
    rig.scheduler.end(sandbox_id, "the runner was killed", code=137, phase="unknown")


async def delete(rig: CutRig, sandbox_id: str) -> None:
    await rig.call("DELETE", f"/sandbox/{sandbox_id}")


WORKS: dict[str, Callable[[CutRig, str], Coroutine[Any, Any, None]]] = {
    "start": lambda rig, name: post(rig, f"{name}/start"),
    "stop": lambda rig, name: post(rig, f"{name}/stop"),
    "open": lambda rig, name: post(rig, f"{name}/public/true"),
    "delete": delete,
    "die": die,
}


@pytest.mark.parametrize(
    ("work", "before", "after"),
    [
        ("stop", "started", "stopped"),
        ("delete", "started", "destroyed"),
        ("start", "stopped", "started"),
        ("delete", "stopped", "destroyed"),
        ("die", "started", "stopped"),
        ("open", "started", "started"),
    ],
)
async def test_control_killed_at_any_step_converges(
    tmp_path: Path, work: str, before: str, after: str
) -> None:
    async with a_store(tmp_path) as store:
        await store.snapshots.put(a_snapshot())
        async with CutRig(tmp_path, store) as rig:
            # Cut off before a call is cut off after the one before it, but for the first.
            assert await cut(rig, work, (before, after), at=1, late=False)
            for at in range(1, MOST_CUTS):
                if not await cut(rig, work, (before, after), at=at, late=True):
                    break
            assert 3 < at < MOST_CUTS


async def cut(rig: CutRig, work: str, states: tuple[str, str], *, at: int, late: bool) -> bool:
    """Cut ``work`` off at one call and check what comes of it; tell whether it had so many."""
    before, after = states
    sandbox_id = (await rig.create())["id"]
    if before == "stopped":
        await rig.call("POST", f"/sandbox/{sandbox_id}/stop")
    await rig.settle()
    rig.knife.set(at, after=late)
    working = rig.spawn(WORKS[work](rig, sandbox_id))
    was_cut = await rig.dead_or_done(working, sandbox_id, after)
    await eventually(rig.fits)
    shown = await rig.show(sandbox_id)
    # The very first call stores what is asked for: cut off before it, nothing was.
    never_stored = at == 1 and not late and work != "die"
    assert shown["state"] == (before if never_stored else after)
    if work == "open":
        assert rig.runners[sandbox_id].assignment["public"] is not never_stored
    await rig.call("DELETE", f"/sandbox/{sandbox_id}")
    await rig.until(sandbox_id, "destroyed")
    return was_cut


async def test_control_killed_while_creating_converges(tmp_path: Path) -> None:
    async with a_store(tmp_path) as store:
        await store.snapshots.put(a_snapshot())
        async with CutRig(tmp_path, store) as rig:
            for at in range(MOST_CUTS):
                name = f"box-{at}"
                rig.knife.set(max(at, 1), after=at > 0)
                creating = rig.spawn(create(rig, name))
                was_cut = await rig.dead_or_done(creating, name, "started")
                await eventually(rig.fits)
                made = await rig.call("GET", f"/sandbox/{name}")
                assert made.status_code == (200 if at else 404)
                if not was_cut:
                    break
                assert not at or made.json()["state"] == "started"
            assert 3 < at < MOST_CUTS


async def create(rig: CutRig, name: str) -> None:
    await rig.call("POST", "/sandbox", json={"name": name})


async def test_a_hundred_creates_at_once_all_succeed(tmp_path: Path) -> None:
    async with a_rig(tmp_path) as rig:
        made = await asyncio.gather(*(rig.create() for _ in range(100)))
        assert {one["state"] for one in made} == {"started"}
        assert len(await rig.registry.routes()) == 100
        gone = await asyncio.gather(*(rig.call("DELETE", f"/sandbox/{one['id']}") for one in made))
        assert {answer.status_code for answer in gone} == {200}
        for one in made:
            await rig.until(one["id"], "destroyed")
        assert (await rig.registry.routes(), rig.scheduler.disks) == ([], set())


async def test_orphans_go_when_two_views_agree_and_never_most_of_all_at_once(
    tmp_path: Path,
) -> None:
    async with a_rig(tmp_path) as rig:
        kept = (await rig.create())["id"]
        strays = [(await rig.create())["id"] for _ in range(7)]
        for sandbox_id in strays:
            await rig.store.sandboxes.remove(SandboxId(sandbox_id))
        for _ in range(3):  # seven of eight without a record: rather the records are wrong
            await rig.control.reconciler.resync()
            await rig.settle()
        assert len(await rig.scheduler.allocations()) == 8
        for sandbox_id in strays[2:]:
            rig.scheduler.end(sandbox_id, "")
            await rig.scheduler.forget(sandbox_id)
            await rig.registry.deregister(sandbox_id)
        await rig.control.reconciler.resync()
        await rig.settle()
        assert len(await rig.scheduler.allocations()) == 3
        await rig.control.reconciler.resync()
        await rig.settle()
        assert [found.sandbox_id for found in await rig.scheduler.allocations()] == [kept]
        assert [route.sandbox_id for route in await rig.registry.routes()] == [kept]


async def test_nothing_is_concluded_from_a_scheduler_that_is_away(tmp_path: Path) -> None:
    async with a_rig(tmp_path) as rig:
        made = await rig.create()
        rig.scheduler.is_away = True
        with pytest.raises(UnavailableError):
            await rig.control.reconciler.resync()
        rig.control.wake(SandboxId(made["id"]))
        await rig.settle()
        assert (await rig.show(made["id"]))["state"] == "started"
        rig.scheduler.is_away = False
        await rig.control.reconciler.resync()
        await rig.settle()
        assert (await rig.show(made["id"]))["state"] == "started"


async def test_a_ready_that_got_lost_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with a_rig(tmp_path) as rig:
        runner = await rig.submitted()
        await runner.claim()
        runner.phase = "ready"  # and its report never came
        await rig.end()
        await rig.begin()
        limits = rig.control.reconciler._world.limits
        soon = replace(limits, ask_after=timedelta(0))
        monkeypatch.setattr(
            rig.control.reconciler, "_world", replace(rig.control.reconciler._world, limits=soon)
        )
        rig.control.wake(SandboxId(runner.job.sandbox_id))
        await rig.until(runner.job.sandbox_id, "started")
        assert runner.orders == ["hello"]


async def test_a_scheduler_that_hangs_holds_up_one_sandbox_for_a_while_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("apply", "loop"):
        monkeypatch.setattr(f"control.reconcile.{module}.SCHEDULER_SECONDS", 0.05)
    async with a_rig(tmp_path, start_deadline_seconds=0.2, hold_seconds=5) as rig:
        rig.scheduler.is_hanging = True
        creating = asyncio.ensure_future(rig.create())
        await asyncio.sleep(0.3)
        assert not creating.done()  # nothing can be known
        rig.scheduler.is_hanging = False
        made = await creating
        assert made["state"] == "error"
        assert "did not start" in made["errorReason"]
