"""The calls around sandboxes, as clients see them."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from control.model import ORGANIZATION, DesiredState, State
from control.naming import SandboxId
from tests.support.control_rig import Rig, a_rig, complaint, eventually
from tests.support.records import a_sandbox

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.unit, pytest.mark.asyncio(loop_scope="session")]

OLD = {"x-daytona-sdk-version": "0.21.0", "x-daytona-source": "python-sdk"}
REQUIRED = {
    *("id", "organizationId", "name", "user", "env", "labels", "public", "networkBlockAll", "kvm"),
    *("target", "cpu", "gpu", "memory", "disk", "toolboxProxyUrl", "state", "createdAt"),
}


async def test_a_create_is_held_until_started_and_answers_with_everything(rig: Rig) -> None:
    made = await rig.create(
        name="box",
        env={"A": "", "B": "b"},
        labels={"code-toolbox-language": "python"},
        public=True,
        target="us",
        autoStopInterval=0,
        autoArchiveInterval=0,
        autoDeleteInterval=-7,
        networkAllowList="10.0.0.0/8,1.2.3.4",
        envVars={"ignored": 1},
        **{"class": "small"},
    )
    assert made.keys() >= REQUIRED
    assert "class" not in made
    assert made["state"] == made["desiredState"] == "started"
    assert (made["name"], made["user"], made["target"]) == ("box", "daytona", "us")
    assert (made["env"], made["public"]) == ({"A": "", "B": "b"}, True)
    assert made["autoStopInterval"] == 0
    assert made["autoArchiveInterval"] == 43_200
    assert made["autoDeleteInterval"] == -1
    assert made["networkAllowList"] == "10.0.0.0/8,1.2.3.4"
    assert made["toolboxProxyUrl"] == "http://localhost:9878/toolbox"
    assert all(isinstance(made[field], int) for field in ("cpu", "gpu", "memory", "disk"))
    assignment = rig.runners[made["id"]].assignment
    assert assignment["env"] == {"A": "", "B": "b"}
    assert assignment["network"] == {"block_all": False, "allow": ["1.2.3.4/32", "10.0.0.0/8"]}
    (route,) = await rig.registry.routes()
    assert (route.sandbox_id, route.domain) == (made["id"], rig.settings.domain)


async def test_a_create_that_takes_long_answers_as_it_stands_and_goes_on(tmp_path: Path) -> None:
    async with a_rig(tmp_path, hold_seconds=0.05) as rig:
        rig.boots = None
        made = await rig.create()
        assert (made["state"], made["desiredState"]) == ("creating", "started")
        await rig.settle()  # submitting may take longer than the answer
        await rig.runners[made["id"]].boot()
        await rig.until(made["id"], "started")


async def test_no_room_is_said_at_once_and_can_be_recovered_from(rig: Rig) -> None:
    rig.scheduler.most = 0
    made = await rig.create()
    assert made["state"] == "error"
    assert "no room" in made["errorReason"]
    assert made["recoverable"] is True
    refused = await rig.call("POST", f"/sandbox/{made['id']}/stop")
    assert complaint(refused) == "Sandbox is not in a stoppable state"
    still = await rig.call("POST", f"/sandbox/{made['id']}/start")
    assert "no room" in still.json()["errorReason"]
    rig.scheduler.most = 1
    mended = await rig.call("POST", f"/sandbox/{made['id']}/recover")
    assert mended.json()["state"] == "started"
    assert mended.json()["errorReason"] is None
    again = await rig.call("POST", f"/sandbox/{made['id']}/recover")
    assert complaint(again) == "Sandbox is not in a recoverable state"


async def test_what_failed_for_good_does_not_start_again(rig: Rig) -> None:
    broken = a_sandbox(state=State.ERROR, error_reason="lost", recoverable=False)
    await rig.store.sandboxes.insert(broken, most=100)
    refused = await rig.call("POST", f"/sandbox/{broken.id}/start")
    assert (refused.status_code, complaint(refused)) == (400, "Sandbox is in an errored state")


async def test_a_start_that_fails_says_why(rig: Rig) -> None:
    async def broken(runner: Any) -> None:
        await runner.claim()
        rig.scheduler.end(runner.job.sandbox_id, "the user 'x' does not exist", phase="assign")

    rig.boots = broken
    made = await rig.create()
    assert (made["state"], made["errorReason"]) == ("error", "the user 'x' does not exist")
    await rig.settle()
    assert await rig.scheduler.allocations() == []
    assert await rig.registry.routes() == []


async def test_a_start_that_hangs_fails_at_its_deadline(tmp_path: Path) -> None:
    async with a_rig(tmp_path, hold_seconds=5, start_deadline_seconds=0.05) as rig:
        rig.boots = None
        made = await rig.create()
        assert made["state"] == "error"
        assert "did not start" in made["errorReason"]


async def test_stop_start_and_delete_go_round(rig: Rig) -> None:
    sandbox_id = (await rig.create(name="box"))["id"]
    token = (await rig.call("GET", "/sandbox/box/ports/80/preview-url")).json()["token"]
    stopped = (await rig.call("POST", "/sandbox/box/stop?force=true")).json()
    assert (stopped["state"], stopped["errorReason"]) == ("stopped", None)
    assert await rig.registry.routes() == []
    assert rig.scheduler.disks == {sandbox_id}
    again = await rig.call("POST", "/sandbox/box/stop")
    assert (again.status_code, complaint(again)) == (400, "Sandbox is not in a stoppable state")
    for _ in range(2):  # starting what is started is fine
        started = await rig.call("POST", f"/sandbox/{sandbox_id}/start")
        assert (started.status_code, started.json()["state"]) == (200, "started")
    assert rig.scheduler.jobs[sandbox_id].generation == 2
    kept = (await rig.call("GET", "/sandbox/box/ports/80/preview-url")).json()["token"]
    assert kept == token
    deleted = (await rig.call("DELETE", "/sandbox/box?force=true")).json()
    assert deleted.keys() >= REQUIRED
    assert (deleted["state"], deleted["desiredState"]) == ("destroying", "destroyed")
    assert (await rig.create(name="box"))["state"] == "started"  # the name is free at once
    await rig.until(sandbox_id, "destroyed")
    assert sandbox_id not in rig.scheduler.disks
    gone = await rig.call("POST", f"/sandbox/{sandbox_id}/start")
    assert complaint(gone) == f"Sandbox with ID or name {sandbox_id} not found"


async def test_a_deleted_sandbox_can_be_looked_at_for_a_while(tmp_path: Path) -> None:
    async with a_rig(tmp_path, destroyed_seconds=0.3) as rig:
        sandbox_id = (await rig.create())["id"]
        await rig.call("DELETE", f"/sandbox/{sandbox_id}")
        await rig.until(sandbox_id, "destroyed")
        assert (await rig.call("DELETE", f"/sandbox/{sandbox_id}")).status_code == 200

        async def gone() -> bool:
            return (await rig.call("GET", f"/sandbox/{sandbox_id}")).status_code == 404

        await eventually(gone)


async def test_delete_is_accepted_in_every_state(rig: Rig) -> None:
    for state in State:
        desired = DesiredState.DESTROYED if "destroy" in state else DesiredState.STARTED
        now = datetime.now(UTC)
        kept = a_sandbox(name=f"in-{state}", state=state, desired_state=desired, changed_at=now)
        await rig.store.sandboxes.insert(kept, most=100)
        answer = await rig.call("DELETE", f"/sandbox/{kept.id}")
        assert (answer.status_code, answer.json()["desiredState"]) == (200, "destroyed"), state
        assert (await rig.until(kept.id, "destroyed"))["id"] == kept.id


async def test_an_ephemeral_sandbox_ends_with_its_stop(rig: Rig) -> None:
    made = await rig.create(autoDeleteInterval=0)
    stopped = await rig.call("POST", f"/sandbox/{made['id']}/stop")
    assert stopped.json()["state"] == "destroyed"
    other = await rig.create(autoDeleteInterval=0)
    rig.scheduler.end(other["id"], "out of memory")
    await rig.until(other["id"], "destroyed")


async def test_changes_in_progress_are_not_overtaken_but_by_delete(rig: Rig) -> None:
    sandbox_id = (await rig.submitted()).job.sandbox_id
    refused = await rig.call("POST", f"/sandbox/{sandbox_id}/stop")
    assert (refused.status_code, complaint(refused)) == (409, "Sandbox state change in progress")
    assert (await rig.call("DELETE", f"/sandbox/{sandbox_id}")).status_code == 200
    await rig.until(sandbox_id, "destroyed")


async def test_a_runner_that_ends_unasked_leaves_its_reason(rig: Rig) -> None:
    made = await rig.create()
    rig.scheduler.end(made["id"], "out of memory", code=137)
    stopped = await rig.until(made["id"], "stopped")
    assert (stopped["errorReason"], stopped["desiredState"]) == ("out of memory", "stopped")
    await rig.settle()
    assert await rig.registry.routes() == []
    started = await rig.call("POST", f"/sandbox/{made['id']}/start")
    assert (started.json()["state"], started.json()["errorReason"]) == ("started", None)


async def test_a_runner_that_does_not_answer_is_stopped_by_the_scheduler(rig: Rig) -> None:
    made = await rig.create()
    rig.runners[made["id"]].answers = False
    stopped = await rig.call("POST", f"/sandbox/{made['id']}/stop")
    assert (stopped.json()["state"], stopped.json()["errorReason"]) == ("stopped", None)


async def test_empty_bodies_and_nulls_count_as_nothing(rig: Rig) -> None:
    for content in (b"", b"null", b"{}", b'{"env": null, "name": null, "cpu": null}'):
        headers = {"content-type": "application/json"}
        answer = await rig.call("POST", "/sandbox", content=content, headers=headers)
        assert answer.status_code == 200, answer.text
    listed = await rig.call("GET", "/sandbox", headers={"content-type": "application/json"})
    assert len(listed.json()["items"]) == 4


async def test_a_name_is_taken_until_its_sandbox_is_deleted(rig: Rig) -> None:
    await rig.create(name="box")
    answer = await rig.call("POST", "/sandbox", json={"name": "box"})
    assert (answer.status_code, complaint(answer)) == (409, "Sandbox with name box already exists")


async def test_equal_calls_at_once_have_one_effect(rig: Rig) -> None:
    async def at_once(path: str, **body: Any) -> list[int]:
        calls = (rig.call("POST", path, json=body) for _ in range(20))
        return sorted(answer.status_code for answer in await asyncio.gather(*calls))

    assert await at_once("/sandbox", name="box") == [200] + [409] * 19
    (sandbox_id,) = rig.scheduler.jobs
    # Some may come while the first one is on its way; none has an effect of its own.
    assert set(await at_once("/sandbox/box/stop")) <= {200, 400}
    await rig.until(sandbox_id, "stopped")
    assert set(await at_once("/sandbox/box/start")) == {200}
    assert rig.scheduler.jobs[sandbox_id].generation == 2


async def test_there_is_a_most_of_sandboxes(tmp_path: Path) -> None:
    async with a_rig(tmp_path, max_sandboxes=2) as rig:
        answers = await asyncio.gather(*(rig.call("POST", "/sandbox", json={}) for _ in range(4)))
        assert sorted(answer.status_code for answer in answers) == [200, 200, 400, 400]
        refused = next(answer for answer in answers if answer.status_code == 400)
        assert complaint(refused) == "Sandbox count limit exceeded. Maximum allowed: 2."


async def test_resources_can_be_asked_for_without_naming_a_snapshot(rig: Rig) -> None:
    made = await rig.create(cpu=2, memory=4, disk=10)
    job = rig.scheduler.jobs[made["id"]]
    assert (job.cpu, job.memory_mib, job.disk_bytes) == (2, 4096, 10 << 30)


async def test_without_a_default_snapshot_a_create_says_what_to_do(rig: Rig) -> None:
    snapshot = await rig.store.snapshots.get(ORGANIZATION, "default")
    assert snapshot is not None
    await rig.store.snapshots.put(replace(snapshot, name="other"))
    answer = await rig.call("POST", "/sandbox", json={})
    assert "yurt up" in complaint(answer)


async def test_lists_have_the_shape_that_their_reader_knows(rig: Rig) -> None:
    made = await rig.create(labels={"id": "1"})
    await rig.create(labels={"id": "2"})
    query = {"labels": '{"id":"1"}'}
    old = await rig.call("GET", "/sandbox", params=query, headers=OLD)
    assert [one["id"] for one in old.json()] == [made["id"]]
    everything = await rig.call("GET", "/sandbox?labels=null", headers=OLD)
    assert len(everything.json()) == 2
    paged = (await rig.call("GET", "/sandbox/paginated", params={**query, "limit": 1})).json()
    assert [one["id"] for one in paged.pop("items")] == [made["id"]]
    assert paged == {"total": 1, "page": 1, "totalPages": 1}
    new = (await rig.call("GET", "/sandbox", params=query)).json()
    assert [one["id"] for one in new["items"]] == [made["id"]]
    assert new["nextCursor"] is None
    assert new["items"][0].keys() >= REQUIRED - {"env"}


async def test_a_cursor_leads_through_everything_once(rig: Rig) -> None:
    for number in range(5):
        await rig.store.sandboxes.insert(a_sandbox(name=f"n{number}", minutes=number), most=100)
    seen: list[str] = []
    query: dict[str, Any] = {"limit": 2, "sort": "name"}
    for _ in range(3):
        page = (await rig.call("GET", "/sandbox", params=query)).json()
        seen += [one["name"] for one in page["items"]]
        query["cursor"] = page["nextCursor"]
    assert query["cursor"] is None
    assert seen == ["n4", "n3", "n2", "n1", "n0"]


async def test_filters_that_nothing_fits_give_nothing(rig: Rig) -> None:
    await rig.create()
    for query in ("sandboxClasses=linux-vm", "minGpu=1", "autoDestroyAtAfter=2020-01-01"):
        assert (await rig.call("GET", f"/sandbox?{query}")).json()["items"] == []
        assert (await rig.call("GET", f"/sandbox?{query}", headers=OLD)).json() == []
    assert len((await rig.call("GET", "/sandbox?minGpu=0&unknown=1")).json()["items"]) == 1


async def test_labels_are_replaced_whole_and_found_at_once(rig: Rig) -> None:
    made = await rig.create(labels={"a": "1"})
    body = {"labels": {"b": "2"}}
    answer = await rig.call("PUT", f"/sandbox/{made['id']}/labels", json=body)
    assert answer.json()["labels"] == {"b": "2"}
    found = await rig.call("GET", "/sandbox", params={"labels": '{"b":"2"}'})
    assert [one["id"] for one in found.json()["items"]] == [made["id"]]
    refused = await rig.call("PUT", f"/sandbox/{made['id']}/labels", json={})
    assert complaint(refused) == "labels: Field required"


async def test_what_a_gate_must_know_reaches_it(rig: Rig) -> None:
    made = await rig.create()
    runner = rig.runners[made["id"]]
    assert (await rig.call("POST", f"/sandbox/{made['id']}/public/true")).json()["public"] is True
    key = (await rig.call("GET", f"/sandbox/{made['id']}/signing-key")).json()
    new = (await rig.call("POST", f"/sandbox/{made['id']}/signing-key/rotate")).json()

    async def told() -> bool:
        await asyncio.sleep(0)
        return bool(runner.assignment["file_signing_key"] == new)

    await eventually(told)
    assert key != new
    assert runner.assignment["public"] is True
    before = runner.version
    await rig.call("PUT", f"/sandbox/{made['id']}/labels", json={"labels": {"a": "b"}})
    await rig.call("POST", f"/sandbox/{made['id']}/public/true")
    await rig.settle()
    assert runner.version == before  # nothing that a gate cares about


async def test_a_push_that_fails_is_tried_again(rig: Rig) -> None:
    made = await rig.create()
    runner = rig.runners[made["id"]]
    runner.answers = False
    await rig.call("POST", f"/sandbox/{made['id']}/public/true")
    await rig.settle()
    assert runner.assignment["public"] is False
    runner.answers = True

    async def told() -> bool:
        await asyncio.sleep(0)
        return bool(runner.assignment["public"])

    await eventually(told)


async def test_a_large_environment_keeps_no_change_from_a_gate(rig: Rig) -> None:
    env = {f"A{number}": "\u00fc" * 60_000 for number in range(2)}  # longer still as JSON
    made = await rig.create(env=env)
    runner = rig.runners[made["id"]]
    await rig.call("POST", f"/sandbox/{made['id']}/public/true")

    async def told() -> bool:
        await asyncio.sleep(0)
        return bool(runner.assignment["public"])

    await eventually(told)
    assert runner.assignment["env"] == env


@pytest.mark.parametrize(
    ("path", "field", "value"),
    [
        ("autostop/0", "autoStopInterval", 0),
        ("autoarchive/0", "autoArchiveInterval", 43_200),
        ("autoarchive/99999", "autoArchiveInterval", 43_200),
        ("autodelete/-1", "autoDeleteInterval", -1),
        ("autodelete/0", "autoDeleteInterval", 0),
    ],
)
async def test_timers_can_be_set(rig: Rig, path: str, field: str, value: int) -> None:
    made = await rig.create()
    answer = await rig.call("POST", f"/sandbox/{made['id']}/{path}")
    assert (answer.status_code, answer.json()[field]) == (200, value)
    assert (await rig.show(made["id"]))[field] == value


@pytest.mark.parametrize("path", ["autostop/-1", "autoarchive/-1", "autostop/x", "public/maybe"])
async def test_timers_that_make_no_sense_are_refused(rig: Rig, path: str) -> None:
    made = await rig.create()
    answer = await rig.call("POST", f"/sandbox/{made['id']}/{path}")
    assert answer.status_code == 400
    assert complaint(answer)


async def test_activity_is_noted(rig: Rig) -> None:
    made = await rig.create()
    answer = await rig.call("POST", f"/sandbox/{made['id']}/last-activity", json={"x": 1})
    assert (answer.status_code, answer.content) == (201, b"")
    assert (await rig.show(made["id"]))["lastActivityAt"] >= made["lastActivityAt"]


async def test_an_error_of_ours_shows_nothing_of_the_inside(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def break_it(*_: object) -> None:
        raise RuntimeError("secret detail")

    monkeypatch.setattr("control.api.sandboxes.sandbox_json", break_it)
    answer = await rig.call("POST", "/sandbox", json={})
    assert answer.status_code == 500
    assert "secret detail" not in answer.text
    assert "not in your request" in complaint(answer)


async def test_a_time_to_live_is_set_at_create_and_anew_from_now(rig: Rig) -> None:
    made = await rig.create(ttlMinutes=60)
    first = datetime.fromisoformat(made["autoDestroyAt"])
    assert first - datetime.fromisoformat(made["createdAt"]) == timedelta(minutes=60)
    path = f"/sandbox/{made['id']}/ttl"
    again = (await rig.call("POST", f"{path}/120")).json()
    assert datetime.fromisoformat(again["autoDestroyAt"]) > first
    assert (await rig.call("POST", f"{path}/0")).json()["autoDestroyAt"] is None
    assert (await rig.call("POST", f"{path}/-1")).status_code == 400


async def test_nothing_pauses_by_itself(rig: Rig) -> None:
    made = await rig.create()
    path = f"/sandbox/{made['id']}/autopause"
    assert (await rig.call("POST", f"{path}/0")).json()["autoPauseInterval"] == 0
    assert (await rig.call("POST", f"{path}/5")).status_code == 422


@pytest.mark.parametrize("call", ["pause", "fork"])
async def test_what_only_virtual_machines_do_is_refused_by_name(rig: Rig, call: str) -> None:
    made = await rig.create()
    answer = await rig.call("POST", f"/sandbox/{made['id']}/{call}", json={})
    assert answer.status_code == 422
    assert "ing is not supported for this sandbox" in answer.json()["message"]
    assert (await rig.call("POST", f"/sandbox/missing/{call}", json={})).status_code == 404


async def test_last_activity_is_told_to_the_gate_or_not_acknowledged(rig: Rig) -> None:
    made = await rig.create()
    path = f"/sandbox/{made['id']}/last-activity"
    assert (await rig.call("POST", path)).status_code == 201
    assert rig.runners[made["id"]].orders[-1] == "touch"
    rig.runners[made["id"]].answers = False
    assert (await rig.call("POST", path)).status_code == 503


async def test_an_idle_sandbox_is_warned_and_stopped_and_may_be_woken(rig: Rig) -> None:
    made = await rig.create(autoStopInterval=1)
    runner, collector = rig.runners[made["id"]], rig.control.collector
    runner.idle_seconds = 61.0
    await collector.look(SandboxId(made["id"]))
    assert runner.warned
    await collector.look(SandboxId(made["id"]))
    await rig.until(made["id"], "stopped")
    record = await rig.store.sandboxes.get(made["id"])
    assert record is not None
    assert record.wakes


async def test_what_is_due_is_found(rig: Rig) -> None:
    made = await rig.create(autoStopInterval=1, ttlMinutes=1)
    sandboxes, now = rig.store.sandboxes, datetime.now(UTC)
    assert made["id"] not in await sandboxes.due(now, running=False)
    assert made["id"] in await sandboxes.due(now, running=True)
    assert made["id"] in await sandboxes.due(now + timedelta(minutes=1), running=False)
