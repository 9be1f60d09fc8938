"""Every scheduler keeps the same promises; the local one is given real runners."""

from __future__ import annotations

import asyncio
import dataclasses
import ipaddress
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from control.errors import ConflictError, NoCapacityError, NotFoundError, UnavailableError
from jobs.local import NODE, LocalScheduler, NodeSettings, run_directories, teardown
from jobs.runner import cgroup, locks
from jobs.scheduler import Allocation, Job
from tests.support.runner_rig import KEY, NEEDS, SUBNET, Rig, eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = [pytest.mark.contract, *NEEDS]
A, B, MISSING = "a" * 26, "b" * 26, "c" * 26


def settings(rig: Rig, subnet: str = SUBNET, **more: float) -> NodeSettings:
    bundle = rig.data / "lib" / "agent"
    plain = NodeSettings(rig.data, KEY, bundle, [], [], subnet, memory_floor_mib=16)
    return dataclasses.replace(plain, **more)  # type: ignore[arg-type]


@pytest.fixture
async def scheduler(rig: Rig) -> AsyncIterator[LocalScheduler]:
    async with LocalScheduler(settings(rig)) as scheduler:
        yield scheduler
        for allocation in await scheduler.allocations():
            await scheduler.stop(allocation.sandbox_id, grace_seconds=20)


def job(rig: Rig, sandbox_id: str = A, generation: int = 1, **more: int) -> Job:
    return Job(
        sandbox_id=sandbox_id,
        generation=generation,
        image_id="busybox",
        cpu=1,
        memory_mib=more.get("memory_mib", 64),
        disk_bytes=more.get("disk_bytes", 64 << 20),
        pids=64,
        domain="localhost",
        control_url=f"unix:{rig.data}/run/control.sock",
    )


async def until_ready(rig: Rig, sandbox_id: str, times: int = 1) -> None:
    await asyncio.to_thread(rig.until, sandbox_id, "ready", times)


async def test_a_job_runs_until_it_is_stopped_and_is_then_forgotten(
    rig: Rig, scheduler: LocalScheduler
) -> None:
    placed = await scheduler.submit(job(rig))
    assert (placed.sandbox_id, placed.generation, placed.running) == (A, 1, True)
    await until_ready(rig, A)
    assert await scheduler.submit(job(rig)) == placed
    with pytest.raises(ConflictError):
        await scheduler.submit(job(rig, generation=2))
    with pytest.raises(ConflictError):
        await scheduler.forget(A)
    await scheduler.stop(A, grace_seconds=20)
    ended = await scheduler.allocation(A)
    assert ended is not None
    assert not ended.running
    assert ended.exit is not None
    assert (ended.exit.reason, ended.exit.code) == ("", 0)
    await scheduler.forget(A)
    assert await scheduler.allocation(A) is None
    assert await scheduler.allocations() == []


async def test_what_is_not_there_is_stopped_and_forgotten_already(
    scheduler: LocalScheduler,
) -> None:
    await scheduler.stop(MISSING, grace_seconds=1)
    await scheduler.forget(MISSING)
    assert await scheduler.allocation(MISSING) is None


async def test_a_sandbox_has_its_address_in_the_subnet_that_was_set(rig: Rig) -> None:
    async with LocalScheduler(settings(rig, subnet="192.168.77.0/24")) as scheduler:
        await scheduler.submit(job(rig))
        await until_ready(rig, A)
        hosts = await asyncio.to_thread(rig.inside, A, "cat /etc/hosts")
        await scheduler.stop(A, grace_seconds=20)
    (address,) = (line.split()[0] for line in hosts.stdout.splitlines() if line.endswith(A))
    assert ipaddress.IPv4Address(address) in ipaddress.IPv4Network("192.168.77.0/24")


async def test_an_end_wakes_whoever_watches(rig: Rig, scheduler: LocalScheduler) -> None:
    await scheduler.submit(job(rig))
    await until_ready(rig, A)
    changes = scheduler.changes()
    os.kill(rig.init_pid(A), signal.SIGKILL)
    async with asyncio.timeout(10):
        assert await anext(changes) == A
    ended = await scheduler.allocation(A)
    assert ended is not None
    assert ended.exit is not None
    assert "first process ended" in ended.exit.reason


