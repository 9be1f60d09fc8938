"""The scheduler over Nomad keeps the promises of every scheduler: over a double, and a real one.

What follows the fixture ``world`` runs against both. What no one can ask of a real Nomad, its
faults, is tried with the double alone; certificates and tokens with a real one.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import re
import shutil
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from control.errors import ConflictError, NoCapacityError, NotFoundError, UnavailableError
from jobs import nomad_wire
from jobs.nomad import NomadScheduler, NomadSettings
from jobs.scheduler import Job
from jobs.spec import job_id
from tests.support import nomad
from tests.support.consul import Authority
from tests.support.nomad_double import NomadDouble
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
    from pathlib import Path

    from tests.support.nomad import Secured, World
    from tests.support.nomad_double import Task

NEEDS = [
    pytest.mark.cluster,
    pytest.mark.timeout(300),
    pytest.mark.skipif(not shutil.which("nomad"), reason="needs nomad on PATH"),
    pytest.mark.skipif(os.getuid() != 0, reason="needs root"),
]
KINDS = [
    pytest.param("double", marks=pytest.mark.contract),
    pytest.param("real", marks=NEEDS),
]
A, B, C, MISSING = "a" * 26, "b" * 26, "c" * 26, "m" * 26


def job(sandbox_id: str = A, generation: int = 1, **more: Any) -> Job:
    return Job(
        sandbox_id=sandbox_id,
        generation=generation,
        image_id="0" * 64,
        cpu=1,
        memory_mib=more.get("memory_mib", 64),
        disk_bytes=more.get("disk_mib", 10) << 20,
        pids=64,
        domain="localhost",
        control_url="http://127.0.0.1:1",
        node=more.get("node", ""),
    )


@pytest.fixture(scope="module", params=KINDS)
def every(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[World]:
    if request.param == "double":
        with nomad.double() as world:
            yield world
        return
    with nomad.agents(tmp_path_factory.mktemp("nomad")) as world:
        yield world


@pytest.fixture
def world(every: World) -> Iterator[World]:
    yield every
    every.purge()


@pytest.fixture
def double() -> Iterator[World]:
    with nomad.double() as world:
        yield world


@pytest.fixture
async def scheduler(world: World) -> AsyncIterator[NomadScheduler]:
    async with NomadScheduler(world.settings) as scheduler:
        yield scheduler
        for there in await scheduler.allocations():
            await scheduler.stop(there.sandbox_id, grace_seconds=1)
            await scheduler.forget(there.sandbox_id)
        assert [name for name in world.job_ids() if "work" not in name] == []


@pytest.fixture
async def faulty(double: World) -> AsyncIterator[NomadScheduler]:
    async with NomadScheduler(double.settings) as scheduler:
        yield scheduler


async def running(world: World, sandbox_id: str) -> None:
    await asyncio.to_thread(world.until_running, sandbox_id)


async def ended(scheduler: NomadScheduler, sandbox_id: str) -> Any:
    async def over() -> bool:
        there = await scheduler.allocation(sandbox_id)
        return there is not None and not there.running

    await until(over)
    return await scheduler.allocation(sandbox_id)


async def until(check: Callable[[], Awaitable[bool]], seconds: float = 30) -> None:
    async with asyncio.timeout(seconds):
        for _ in itertools.repeat(None):
            if await check():
                return
            await asyncio.sleep(0.03)


# -- a sandbox's life --------------------------------------------------------------------------


async def test_a_job_is_placed_before_it_runs_and_ends_when_asked(
    world: World, scheduler: NomadScheduler
) -> None:
    begin = time.monotonic()
    placed = await scheduler.submit(job())
    assert time.monotonic() - begin < 1
    assert (placed.sandbox_id, placed.generation, placed.running) == (A, 1, True)
    assert (placed.reachable, placed.exit, placed.address) == (True, None, "127.0.0.1")
    first, last = nomad.PORTS[placed.node]
    assert first <= placed.port <= last
    assert await scheduler.submit(job()) == placed
    await running(world, A)
    assert await scheduler.allocation(A) == placed
    assert await scheduler.allocations() == [placed]
    with pytest.raises(ConflictError, match="generation 1"):
        await scheduler.submit(job(generation=2))
    with pytest.raises(ConflictError):
        await scheduler.forget(A)
    await scheduler.stop(A, grace_seconds=1)
    over = await scheduler.allocation(A)
    assert over is not None
    assert over.exit is not None
    assert (over.running, over.exit.reason, over.exit.code) == (False, "", 0)
    assert over.exit.phase == "unknown"
    assert await scheduler.allocations() == [over]
    assert await scheduler.submit(job()) == over
    await scheduler.stop(A, grace_seconds=1)
    await scheduler.forget(A)
    assert await scheduler.allocation(A) is None
    assert await scheduler.allocations() == []
    assert world.job_ids() == []


async def test_what_is_not_there_is_stopped_and_forgotten_already(
    scheduler: NomadScheduler,
) -> None:
    await scheduler.stop(MISSING, grace_seconds=1)
    await scheduler.forget(MISSING)
    assert await scheduler.allocation(MISSING) is None


@pytest.mark.parametrize(
    ("code", "by", "reason", "told"),
    [
        pytest.param(0, 0, "", 0, id="well"),
        pytest.param(3, 0, "the runner ended with exit code 3", 3, id="with 3"),
        pytest.param(0, 9, "the runner was killed (signal 9)", 137, id="killed"),
    ],
)
async def test_an_end_unasked_is_told_and_makes_way_for_the_next_generation(
    world: World, scheduler: NomadScheduler, code: int, by: int, reason: str, told: int
) -> None:
    placed = await scheduler.submit(job())
    await running(world, A)
    await asyncio.to_thread(world.end, A, code=code, by=by)
    over = await ended(scheduler, A)
    assert (over.exit.reason, over.exit.code, over.exit.phase) == (reason, told, "unknown")
    assert await scheduler.submit(job()) == over
    again = await scheduler.submit(job(generation=2, node=placed.node))
    assert (again.generation, again.running, again.node) == (2, True, placed.node)
    assert await scheduler.allocations() == [again]


async def test_of_two_starts_at_once_one_comes_first(
    world: World, scheduler: NomadScheduler
) -> None:
    several = [scheduler.submit(job(generation=generation)) for generation in (1, 2, 1, 2)]
    results = await asyncio.gather(*several, return_exceptions=True)
    placed = [one for one in results if not isinstance(one, BaseException)]
    refused = [one for one in results if isinstance(one, BaseException)]
    assert (len(placed), len(refused)) == (2, 2)
    assert placed[0] == placed[1]
    assert all(isinstance(one, ConflictError) for one in refused)
    assert len(world.read(f"/job/{job_id(A)}/allocations")) == 1


async def test_only_sandboxes_are_listed(world: World, scheduler: NomadScheduler) -> None:
    await scheduler.submit(job(A))
    await scheduler.submit(job(B, 7))
    await scheduler.work("inventory", {})
    listed = await scheduler.allocations()
    assert sorted((one.sandbox_id, one.generation) for one in listed) == [(A, 1), (B, 7)]


# -- room --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wanted", "change", "words"),
    [
        ({"memory_mib": 4000}, {}, "of 2 nodes.*2 have no 4064 MiB of memory left"),
        ({"node": "node-9"}, {}, "no node node-9, where this has its disk"),
        ({}, {"node_class": "huge"}, "2 are not of class huge"),
        ({}, {"node_pool": "other"}, "no node pool 'other'"),
        ({}, {"namespace": "other"}, "namespace 'other'"),
        ({}, {"region": "mars"}, "no region 'mars'"),
        (
            {"node": "node-2"},
            {"node_class": "large"},
            "node node-2.* is not of.* class 'large'",
        ),
    ],
)
async def test_no_room_is_said_in_words_and_leaves_no_job(
    world: World, wanted: dict[str, Any], change: dict[str, Any], words: str
) -> None:
    begin = time.monotonic()
    async with NomadScheduler(replace(world.settings, **change)) as scheduler:
        with pytest.raises(NoCapacityError, match=words):
            await scheduler.submit(job(**wanted))
    assert time.monotonic() - begin < 5
    assert world.job_ids() == []


async def test_the_next_start_reserves_what_it_was_resized_to(
    world: World, scheduler: NomadScheduler
) -> None:
    async def reserved() -> int:
        return {one.name: one.memory_reserved_mib for one in await scheduler.nodes()}["node-1"]

    before = await reserved()
    await scheduler.submit(job(node="node-1", memory_mib=400))
    first = await reserved() - before
    await scheduler.stop(A, grace_seconds=5)
    await scheduler.forget(A)
    await scheduler.submit(job(A, 2, node="node-1", memory_mib=1600))
    assert await reserved() - before == first + round(1200 * world.settings.memory_reserve)


async def test_nothing_is_placed_on_nodes_to_avoid_or_cordoned_ones(
    world: World, scheduler: NomadScheduler
) -> None:
    placed = await scheduler.submit(job(), avoid=["node-1"])
    assert placed.node == "node-2"
    await scheduler.cordon("node-1", on=True)
    try:
        with pytest.raises(NoCapacityError, match="1 have no room for one more disk"):
            await scheduler.submit(job(B), avoid=["node-2"])
        with pytest.raises(NoCapacityError, match=r"node-1.* is cordoned; uncordon it"):
            await scheduler.submit(job(B, node="node-1"))
        cordoned = {one.name: one.is_cordoned for one in await scheduler.nodes()}
        assert cordoned == {"node-1": True, "node-2": False}
    finally:
        await scheduler.cordon("node-1", on=False)
    assert (await scheduler.submit(job(B), avoid=["node-2"])).node == "node-1"
    with pytest.raises(NotFoundError):
        await scheduler.cordon("node-9", on=True)


async def test_ports_are_given_out_once_and_their_end_is_told(
    world: World, scheduler: NomadScheduler
) -> None:
    names = [letter * 26 for letter in "abcdefgh"]
    several = [scheduler.submit(job(name, memory_mib=10), avoid=["node-1"]) for name in names]
    results = await asyncio.gather(*several, return_exceptions=True)
    refused = [one for one in results if isinstance(one, BaseException)]
    placed = [one for one in results if not isinstance(one, BaseException)]
    assert {type(one) for one in refused} == {NoCapacityError}
    assert all("have no port left" in str(one) for one in refused)
    assert len({(one.address, one.port) for one in placed}) == len(placed) >= 2
    assert len(await scheduler.allocations()) == len(placed)


async def test_nodes_tell_what_they_have_and_what_is_taken(scheduler: NomadScheduler) -> None:
    placed = await scheduler.submit(job(memory_mib=100))
    nodes = {node.name: node for node in await scheduler.nodes()}
    assert set(nodes) == set(nomad.PORTS)
    node = nodes[placed.node]
    assert (node.is_ready, node.is_cordoned, node.address) == (True, False, "127.0.0.1")
    assert (node.node_class, node.version) == (nomad.CLASSES[placed.node], "2.0.5")
    assert (node.memory_mib, node.memory_reserved_mib) == (nomad.MEMORY_MIB, 164)
    (other,) = (one for one in nodes.values() if one.name != placed.node)
    assert other.memory_reserved_mib == 0


# -- a node that is lost -----------------------------------------------------------------------


async def test_what_is_on_a_lost_node_is_out_of_reach_until_it_returns(
    world: World, scheduler: NomadScheduler
) -> None:
    placed = await scheduler.submit(job(node="node-2"))
    await scheduler.submit(job(B, node="node-2"))
    await running(world, A)
    await running(world, B)
    changes = scheduler.changes()
    world.one.lose_node("node-2")
    try:
        async with asyncio.timeout(30):
            while any(one.reachable for one in await scheduler.allocations()):
                await anext(changes)
        assert await scheduler.allocation(A) == replace(placed, reachable=False)
        assert {one.sandbox_id for one in await scheduler.allocations()} == {A, B}
        with pytest.raises(UnavailableError, match="node node-2 is lost"):
            await scheduler.stop(B, grace_seconds=1)
        with pytest.raises(ConflictError):
            await scheduler.forget(B)
        with pytest.raises(ConflictError):
            await scheduler.submit(job(B, 2, node="node-2"))
        with pytest.raises(NoCapacityError, match=r"node-2, .* is disconnected; bring it back"):
            await scheduler.submit(job(C, node="node-2"))
        with pytest.raises(UnavailableError, match=r"node-2, .* is disconnected"):
            await scheduler.work("remove-disk", {"sandbox_id": C}, node="node-2")
        nodes = {node.name: node.is_ready for node in await scheduler.nodes()}
        assert nodes == {"node-1": True, "node-2": False}
    finally:
        world.one.return_node("node-2")
        await changes.aclose()  # type: ignore[attr-defined]

    async def is_back() -> bool:
        return await scheduler.allocation(A) == placed

    await until(is_back)
    over = await ended(scheduler, B)
    assert over.exit.reason in {"", "the runner ended, and Nomad cannot tell how"}
    await scheduler.stop(B, grace_seconds=1)
    await scheduler.forget(B)


# -- changes -----------------------------------------------------------------------------------


async def test_a_start_and_an_end_wake_whoever_watches(
    world: World, scheduler: NomadScheduler
) -> None:
    changes = scheduler.changes()
    await scheduler.submit(job(B))
    async with asyncio.timeout(20):
        while await anext(changes) != B:
            pass
    await running(world, B)
    await asyncio.to_thread(world.end, B, code=3)
    async with asyncio.timeout(20):
        there = await scheduler.allocation(B)
        while there is not None and there.running:
            await anext(changes)
            there = await scheduler.allocation(B)
    await changes.aclose()  # type: ignore[attr-defined]


@pytest.mark.contract
async def test_a_cut_is_told_and_the_next_call_goes_on_from_there(
    double: World, faulty: NomadScheduler
) -> None:
    changes = faulty.changes()
    await faulty.submit(job(A))
    assert await anext(changes) == A
    double.double.faults.cut_event_streams()
    await faulty.submit(job(B))
    with pytest.raises(UnavailableError, match="ended its stream"):
        assert {one async for one in changes} <= {A, B}
    async with asyncio.timeout(10):
        while await anext(faulty.changes()) != B:
            pass


@pytest.mark.contract
async def test_a_token_that_may_read_no_events_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nomad_wire, "_FIRST_SIGN_SECONDS", 0.2)
    with nomad.double(token="right") as world:
        async with NomadScheduler(world.settings) as scheduler:
            with pytest.raises(UnavailableError, match="YURT_NOMAD_TOKEN"):
                await anext(scheduler.changes())


# -- work --------------------------------------------------------------------------------------


async def test_work_is_done_on_the_node_and_its_result_brought_back(
    world: World, scheduler: NomadScheduler
) -> None:
    for node in ("node-2", ""):
        result = await scheduler.work("fetch-image", {"image_id": "x"}, node=node)
        assert result["verb"] == "fetch-image"
        assert result["told"]["image_id"] == "x"
    assert world.job_ids() == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        pytest.param({"error": "no such image"}, r"sweep on node-1 failed: no such image", id="e"),
        pytest.param({"dies": True}, r"left no result: the runner was killed \(signal 9\)", id="d"),
        pytest.param({"is_silent": True}, "left no result: .*no such file", id="s"),
    ],
)
async def test_work_that_fails_says_why_and_leaves_no_job(
    world: World, scheduler: NomadScheduler, arguments: dict[str, Any], words: str
) -> None:
    with pytest.raises(UnavailableError, match=words):
        await scheduler.work("sweep", arguments, node="node-1")
    assert world.job_ids() == []


async def test_who_asks_for_the_same_work_gets_the_same_result(
    world: World, scheduler: NomadScheduler, tmp_path: Path
) -> None:
    arguments = {"waits_for": str(tmp_path / "go")}
    several = [asyncio.create_task(scheduler.work("sweep", arguments)) for _ in range(2)]
    (name,) = await asyncio.to_thread(eventually, world.job_ids, "the job to be there")
    await asyncio.to_thread(
        eventually,
        lambda: [
            one
            for one in world.read(f"/job/{name}/allocations")
            if one["ClientStatus"] == "running"
        ],
        "it to run",
    )
    several.append(asyncio.create_task(scheduler.work("sweep", arguments)))
    await asyncio.sleep(0.1)
    (tmp_path / "go").touch()
    if hasattr(world.one, "tasks"):
        (task,) = world.one.tasks(name)
        task.files["alloc/result.json"] = b'{"verb": "sweep"}'
        task.finish()
    results = await asyncio.gather(*several, return_exceptions=True)
    done = [one for one in results if not isinstance(one, BaseException)]
    assert done
    assert {one["verb"] for one in done} == {"sweep"}
    # Whoever comes last may find it taken away; that is said, and it may be asked again.
    assert all(isinstance(one, UnavailableError) for one in results if one not in done)
    assert world.job_ids() == []


# -- faults ------------------------------------------------------------------------------------


@pytest.mark.contract
@pytest.mark.parametrize(
    ("fault", "words"),
    [
        pytest.param({"no_leader": True}, "No cluster leader", id="no leader"),
        pytest.param({"status": 500, "text": "rpc error: EOF"}, "rpc error: EOF", id="500"),
        pytest.param({"status": 429}, "too many concurrent", id="429"),
        pytest.param({"cuts_lists": True}, "does not answer", id="cut lists"),
    ],
)
async def test_what_cannot_be_asked_is_never_taken_for_empty(
    double: World, faulty: NomadScheduler, fault: dict[str, Any], words: str
) -> None:
    await faulty.submit(job())
    double.double.faults.__dict__.update(fault)
    calls = [
        faulty.allocations(),
        faulty.allocation(A),
        faulty.nodes(),
        faulty.cordon("node-1", on=True),
    ]
    begin = time.monotonic()
    for call in calls:
        with pytest.raises(UnavailableError, match=words):
            await call
    if "cuts_lists" not in fault:
        others = [faulty.submit(job(B)), faulty.work("sweep", {}), faulty.forget(A)]
        for other in (*others, faulty.stop(A, grace_seconds=1)):
            with pytest.raises(UnavailableError, match=words):
                await other
        with pytest.raises(UnavailableError):
            await anext(faulty.changes())
    assert time.monotonic() - begin < 20
    double.double.faults.clear()
    (there,) = await faulty.allocations()
    assert there.running


@pytest.mark.contract
async def test_what_fails_once_is_asked_again_where_that_is_safe(
    double: World, faulty: NomadScheduler
) -> None:
    await faulty.submit(job())
    faults = double.double.faults
    faults.status, faults.times = 500, 1
    assert len(await faulty.allocations()) == 1
    faults.method, faults.path, faults.times = "POST", "/v1/jobs", 1
    with pytest.raises(UnavailableError):
        await faulty.submit(job(B))
    assert await faulty.allocation(B) is None


@pytest.mark.contract
async def test_a_start_whose_answer_is_lost_is_found_again(
    double: World, faulty: NomadScheduler
) -> None:
    faults = double.double.faults
    faults.loses_answers, faults.method, faults.path, faults.times = True, "POST", "/v1/jobs", 1
    with pytest.raises(UnavailableError, match="YURT_NOMAD_URL"):
        await faulty.submit(job())
    placed = await faulty.submit(job())
    assert (placed.generation, placed.running) == (1, True)
    await running(double, A)
    assert len(double.double.tasks(job_id(A))) == 1


@pytest.mark.contract
async def test_what_is_not_placed_in_time_is_not_placed_later(
    double: World, faulty: NomadScheduler
) -> None:
    double.double.faults.never_places = True
    begin = time.monotonic()
    with pytest.raises(UnavailableError, match="decided nothing within 5 s"):
        await faulty.submit(job())
    assert time.monotonic() - begin < 8
    double.double.faults.clear()
    assert await faulty.allocation(A) is None
    placed = await faulty.submit(job(generation=2))
    assert placed.generation == 2
    assert [task.meta["generation"] for task in double.double.tasks(job_id(A))] in (["2"], [])


@pytest.mark.contract
async def test_nothing_is_purged_before_it_is_over(double: World, faulty: NomadScheduler) -> None:
    asked: list[Task] = []
    double.double.on_stop(asked.append)
    await faulty.submit(job())
    await running(double, A)
    stop = asyncio.create_task(faulty.stop(A, grace_seconds=1))
    (task,) = await asyncio.to_thread(eventually, lambda: asked, "it to be asked to end")
    with pytest.raises(ConflictError):
        await faulty.forget(A)
    assert double.job_ids() == [job_id(A)]
    assert not stop.done()
    assert task.is_running
    task.finish()
    await stop
    assert double.job_ids() == [job_id(A)]
    await faulty.forget(A)
    assert double.job_ids() == []


@pytest.mark.contract
async def test_a_runner_that_cannot_be_started_is_told(
    double: World, faulty: NomadScheduler
) -> None:
    double.double.faults.driver_error = "failed to launch command with executor"
    await faulty.submit(job())
    over = await ended(faulty, A)
    assert "did not start: failed to launch" in over.exit.reason
    assert over.exit.code == 1


@pytest.mark.contract
async def test_without_the_volume_there_is_no_room() -> None:
    with NomadDouble() as one:
        one.add_node("node-1", volumes=(), meta={"yurt_data": "/data"})
        one.add_node("node-2")
        async with NomadScheduler(NomadSettings(one.url)) as scheduler:
            words = "of 2 nodes.* 1 have no (host volume yurt|meta yurt_data), 1 have no"
            with pytest.raises(NoCapacityError, match=words):
                await scheduler.submit(job())
            assert await scheduler.nodes() != []
            assert await scheduler.allocations() == []


# -- whom Nomad and we trust -------------------------------------------------------------------


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    with nomad.secured(tmp_path_factory.mktemp("secured")) as secured:
        yield secured


def real(test: Any) -> Any:
    for mark in NEEDS:
        test = mark(test)
    return test


RULES = """
namespace "default" { capabilities = ["list-jobs", "read-job", "submit-job", "read-fs"] }
node { policy = "write" }
host_volume "yurt" { policy = "write" }
"""


@real
async def test_a_token_of_the_least_policy_does_everything(closed: Secured) -> None:
    token = nomad.policy_token(closed, RULES, "least")
    async with NomadScheduler(replace(closed.settings, token=token)) as scheduler:
        changes = scheduler.changes()
        await scheduler.submit(job())
        async with asyncio.timeout(10):
            while await anext(changes) != A:
                pass
        await changes.aclose()  # type: ignore[attr-defined]
        assert (await scheduler.work("inventory", {}, node="node-1"))["verb"] == "inventory"
        await scheduler.cordon("node-1", on=True)
        await scheduler.cordon("node-1", on=False)
        (node,) = await scheduler.nodes()
        assert node.disk_mib == 1000
        await scheduler.stop(A, grace_seconds=1)
        await scheduler.forget(A)
        assert await scheduler.allocations() == []


@real
async def test_disks_of_what_runs_are_never_promised_twice(closed: Secured) -> None:
    settings = replace(closed.settings, token=closed.management)
    async with NomadScheduler(settings) as scheduler:
        several = [scheduler.submit(job(name * 26, disk_mib=400)) for name in "abcde"]
        results = await asyncio.gather(*several, return_exceptions=True)
        refused = [one for one in results if isinstance(one, BaseException)]
        assert len(refused) == 3
        assert {type(one) for one in refused} == {NoCapacityError}
        assert all("have no 400 MiB of disk left" in str(one) for one in refused)
        for there in await scheduler.allocations():
            await scheduler.stop(there.sandbox_id, grace_seconds=1)
            await scheduler.forget(there.sandbox_id)


@real
async def test_a_runner_without_memory_is_killed_and_told(closed: Secured) -> None:
    settings = replace(closed.settings, token=closed.management)
    world = nomad.World(NomadDouble.__new__(NomadDouble), closed.log.parent / "data")
    async with NomadScheduler(settings) as scheduler:
        await scheduler.submit(job(memory_mib=64))
        await asyncio.to_thread(world.order, A, "hog 300")
        over = await ended(scheduler, A)
        assert re.search("memory|signal 9", over.exit.reason), over.exit
        assert over.exit.code == 137
        await scheduler.forget(A)


@real
@pytest.mark.parametrize("token", ["", "c0014433-b0dd-9da2-444f-aa38c7c82200"])
async def test_a_wrong_token_is_told_by_name(closed: Secured, token: str) -> None:
    async with NomadScheduler(replace(closed.settings, token=token)) as scheduler:
        for call in (scheduler.allocations(), scheduler.nodes(), scheduler.submit(job())):
            with pytest.raises(UnavailableError, match="YURT_NOMAD_TOKEN"):
                await call


@real
async def test_a_token_that_may_list_no_job_is_refused_not_empty(closed: Secured) -> None:
    rules = 'namespace "other" { policy = "read" }\nnode { policy = "read" }'
    token = nomad.policy_token(closed, rules, "elsewhere")
    async with NomadScheduler(replace(closed.settings, token=token)) as scheduler:
        with pytest.raises(UnavailableError, match="YURT_NOMAD_TOKEN"):
            await scheduler.allocations()


@real
async def test_a_server_of_another_authority_is_not_asked(closed: Secured, tmp_path: Path) -> None:
    other = Authority.at(tmp_path)
    wrong = [
        replace(closed.settings, token=closed.management, ca=other.ca),
        replace(closed.settings, token=closed.management, ca=None),
        replace(closed.settings, token=closed.management, cert=other.cert, key=other.key),
        replace(closed.settings, token=closed.management, cert=None, key=None),
    ]
    for settings in wrong:
        async with NomadScheduler(settings) as scheduler:
            with pytest.raises(UnavailableError, match=r"YURT_NOMAD_(CA|CERT)"):
                await scheduler.allocations()
            with pytest.raises(UnavailableError, match=r"YURT_NOMAD_(CA|CERT)"):
                await anext(scheduler.changes())
