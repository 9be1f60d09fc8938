"""Another size for a sandbox: what is refused, and what its runner and its next start are told."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from control import lifecycle
from control.errors import ConflictError, InvalidError, NoCapacityError
from control.model import DesiredState, Resources, Run, Size, State
from control.room import require_growth
from jobs.scheduler import NodeStatus
from tests.support.control_rig import complaint
from tests.support.records import NOW, a_sandbox

if TYPE_CHECKING:
    import httpx

    from control.model import Sandbox
    from tests.support.control_rig import Rig

pytestmark = pytest.mark.unit
AT_ONCE = pytest.mark.asyncio(loop_scope="session")


async def resize(rig: Rig, made: dict[str, Any], **size: Any) -> httpx.Response:
    return await rig.call("POST", f"/sandbox/{made['id']}/resize", json=size)


async def stopped(rig: Rig, **body: Any) -> dict[str, Any]:
    made = await rig.create(**body)
    await rig.call("POST", f"/sandbox/{made['id']}/stop")
    return await rig.until(made["id"], "stopped")


@AT_ONCE
async def test_a_started_sandbox_has_more_when_the_call_returns(rig: Rig) -> None:
    made = await rig.create(cpu=1, memory=1, disk=3)
    answer = await resize(rig, made, cpu=2, memory=4)
    assert answer.status_code == 200
    shown = answer.json()
    assert (shown["state"], shown["cpu"], shown["memory"], shown["disk"]) == ("started", 2, 4, 3)
    runner = rig.runners[made["id"]]
    assert runner.assignment["limits"] == {"cpu": 2, "memory_mib": 4096}
    assert runner.job.memory_mib == 1024  # what the scheduler was asked for stays until then:
    await rig.call("POST", f"/sandbox/{made['id']}/stop")
    await rig.call("POST", f"/sandbox/{made['id']}/start")
    assert (rig.runners[made["id"]].job.cpu, rig.runners[made["id"]].job.memory_mib) == (2, 4096)


@AT_ONCE
async def test_a_stopped_sandbox_has_another_size_at_its_next_start(rig: Rig) -> None:
    made = await stopped(rig, cpu=4, memory=4, disk=3)
    answer = await resize(rig, made, cpu=1, memory=2, disk=7)
    assert answer.status_code == 200
    assert (answer.json()["state"], answer.json()["disk"]) == ("stopped", 7)
    await rig.call("POST", f"/sandbox/{made['id']}/start")
    job = rig.runners[made["id"]].job
    assert (job.cpu, job.memory_mib, job.disk_bytes) == (1, 2048, 7 << 30)


@pytest.mark.parametrize(
    ("size", "text"),
    [
        ({}, "Nothing to resize"),
        ({"cpu": 2, "memory": 2, "disk": 5}, "Nothing to resize"),
        ({"disk": 4}, "Disk can only grow: it has 5 GiB already"),
        ({"disk": 6}, "only while the Sandbox is stopped"),
        ({"cpu": 1}, "can only be increased"),
        ({"cpu": 3, "memory": 1}, "can only be increased"),
        ({"cpu": 0}, "CPU must be at least 1"),
        ({"memory": -1}, "Memory must be at least 1"),
        ({"disk": 1 << 40}, "Disk limit exceeded. Maximum allowed: 1024."),
        ({"cpu": 65}, "CPU limit exceeded. Maximum allowed: 64."),
        ({"cpu": "3"}, "cpu"),
        ({"cpu": 2.5}, "cpu"),
        ({"memory": True}, "memory"),
    ],
)
@AT_ONCE
async def test_what_cannot_be_is_refused_whole(rig: Rig, size: dict[str, Any], text: str) -> None:
    made = await rig.create(cpu=2, memory=2, disk=5)
    refused = await resize(rig, made, **size)
    assert refused.status_code == 400
    assert text in complaint(refused)
    shown = await rig.show(made["id"])
    assert (shown["cpu"], shown["memory"], shown["disk"]) == (2, 2, 5)


@AT_ONCE
async def test_a_disk_never_shrinks(rig: Rig) -> None:
    made = await stopped(rig, disk=5)
    refused = await resize(rig, made, disk=4, cpu=8)
    assert (refused.status_code, complaint(refused)) == (
        400,
        "Disk can only grow: it has 5 GiB already",
    )
    assert (await rig.show(made["id"]))["cpu"] == made["cpu"]


@AT_ONCE
async def test_a_resize_is_within_the_quota(rig: Rig) -> None:
    one = await rig.tenant("one")
    limits = {"totalMemoryQuota": 4, "totalDiskQuota": 6}
    await rig.call("PATCH", f"/organizations/{one.id}/quota/us", json=limits)
    body = {"cpu": 1, "memory": 2, "disk": 3}
    made = (await one.call("POST", "/sandbox", json=body)).json()
    path = f"/sandbox/{made['id']}/resize"
    refused = await one.call("POST", path, json={"memory": 5})
    assert complaint(refused) == (
        "Total Memory limit exceeded. Maximum allowed: 4 GiB. In use: 2 GiB, asked for: 3 GiB."
    )
    assert (await one.call("POST", path, json={"memory": 4})).status_code == 200
    assert (await one.call("POST", f"/sandbox/{made['id']}/stop")).json()["state"] == "stopped"
    refused = await one.call("POST", path, json={"disk": 7})
    assert complaint(refused).startswith("Total Disk limit exceeded.")
    assert (await one.call("POST", path, json={"disk": 6, "memory": 9})).status_code == 200
    refused = await one.call("POST", f"/sandbox/{made['id']}/start")  # memory counts from here
    assert complaint(refused).startswith("Total Memory limit exceeded.")


@AT_ONCE
async def test_without_room_on_its_node_it_stays_as_it_is(rig: Rig) -> None:
    made = await stopped(rig, disk=3)
    rig.scheduler.disk_mib = 10 << 10
    refused = await resize(rig, made, disk=11)
    assert refused.status_code == 503
    assert complaint(refused).startswith("no room: the disks on node local leave less than 8 GiB")
    assert (await rig.show(made["id"]))["disk"] == 3
    assert (await resize(rig, made, disk=10)).status_code == 200


def node(**fields: Any) -> NodeStatus:
    usual = NodeStatus("n", "", True, False, "", "", 8192, 4096, 0)
    return replace(usual, **fields)


def test_memory_that_a_started_sandbox_reserves_more_must_be_there() -> None:
    sandbox = a_sandbox(node="n", state=State.STARTED)
    require_growth(sandbox, Resources(1, 17, 3), [node()], {}, 0.25)
    with pytest.raises(NoCapacityError, match="4096 MiB of memory left, this needs 4352 MiB more"):
        require_growth(sandbox, Resources(1, 18, 3), [node()], {}, 0.25)
    require_growth(replace(sandbox, state=State.STOPPED), Resources(1, 18, 3), [node()], {}, 0.25)
    require_growth(sandbox, Resources(1, 18, 3), [node(name="other")], {}, 0.25)


@pytest.mark.parametrize("state", sorted(State))
def test_only_what_has_come_to_rest_is_resized(state: State) -> None:
    wanted = DesiredState.STOPPED if state is State.STOPPED else DesiredState.STARTED
    sandbox: Sandbox = a_sandbox(state=state, desired_state=wanted, run=Run(2, "f" * 32))
    if state in {State.STARTED, State.STOPPED}:
        assert lifecycle.resize(sandbox, Size(cpu=2), NOW).resources.cpu == 2
    else:
        with pytest.raises((ConflictError, InvalidError)):
            lifecycle.resize(sandbox, Size(cpu=2), NOW)