async def test_a_killed_runner_is_seen_to_have_been_killed(
    rig: Rig, scheduler: LocalScheduler
) -> None:
    await scheduler.submit(job(rig))
    await until_ready(rig, A)
    changes = scheduler.changes()
    child = scheduler._runs[A].child
    assert child is not None
    os.kill(child, signal.SIGKILL)
    async with asyncio.timeout(10):
        assert await anext(changes) == A
    ended = await scheduler.allocation(A)
    assert ended is not None
    assert ended.exit is not None
    assert (ended.exit.code, ended.exit.phase) == (137, "unknown")
    again = await scheduler.submit(job(rig, generation=2))
    assert again.generation == 2
    await until_ready(rig, A, 2)


async def test_runners_outlive_the_scheduler_and_are_adopted(rig: Rig) -> None:
    async with LocalScheduler(settings(rig)) as first:
        placed = await first.submit(job(rig))
        await first.submit(job(rig, B))
        await until_ready(rig, A)
        await until_ready(rig, B)
    inside = rig.pids(A)
    os.kill(rig.init_pid(B), signal.SIGKILL)
    await asyncio.to_thread(eventually, lambda: not rig.pids(B))
    async with LocalScheduler(settings(rig)) as second:
        adopted = await second.allocation(A)
        assert adopted == placed
        assert rig.pids(A) == inside
        with pytest.raises(ConflictError):
            await second.submit(job(rig, generation=2))
        dead = await second.allocation(B)
        while dead is not None and dead.running:
            dead = await second.allocation(B)
            await asyncio.sleep(0.01)
        assert dead is not None
        assert dead.exit is not None
        assert "first process ended" in dead.exit.reason
        await second.stop(A, grace_seconds=20)
        ended = await second.allocation(A)
        assert ended is not None
        assert ended.exit is not None
        assert ended.exit.reason == ""


async def test_a_runner_that_had_only_just_been_started_is_adopted_too(rig: Rig) -> None:
    """Its scheduler was killed before it had come so far as to write down its job."""
    rig.control.release.clear()
    async with LocalScheduler(settings(rig)) as first:
        placed = await first.submit(job(rig))
        await asyncio.to_thread(rig.until, A, "assign")
    spec = rig.directory(A) / "spec.json"
    kept = spec.rename(rig.data / "spec.json")

    assert locks.is_held(str(rig.directory(A) / "runner.log"))
    adopting = asyncio.create_task(adopt(rig))
    await asyncio.sleep(0.5)
    assert not adopting.done()
    kept.rename(spec)
    assert await adopting == placed


async def adopt(rig: Rig) -> Allocation | None:
    """Find the sandbox with another scheduler, and stop it."""
    async with LocalScheduler(settings(rig)) as scheduler:
        found = await scheduler.allocation(A)
        rig.control.release.set()
        await scheduler.stop(A, grace_seconds=20)
    return found


async def test_a_runner_that_does_not_answer_is_killed(rig: Rig, scheduler: LocalScheduler) -> None:
    await scheduler.submit(job(rig))
    await until_ready(rig, A)
    guard = scheduler._runs[A].child
    assert guard is not None
    holder = int(Path(f"/proc/{guard}/task/{guard}/children").read_text().split()[0])
    os.kill(holder, signal.SIGSTOP)
    await scheduler.stop(A, grace_seconds=0.3)
    ended = await scheduler.allocation(A)
    assert ended is not None
    assert not ended.running


async def test_no_memory_is_promised_twice(rig: Rig) -> None:
    async with LocalScheduler(settings(rig, memory_reserve=1.0)) as scheduler:
        with pytest.raises(NoCapacityError, match=r"memory.*MiB"):
            await scheduler.submit(job(rig, memory_mib=1 << 20))
        assert await scheduler.allocations() == []
        assert run_directories(rig.data) == []


