"""Nodes as control sees them: who may speak for one, and what becomes of those that are lost."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from control import app, gates as gates_of
from control.errors import UnavailableError
from control.gates import HttpGates
from control.model import ORGANIZATION, Node
from control.naming import SandboxId
from control.nodes import Nodes
from control.reconcile import loop
from control.reconcile.strays import stray_disks
from control.sandboxes import Sandboxes
from jobs.memory import NODE
from jobs.runner.message import DOWN, DOWN_ANSWER, UP, UP_ANSWER, Head, seal
from tests.support.control_rig import NODE_KEY, Rig, Runner, eventually
from tests.support.records import NOW

if TYPE_CHECKING:
    from control.model import Sandbox
    from control.snapshots import Snapshots
    from control.store import Store

pytestmark = [pytest.mark.unit, pytest.mark.asyncio(loop_scope="session")]

URL = "http://localhost/internal/report"
OTHER_KEY = bytes(range(1, 33))
GONE = SandboxId("2" * 26)


async def record(rig: Rig, runner: Runner) -> Sandbox:
    return await rig.control.records.find(ORGANIZATION, runner.job.sandbox_id)


async def look(rig: Rig) -> None:
    await rig.control.reconciler.resync()
    await rig.settle()


# -- who may report ----------------------------------------------------------------------------


async def test_a_claim_is_taken_only_from_the_node_of_the_job(rig: Rig) -> None:
    await rig.store.nodes.put(Node("other", OTHER_KEY, NOW))
    runner = await rig.submitted()
    for key, node in ((OTHER_KEY, "other"), (NODE_KEY, "other"), (OTHER_KEY, "nowhere")):
        head = Head(node, runner.job.sandbox_id, 1, runner.incarnation, 1)
        for body in (b'{"phase": "assign"}', b'{"phase": "waiting", "message": "x"}'):
            answer = await rig.http.post(URL, content=body, headers=seal(key, UP, head, body))
            assert answer.status_code == 403
            assert "preview_token" not in answer.text
    assert (await record(rig, runner)).node == ""
    assert (await runner.report("assign")).status_code == 200
    assert (await record(rig, runner)).node == NODE


async def test_what_is_reported_later_is_taken_only_from_the_node_of_the_record(rig: Rig) -> None:
    await rig.store.nodes.put(Node("other", OTHER_KEY, NOW))
    runner = await rig.submitted()
    await runner.claim()
    for phase in ("ready", "notice", "exit"):
        head = Head("other", runner.job.sandbox_id, 1, runner.incarnation, 99)
        body = b'{"phase": "%s", "message": "x"}' % phase.encode()
        answer = await rig.http.post(URL, content=body, headers=seal(OTHER_KEY, UP, head, body))
        assert answer.status_code == 403
    assert (await rig.show(runner.job.sandbox_id))["state"] == "creating"
    assert (await record(rig, runner)).run.exit_reason is None


async def test_what_was_said_to_a_runner_or_answered_to_it_is_no_report(rig: Rig) -> None:
    runner = await rig.submitted()
    body = b'{"phase": "assign"}'
    for direction in (DOWN, DOWN_ANSWER, UP_ANSWER):
        sealed = seal(NODE_KEY, direction, runner.head(), body)
        assert (await rig.http.post(URL, content=body, headers=sealed)).status_code == 403


async def test_a_report_of_one_sandbox_is_none_of_another(rig: Rig) -> None:
    runner, other = await rig.submitted(), await rig.submitted()
    await other.claim()
    body = b'{"phase": "ready"}'
    sealed = seal(NODE_KEY, UP, runner.head(), body)
    moved = {**sealed, "x-yurt-sandbox": other.job.sandbox_id}
    assert (await rig.http.post(URL, content=body, headers=moved)).status_code == 403
    stolen = Head(NODE, other.job.sandbox_id, 1, runner.incarnation, 50)
    assert (await rig.report(stolen, {"phase": "ready"})).status_code == 409


async def test_a_runner_that_is_faster_than_its_scheduler_asks_again(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = await rig.submitted()
    placed = rig.scheduler._allocations.pop(runner.job.sandbox_id)
    assert (await rig.report(runner.head(), {"phase": "assign"})).status_code == 503
    rig.scheduler._allocations[runner.job.sandbox_id] = replace(placed, node="")
    assert (await rig.report(runner.head(), {"phase": "assign"})).status_code == 503
    rig.scheduler._allocations[runner.job.sandbox_id] = replace(placed, generation=2)
    assert (await rig.report(runner.head(), {"phase": "assign"})).status_code == 409
    rig.scheduler._allocations[runner.job.sandbox_id] = placed
    assert (await rig.report(runner.head(), {"phase": "assign"})).status_code == 200


async def test_a_node_that_has_not_joined_is_sent_nothing(rig: Rig) -> None:
    nodes = Nodes(rig.store.nodes)
    await nodes.join("third", OTHER_KEY, app.now())
    known = await rig.store.nodes.get("third")
    await nodes.join("third", OTHER_KEY, app.now())
    assert await rig.store.nodes.get("third") == known
    await nodes.join("third", NODE_KEY, app.now())
    assert await nodes.key("third") == NODE_KEY
    runner = await rig.submitted()
    await runner.claim()
    run = (await record(rig, runner)).run
    allocation = await rig.scheduler.allocation(runner.job.sandbox_id)
    assert allocation is not None
    async with HttpGates(nodes.key) as gates:
        with pytest.raises(UnavailableError, match="nowhere has not joined"):
            await gates.send(replace(allocation, node="nowhere"), run, {"op": "hello"})
        with pytest.raises(UnavailableError, match="does not answer"):
            await gates.send(replace(allocation, port=1), run, {"op": "hello"})


async def test_of_many_on_a_machine_that_is_dark_one_at_a_time_waits_for_it(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = await rig.submitted()
    await runner.claim()
    run = (await record(rig, runner)).run
    allocation = await rig.scheduler.allocation(runner.job.sandbox_id)
    assert allocation is not None
    tried: list[str] = []
    trouble: type[httpx.HTTPError] = httpx.ConnectTimeout

    async def post(url: str, **_: object) -> httpx.Response:
        tried.append(url)
        await asyncio.sleep(0)
        raise trouble("no")

    async with HttpGates(Nodes(rig.store.nodes).key) as gates:
        monkeypatch.setattr(gates._client, "post", post)

        async def ask(many: int) -> int:
            tried.clear()
            asking = (gates.send(allocation, run, {"op": "hello"}) for _ in range(many))
            answers = await asyncio.gather(*asking, return_exceptions=True)
            assert all(isinstance(answer, UnavailableError) for answer in answers)
            return len(tried)

        assert await ask(1) == 1
        assert await ask(5) == 0
        gates._dark[allocation.address] = 0.0
        monkeypatch.setattr(gates_of, "_DARK_SECONDS", 60.0)
        assert await ask(5) == 1
        gates._dark[allocation.address] = 0.0
        trouble = httpx.ConnectError  # it refuses, so it lives
        assert await ask(1) == 1
        assert await ask(5) == 5


# -- what the record keeps ---------------------------------------------------------------------


async def test_a_start_is_placed_where_the_disk_is(rig: Rig) -> None:
    made = await rig.create()
    assert rig.runners[made["id"]].job.node == ""
    await rig.call("POST", f"/sandbox/{made['id']}/stop")
    await rig.call("POST", f"/sandbox/{made['id']}/start")
    assert rig.runners[made["id"]].job.node == NODE


async def test_stopped_disks_leave_no_room_on_their_node(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    reconciler = rig.control.reconciler
    world = replace(reconciler._world, disks=rig.store.sandboxes.disks)
    monkeypatch.setattr(reconciler, "_world", world)
    made = await rig.create()
    await rig.call("POST", f"/sandbox/{made['id']}/stop")
    assert await rig.store.sandboxes.disks() == {NODE: made["disk"]}
    rig.scheduler.disk_mib = 2 * made["disk"] * 1024 - 1
    full = (await rig.call("POST", "/sandbox", json={})).json()
    assert (full["state"], full["recoverable"]) == ("error", True)
    assert "the disks on node local leave no room" in full["errorReason"]
    assert (await rig.call("POST", f"/sandbox/{made['id']}/start")).json()["state"] == "started"
    rig.scheduler.disk_mib += 1
    assert (await rig.create())["state"] == "started"
    await rig.call("DELETE", f"/sandbox/{made['id']}")
    await rig.until(made["id"], "destroyed")
    assert await rig.store.sandboxes.disks() == {NODE: made["disk"]}


async def test_a_last_word_is_the_reason_when_the_scheduler_has_none(rig: Rig) -> None:
    runner = await rig.submitted()
    await runner.boot()
    await runner.report("exit", reason="out of memory", code=1, reached="ready")
    rig.scheduler.end(runner.job.sandbox_id, "the runner was killed", code=137, phase="unknown")
    assert (await rig.until(runner.job.sandbox_id, "stopped"))["errorReason"] == "out of memory"
    run = (await record(rig, runner)).run
    assert (run.exit_reason, run.exit_reached) == ("out of memory", "ready")


async def test_a_disk_is_removed_also_if_its_runner_never_reported(rig: Rig) -> None:
    runner = await rig.submitted()
    assert (await record(rig, runner)).node == ""
    rig.scheduler.end(runner.job.sandbox_id, "no image", code=1, phase="unknown")
    await rig.until(runner.job.sandbox_id, "error")
    await rig.settle()
    assert (await record(rig, runner)).node == NODE
    await rig.call("DELETE", f"/sandbox/{runner.job.sandbox_id}")
    await rig.until(runner.job.sandbox_id, "destroyed")
    assert rig.scheduler.disks == set()


# -- images on their way -----------------------------------------------------------------------


async def test_an_image_that_is_being_fetched_gives_a_start_more_time_and_no_error(
    rig: Rig,
) -> None:
    runner = await rig.submitted()
    before = await record(rig, runner)
    for size in ("1", "2"):
        answer = await runner.report("waiting", message=f"fetching image: {size} of 7 MiB")
        assert (answer.status_code, answer.json()) == (200, {})
    during = await record(rig, runner)
    assert during.changed_at > before.changed_at
    assert during.error_reason == "fetching image: 2 of 7 MiB"
    shown = await rig.show(runner.job.sandbox_id)
    assert (shown["state"], shown["errorReason"]) == ("creating", None)
    rival = Runner(rig, runner.job)
    assert (await rival.report("waiting", message="x")).status_code == 409
    await runner.boot()
    assert (await rig.until(runner.job.sandbox_id, "started"))["errorReason"] is None
    # One that was on its way meanwhile is no reason to end what is up.
    assert (await runner.report("waiting", message="x")).status_code == 200
    shown = await rig.show(runner.job.sandbox_id)
    assert (shown["state"], shown["errorReason"]) == ("started", None)
    assert (await rival.report("waiting", message="x")).status_code == 409


# -- lost nodes --------------------------------------------------------------------------------


async def test_a_lost_sandbox_is_unknown_keeps_its_route_and_comes_back(rig: Rig) -> None:
    made = await rig.create()
    runner = rig.runners[made["id"]]
    rig.scheduler.lost.add(NODE)
    await look(rig)
    assert (await rig.show(made["id"]))["state"] == "started"  # its gate answers
    runner.answers = False
    await look(rig)
    shown = await rig.show(made["id"])
    assert (shown["state"], shown["desiredState"]) == ("unknown", "started")
    assert shown["errorReason"].startswith("node unreachable: local ")
    assert [route.sandbox_id for route in await rig.registry.routes()] == [made["id"]]
    answer = await rig.call("POST", f"/sandbox/{made['id']}/start")
    assert (answer.status_code, answer.json()["state"]) == (200, "unknown")
    rig.scheduler.lost.clear()
    runner.answers = True
    await look(rig)
    shown = await rig.show(made["id"])
    assert (shown["state"], shown["errorReason"]) == ("started", None)
    assert runner.job.generation == 1


async def test_a_key_that_is_called_back_reaches_a_lost_sandbox_on_its_return(rig: Rig) -> None:
    made = await rig.create()
    runner = rig.runners[made["id"]]
    rig.scheduler.lost.add(NODE)
    runner.answers = False
    await look(rig)
    version = runner.version
    key = {"name": "k", "permissions": []}
    assert (await rig.call("POST", "/api-keys", json=key)).status_code == 201
    rig.scheduler.lost.clear()
    runner.answers = True
    await look(rig)
    assert runner.version > version


async def test_what_is_asked_of_an_unknown_sandbox_is_done_on_its_return(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped, deleted = (await rig.create())["id"], (await rig.create())["id"]
    rig.scheduler.lost.add(NODE)
    for sandbox_id in (stopped, deleted):
        rig.runners[sandbox_id].answers = False
    await look(rig)
    quick = rig.settings.model_copy(update={"hold_seconds": 0.05})
    patient = Sandboxes.__init__

    def impatient(self: Sandboxes, own: Snapshots, store: Store, *more: Any) -> None:
        patient(self, own, store, more[0], quick, *more[2:])

    monkeypatch.setattr(Sandboxes, "__init__", impatient)
    assert (await rig.call("POST", f"/sandbox/{stopped}/stop")).json()["state"] == "stopping"
    await rig.call("DELETE", f"/sandbox/{deleted}")
    await rig.settle()
    for sandbox_id, state in ((stopped, "stopping"), (deleted, "destroying")):
        shown = await rig.show(sandbox_id)
        assert shown["state"] == state
        assert shown["errorReason"].startswith("node unreachable: local ")
    rig.scheduler.lost.clear()
    for sandbox_id in (stopped, deleted):
        rig.runners[sandbox_id].answers = True
    await look(rig)
    assert (await rig.until(stopped, "stopped"))["errorReason"] is None
    await rig.until(deleted, "destroyed")
    assert rig.scheduler.disks == {stopped}


async def test_a_stopped_sandbox_of_a_lost_node_says_so_at_start_and_delete(rig: Rig) -> None:
    made = (await rig.create())["id"]
    await rig.call("POST", f"/sandbox/{made}/stop")
    rig.scheduler.lost.add(NODE)
    started = (await rig.call("POST", f"/sandbox/{made}/start")).json()
    assert (started["state"], started["recoverable"]) == ("error", True)
    assert "node local is lost" in started["errorReason"]
    rig.scheduler.lost.clear()
    assert (await rig.call("POST", f"/sandbox/{made}/start")).json()["state"] == "started"
    await rig.call("POST", f"/sandbox/{made}/stop")
    rig.scheduler.lost.add(NODE)
    await rig.call("DELETE", f"/sandbox/{made}")
    await rig.settle()
    shown = await rig.show(made)
    assert shown["state"] == "destroying"
    assert "disk on node local cannot be removed yet" in shown["errorReason"]
    rig.scheduler.lost.clear()
    await look(rig)
    assert (await rig.until(made, "destroyed"))["errorReason"] is None
    assert rig.scheduler.disks == set()


async def test_a_job_that_is_missing_stops_its_sandbox_with_a_reason(rig: Rig) -> None:
    made = (await rig.create())["id"]
    rig.scheduler._allocations.pop(made)
    await look(rig)
    assert (await rig.until(made, "stopped"))["errorReason"] == "the sandbox's runner is gone"


# -- what has no record ------------------------------------------------------------------------


async def strays(rig: Rig) -> dict[str, list[str]]:
    return await stray_disks(rig.scheduler, rig.store.sandboxes, rig.store.volumes)


async def test_disks_without_a_record_are_told_of_and_left_alone(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    await rig.call("POST", "/volumes", json={"name": "v"})
    made = (await rig.create(volumes=[{"volumeId": "v", "mountPath": "/v"}]))["id"]
    volumes = {*rig.scheduler.volumes, "f" * 36}
    assert len(volumes) == 2
    rig.scheduler.disks.add(GONE)
    rig.scheduler.volumes["f" * 36] = 1
    assert await strays(rig) == {NODE: [GONE, "f" * 36]}
    monkeypatch.setattr(loop, "STRAYS_SECONDS", 0.0)
    await rig.end()
    await rig.begin()

    async def told() -> bool:
        await asyncio.sleep(0)
        return "disks have no record" in caplog.text

    await eventually(told)
    assert rig.scheduler.disks == {made, GONE}
    assert rig.scheduler.volumes.keys() == volumes
    rig.scheduler.lost.add(NODE)
    assert await strays(rig) == {}


# -- what does not answer ----------------------------------------------------------------------


async def test_health_says_which_part_is_away_and_goes_on(rig: Rig) -> None:
    assert (await rig.call("GET", "/health/ready")).json()["error"] == {}
    rig.scheduler.is_away = True
    with pytest.raises(UnavailableError):
        await rig.control.reconciler.resync()
    ready = await rig.call("GET", "/health/ready")
    assert (ready.status_code, ready.json()["error"]) == (200, {"scheduler": {"status": "down"}})
    assert (await rig.call("GET", "/health")).status_code == 200
    rig.scheduler.is_away = False
    await look(rig)
    assert (await rig.call("GET", "/health/ready")).json()["error"] == {}
