"""The collector at work: a hundred sandboxes, one-minute timers, and a clock that is set at will.

The loop, its queue, the verdict, the records' guards and what a holder counts are the real ones;
only time, the network and the database are played.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from control import lifecycle
from control.errors import ConflictError, NotFoundError, UnavailableError
from control.model import DesiredState, Intervals, Run, Sandbox, State, StoppedBy, minutes
from control.reconcile.apply import World
from control.reconcile.collect import Limits
from control.reconcile.collector import Collector
from control.records import Records
from jobs.runner.idle import Idleness
from jobs.scheduler import Allocation
from tests.support.records import NOW, a_sandbox
from tests.support.virtual import run_virtually, virtual_time

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime

    from control.listing import Filter
    from control.naming import SandboxId

pytestmark = pytest.mark.unit
INTERVAL = 60.0
# A feed, a lost warning, a gate that was away, and what is asked again: a stop is late by no more.
LATE = 150.0
BUSY_WINDOW = 70.0


class Kept:
    """Records in memory, with the promises of the store that the collector needs."""

    def __init__(self) -> None:
        self.rows: dict[str, Sandbox] = {}

    async def get(self, key: str, organization_id: str | None = None) -> Sandbox | None:
        return self.rows.get(key)

    async def change(self, sandbox_id: SandboxId, mutate: Callable[[Sandbox], Sandbox]) -> Sandbox:
        if sandbox_id not in self.rows:
            raise NotFoundError(sandbox_id)
        self.rows[sandbox_id] = mutate(self.rows[sandbox_id])
        return self.rows[sandbox_id]

    async def due(self, now: datetime, *, running: bool) -> dict[SandboxId, datetime]:
        return {
            row.id: row.due_at
            for row in self.rows.values()
            if row.due_at and (row.due_at <= now or (running and row.state is State.STARTED))
        }

    async def count(self, wanted: Filter) -> int:
        return len(self.rows)


@dataclass
class Played:
    """A sandbox with its holder and gate; ``used_until`` is the truth that a stop is judged by."""

    idle: Idleness
    used_until: float = 0.0
    held: int = 0
    burning: float = 0.0
    cpu: float = 0.0
    away: bool = False
    closed: bool = False
    stopped_at: float | None = None
    told: list[str] = field(default_factory=list)

    def use(self, now: float) -> bool:
        """Note a request, unless the gate lets nobody in."""
        if self.closed:
            return False
        self.used_until = max(self.used_until, now)
        self.idle.told(now, self.held)
        return True


class Simulation:
    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.set_by = timedelta(0)
        self.kept = Kept()
        self.played: dict[str, Played] = {}
        self.wrong: list[str] = []
        world = World(
            records=Records(self.kept),  # type: ignore[arg-type]
            archives=None,  # type: ignore[arg-type]
            scheduler=self,  # type: ignore[arg-type]
            routes=None,  # type: ignore[arg-type]
            gates=self,
            assignment=None,  # type: ignore[arg-type]
            now=self.now,
            control_url="",
            pids=1,
            volumes=None,  # type: ignore[arg-type]
            limits=None,  # type: ignore[arg-type]
        )
        self.collector = Collector(
            world,
            self.kept,  # type: ignore[arg-type]
            self.woken,
            limits=Limits(minutes(1), archives=True),
            share=0.1,
            steady=self.steady,
        )

    def steady(self) -> float:
        return virtual_time()

    def now(self) -> datetime:
        return NOW + timedelta(seconds=self.steady()) + self.set_by

    def add(self, **fields: Any) -> str:
        sandbox = a_sandbox(
            state=State.STARTED,
            run=Run(1, "f" * 32),
            last_activity_at=self.now(),
            intervals=Intervals(stop=1),
        )
        sandbox = replace(sandbox, **fields)
        self.kept.rows[sandbox.id] = sandbox
        self.played[sandbox.id] = Played(Idleness(self.steady()), used_until=self.steady())
        return sandbox.id

    # -- the scheduler, and the way to the gates -----------------------------------------------

    async def allocation(self, sandbox_id: str) -> Allocation:
        return Allocation(
            sandbox_id=sandbox_id,
            generation=1,
            node="n",
            address="127.0.0.1",
            port=1,
            running=True,
            exit=None,
        )

    async def send(
        self, allocation: Allocation, run: Run, order: Mapping[str, Any]
    ) -> dict[str, Any]:
        await asyncio.sleep(self.random.random() / 10)
        played, now = self.played[allocation.sandbox_id], self.steady()
        if played.away:
            raise UnavailableError("it does not answer")
        played.told.append(order["op"])
        said: dict[str, Any] = {}
        match order:
            case {"op": "warn"}:
                played.idle.warn(now)
            case {"op": "quiesce", "idle_seconds": wanted}:
                played.closed = said["closed"] = played.idle.seconds(now) >= wanted
            case {"op": "reopen"}:
                played.closed = False
            case _:
                pass
        said |= {"phase": "ready", "idle_seconds": played.idle.seconds(now)}
        await asyncio.sleep(self.random.random() / 10)
        return {**said, "warned": played.idle.is_warned(now)}

    def woken(self, sandbox_id: SandboxId) -> None:
        played, now = self.played[sandbox_id], self.steady()
        played.stopped_at = now
        if now < played.used_until + INTERVAL or played.held or played.burning:
            self.wrong.append(f"{sandbox_id} at {now}, used until {played.used_until}")

    # -- what goes on --------------------------------------------------------------------------

    async def count(self) -> None:
        """Count processor time, as holders do each second."""
        while True:
            now = self.steady()
            for played in self.played.values():
                played.cpu += played.burning + 0.002  # an idle supervisord, a forgotten command
                if played.idle.is_due(now):
                    played.idle.sample(now, played.cpu)
                if played.burning or played.held:
                    played.used_until = max(played.used_until, now)
            await asyncio.sleep(1)

    async def live(self, sandbox_id: str, end: float) -> None:
        """Use a sandbox at random until nobody does any more."""
        chance, played = self.random, self.played[sandbox_id]
        while self.steady() < end and not played.closed:
            await asyncio.sleep(chance.expovariate(1 / 35))
            kind = chance.random()
            if kind < 0.6:
                played.use(self.steady())
            elif kind < 0.75:
                await self._command(played, chance.uniform(1, 200))
            elif kind < 0.85 and not played.closed:
                await self._burn(played, chance.uniform(80, 300))
            elif kind < 0.92:
                await self._call(sandbox_id, played)
            else:
                played.away = True
                await asyncio.sleep(chance.uniform(1, 100))
                played.away = False

    async def _command(self, played: Played, seconds: float) -> None:
        if not played.use(self.steady()):
            return
        played.held += 1
        played.use(self.steady())
        await asyncio.sleep(seconds)
        played.held -= 1
        played.use(self.steady())

    async def _burn(self, played: Played, seconds: float) -> None:
        """Work without anybody watching; the first minute is not known to be work yet."""
        if not played.use(self.steady()):
            return
        played.burning = 0.5
        await asyncio.sleep(seconds)
        played.burning = 0.0

    async def _call(self, sandbox_id: str, played: Played) -> None:
        """Say that it is used, by the API: the record first, then the gate."""
        now = self.now()
        changed = await self.kept.change(
            self.kept.rows[sandbox_id].id, lambda record: lifecycle.touch(record, now)
        )
        if changed.state is State.STARTED:
            played.use(self.steady())

    async def set_the_clock(self) -> None:
        while True:
            await asyncio.sleep(self.random.expovariate(1 / 60))
            self.set_by = timedelta(seconds=self.random.uniform(-3 * 86400, 3 * 86400))


@pytest.mark.parametrize("seed", range(5))
def test_a_hundred_sandboxes_are_stopped_when_idle_and_not_before(seed: int) -> None:
    simulation = Simulation(seed)

    async def work() -> None:
        ids = [simulation.add() for _ in range(100)]
        background = [
            asyncio.ensure_future(w)
            for w in (
                simulation.collector.run(),
                simulation.count(),
                simulation.set_the_clock(),
            )
        ]
        ends = [simulation.random.uniform(0, 1200) for _ in ids]
        await asyncio.gather(*(simulation.live(i, e) for i, e in zip(ids, ends, strict=True)))
        await asyncio.sleep(INTERVAL + BUSY_WINDOW + LATE)
        for task in background:
            task.cancel()
        await asyncio.gather(*background, return_exceptions=True)

    run_virtually(work())
    assert simulation.wrong == []
    for sandbox_id, played in simulation.played.items():
        assert played.stopped_at is not None, (sandbox_id, played)
        assert played.stopped_at - played.used_until <= INTERVAL + BUSY_WINDOW + LATE
        record = simulation.kept.rows[sandbox_id]
        assert (record.state, record.stopped_by) == (State.STOPPING, StoppedBy.COLLECTOR)
        assert "warn" in played.told


def test_a_clock_that_is_set_forward_deletes_nothing_early_and_then_a_few_at_a_time() -> None:
    simulation = Simulation(1)
    stops: dict[str, float] = {}

    async def work() -> None:
        stopped = {"state": State.STOPPED, "desired_state": DesiredState.STOPPED}
        for _ in range(100):
            simulation.add(**stopped, stopped_at=NOW, intervals=Intervals(delete=30))
        running = asyncio.ensure_future(simulation.collector.run())
        await asyncio.sleep(600)
        simulation.set_by = timedelta(days=3)
        await asyncio.sleep(1190)
        stops.update({"early": _deleted(simulation)})
        await asyncio.sleep(70)
        stops.update({"first": _deleted(simulation)})
        await asyncio.sleep(900)
        stops.update({"last": _deleted(simulation)})
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    run_virtually(work())
    assert stops["early"] == 0
    assert 0 < stops["first"] <= 20
    assert stops["last"] == 100


def test_a_timer_that_begins_to_run_does_not_wait_for_a_look_that_was_set_before() -> None:
    simulation = Simulation(2)
    ends: list[int] = []

    async def work() -> None:
        ids = [simulation.add(intervals=Intervals(stop=0, delete=1)) for _ in range(2)]
        running = asyncio.ensure_future(simulation.collector.run())
        await asyncio.sleep(1)  # looked at, to be looked at again after minutes
        for sandbox_id in ids:
            row = simulation.kept.rows[sandbox_id]
            stopped = lifecycle.stopped(row, row.run.generation, "killed", simulation.now())
            simulation.kept.rows[sandbox_id] = stopped
        for seconds in (58, 10):
            await asyncio.sleep(seconds)
            ends.append(_deleted(simulation))
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    run_virtually(work())
    assert ends == [0, 2]


def _deleted(simulation: Simulation) -> int:
    return _count(simulation, State.DESTROYING)


def _count(simulation: Simulation, state: State) -> int:
    return sum(row.state is state for row in simulation.kept.rows.values())


def test_what_is_stopped_for_long_is_archived_by_a_key_of_its_own_and_a_few_at_a_time() -> None:
    simulation = Simulation(4)
    counts: list[int] = []

    async def work() -> None:
        stopped = {"state": State.STOPPED, "desired_state": DesiredState.STOPPED}
        for number in range(40):
            simulation.add(
                **stopped, stopped_at=NOW, intervals=Intervals(archive=30 + number // 35)
            )
        running = asyncio.ensure_future(simulation.collector.run())
        await asyncio.sleep(600)
        simulation.set_by = timedelta(days=30)
        for seconds in (1190, 40, 240):
            await asyncio.sleep(seconds)
            counts.append(_count(simulation, State.ARCHIVING))
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    run_virtually(work())
    assert counts[0] == 0
    assert 0 < counts[1] <= 10
    assert counts[2] == 40
    rows = simulation.kept.rows.values()
    assert len({row.secrets.archive_key for row in rows}) == 40
    assert {row.desired_state for row in rows} == {DesiredState.ARCHIVED}


def test_what_is_started_as_it_is_to_be_archived_starts() -> None:
    simulation = Simulation(5)

    async def work() -> Sandbox:
        stopped = {"state": State.STOPPED, "desired_state": DesiredState.STOPPED}
        sandbox_id = simulation.add(**stopped, stopped_at=NOW, intervals=Intervals(archive=1))
        judged = simulation.kept.rows[sandbox_id]
        simulation.kept.rows[sandbox_id] = lifecycle.start(judged, NOW)
        with pytest.raises(ConflictError):
            lifecycle.shelve(simulation.kept.rows[sandbox_id], judged, NOW, "key")
        running = asyncio.ensure_future(simulation.collector.run())
        await asyncio.sleep(300)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        return simulation.kept.rows[sandbox_id]

    assert run_virtually(work()).state is State.STARTING


def test_a_gate_that_does_not_answer_keeps_its_sandbox() -> None:
    simulation = Simulation(2)

    async def work() -> Sandbox:
        sandbox_id = simulation.add()
        simulation.played[sandbox_id].away = True
        running = asyncio.ensure_future(simulation.collector.run())
        await asyncio.sleep(3600)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        return simulation.kept.rows[sandbox_id]

    assert run_virtually(work()).state is State.STARTED


def test_a_change_in_the_middle_of_a_stop_opens_the_gate_again() -> None:
    simulation = Simulation(3)

    async def work() -> Played:
        sandbox_id = simulation.add()
        played = simulation.played[sandbox_id]
        running = asyncio.ensure_future(simulation.collector.run())
        while not played.closed:  # noqa: ASYNC110 - time is played
            await asyncio.sleep(0.01)
        row = simulation.kept.rows[sandbox_id]
        never = replace(row, intervals=Intervals(stop=0))
        simulation.kept.rows[sandbox_id] = never
        await asyncio.sleep(30)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        assert simulation.kept.rows[sandbox_id].state is State.STARTED
        return played

    played = run_virtually(work())
    assert not played.closed
    assert played.told[-2:] == ["reopen", "idle"]
