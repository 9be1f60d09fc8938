"""The scheduler in memory keeps the promises of every scheduler."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from control.errors import ConflictError, NoCapacityError, NotFoundError, UnavailableError
from jobs.memory import NODE, MemoryScheduler
from jobs.scheduler import Job

if TYPE_CHECKING:
    from jobs.scheduler import Scheduler

pytestmark = pytest.mark.unit

JOB = Job("a" * 26, 1, "0" * 64, 1, 1024, 1 << 30, 100, "localhost", "unix:/x")


def test_it_fits_the_interface() -> None:
    scheduler: Scheduler = MemoryScheduler()
    assert scheduler is not None


async def test_a_job_is_submitted_once_for_each_generation() -> None:
    scheduler = MemoryScheduler()
    placed = await scheduler.submit(JOB)
    assert await scheduler.submit(JOB) == placed
    with pytest.raises(ConflictError):
        await scheduler.submit(replace(JOB, generation=2))
    await scheduler.stop(JOB.sandbox_id, grace_seconds=1)
    again = await scheduler.submit(replace(JOB, generation=2))
    assert (again.running, again.generation) == (True, 2)
    assert await scheduler.allocations() == [again]


async def test_only_what_ended_is_forgotten_and_its_disk_removed() -> None:
    scheduler = MemoryScheduler()
    await scheduler.submit(JOB)
    with pytest.raises(ConflictError):
        await scheduler.forget(JOB.sandbox_id)
    with pytest.raises(UnavailableError):
        await scheduler.work("remove-disk", {"sandbox_id": JOB.sandbox_id})
    await scheduler.stop(JOB.sandbox_id, grace_seconds=1)
    for _ in range(2):
        await scheduler.forget(JOB.sandbox_id)
        await scheduler.work("remove-disk", {"sandbox_id": JOB.sandbox_id})
        await scheduler.stop(JOB.sandbox_id, grace_seconds=1)
    assert await scheduler.allocation(JOB.sandbox_id) is None
    assert scheduler.disks == set()


async def test_an_end_is_told_and_keeps_its_first_reason() -> None:
    scheduler = MemoryScheduler()
    await scheduler.submit(JOB)
    scheduler.end(JOB.sandbox_id, "first")
    scheduler.end(JOB.sandbox_id, "second")
    assert await anext(scheduler.changes()) == JOB.sandbox_id
    ended = await scheduler.allocation(JOB.sandbox_id)
    assert ended is not None
    assert ended.exit is not None
    assert (ended.running, ended.exit.reason) == (False, "first")


async def test_it_can_be_full_away_or_hanging() -> None:
    scheduler = MemoryScheduler(most=0)
    with pytest.raises(NoCapacityError):
        await scheduler.submit(JOB)
    scheduler.is_away = True
    with pytest.raises(UnavailableError):
        await scheduler.allocations()
    scheduler.is_hanging = True
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(scheduler.allocations(), 0.01)


async def test_what_is_on_a_lost_node_may_run_and_is_not_stopped() -> None:
    scheduler = MemoryScheduler()
    placed = await scheduler.submit(replace(JOB, node=NODE))
    scheduler.lost.add(NODE)
    assert await scheduler.allocations() == [replace(placed, reachable=False)]
    with pytest.raises(UnavailableError, match="lost"):
        await scheduler.stop(JOB.sandbox_id, grace_seconds=1)
    with pytest.raises(UnavailableError, match="lost"):
        await scheduler.work("remove-disk", {"sandbox_id": JOB.sandbox_id}, node=NODE)
    with pytest.raises(NoCapacityError, match="lost"):
        await scheduler.submit(replace(JOB, sandbox_id="b" * 26))
    scheduler.lost.clear()
    assert await scheduler.allocation(JOB.sandbox_id) == placed


async def test_nothing_is_placed_on_a_cordoned_or_avoided_or_unknown_node() -> None:
    scheduler = MemoryScheduler()
    await scheduler.cordon(NODE, on=True)
    (node,) = await scheduler.nodes()
    assert (node.name, node.is_ready, node.is_cordoned) == (NODE, True, True)
    with pytest.raises(NoCapacityError, match="cordoned"):
        await scheduler.submit(JOB)
    await scheduler.cordon(NODE, on=False)
    with pytest.raises(NoCapacityError, match="leave no room"):
        await scheduler.submit(JOB, avoid=[NODE])
    with pytest.raises(NoCapacityError, match="other"):
        await scheduler.submit(replace(JOB, node="other"))
    with pytest.raises(NotFoundError):
        await scheduler.cordon("other", on=True)
    assert await scheduler.allocations() == []