async def test_no_disk_is_promised_twice(rig: Rig, scheduler: LocalScheduler) -> None:
    volume = os.statvfs(rig.data)
    room = volume.f_bavail * volume.f_frsize
    with pytest.raises(NoCapacityError, match="volume"):
        await scheduler.submit(job(rig, disk_bytes=room + (64 << 20)))
    assert run_directories(rig.data) == []


async def test_no_disk_is_promised_twice_while_it_is_being_made(rig: Rig) -> None:
    volume = os.statvfs(rig.data)
    share = (100 << 20) / (volume.f_bavail * volume.f_frsize)
    lock = rig.data / "disks" / A / "disk.lock"
    lock.parent.mkdir()
    async with LocalScheduler(settings(rig, disk_overcommit=share)) as scheduler:
        with lock.open("w") as held:
            assert locks.try_lock(held.fileno())  # its runner waits before it makes the disk
            await scheduler.submit(job(rig, disk_bytes=64 << 20))
            with pytest.raises(NoCapacityError, match=r"disks of 1 sandboxes leave \d+ MiB"):
                await scheduler.submit(job(rig, B, disk_bytes=64 << 20))
        await until_ready(rig, A)
        await scheduler.stop(A, grace_seconds=20)


async def test_a_disk_that_is_to_grow_needs_room_for_that(
    rig: Rig, scheduler: LocalScheduler
) -> None:
    await scheduler.submit(job(rig))
    await until_ready(rig, A)
    await scheduler.stop(A, grace_seconds=20)
    volume = os.statvfs(rig.data)
    room = volume.f_bavail * volume.f_frsize
    with pytest.raises(NoCapacityError, match=r"this one needs \d+ MiB more"):
        await scheduler.submit(job(rig, generation=2, disk_bytes=room + (256 << 20)))
    await scheduler.submit(job(rig, generation=2, disk_bytes=128 << 20))
    await until_ready(rig, A, times=2)
    await scheduler.stop(A, grace_seconds=20)


async def test_a_disk_that_is_deleted_while_disks_are_counted_does_no_harm(
    rig: Rig, scheduler: LocalScheduler
) -> None:
    (rig.data / "disks" / B).mkdir()
    (rig.data / "disks" / B / "disk.img").symlink_to("deleted")
    (node,) = await scheduler.nodes()
    assert node.disk_mib > 0


async def test_a_verb_works_and_a_failing_one_says_why(rig: Rig, scheduler: LocalScheduler) -> None:
    await scheduler.submit(job(rig))
    await until_ready(rig, A)
    await scheduler.stop(A, grace_seconds=20)
    before = await scheduler.work("inventory", {})
    assert before["disks"][A]["limit"] == 64 << 20
    await scheduler.work("remove-disk", {"sandbox_id": A})
    await scheduler.work("remove-disk", {"sandbox_id": A})
    after = await scheduler.work("inventory", {})
    assert after["disks"] == {}
    with pytest.raises(Exception, match="image"):
        await scheduler.work("fetch-image", {"image_id": "missing"})


async def test_a_cordoned_node_gets_no_more_jobs_until_it_is_uncordoned(
    rig: Rig, scheduler: LocalScheduler
) -> None:
    await scheduler.cordon(NODE, on=True)
    (node,) = await scheduler.nodes()
    assert (node.name, node.is_ready, node.is_cordoned) == (NODE, True, True)
    with pytest.raises(NoCapacityError, match="cordoned"):
        await scheduler.submit(job(rig))
    await scheduler.cordon(NODE, on=False)
    await scheduler.submit(job(rig))
    (node,) = await scheduler.nodes()
    assert node.memory_reserved_mib == 16
    with pytest.raises(NotFoundError):
        await scheduler.cordon("other", on=True)
    with pytest.raises(UnavailableError, match="other"):
        await scheduler.work("inventory", {}, node="other")


async def test_teardown_leaves_no_runner_rule_or_group(rig: Rig) -> None:
    async with LocalScheduler(settings(rig)) as scheduler:
        await scheduler.submit(job(rig))
        await until_ready(rig, A)
    await teardown(rig.data)
    assert not rig.loops()
    assert not cgroup.directories(A)
    assert not rig.links()
