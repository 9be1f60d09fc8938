"""What Nomad says of an end, of a place and of a lack of room, in our words."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from jobs import nomad_view as view
from jobs.nomad import NomadSettings
from jobs.runner.record import FENCED_CODE

pytestmark = pytest.mark.unit

AT = "2026-08-21T10:00:00.123456789Z"
SETTINGS = NomadSettings("http://nomad:4646")


def placed(status: str, *events: dict[str, Any], node: str = "node-1") -> dict[str, Any]:
    return {
        "ID": "x",
        "ClientStatus": status,
        "ClientDescription": "Failed tasks",
        "NodeName": node,
        "CreateIndex": 7,
        "ModifyTime": 1_700_000_000_000_000_000,
        "TaskStates": {"runner": {"FinishedAt": AT, "Events": [{"Type": "Received"}, *events]}},
        "AllocatedResources": {"Shared": {"Ports": None}},
    }


def terminated(code: int, signal: int = 0, **details: str) -> dict[str, Any]:
    return {"Type": "Terminated", "ExitCode": code, "Signal": signal, "Details": details}


@pytest.mark.parametrize(
    ("events", "reason", "code"),
    [
        ([terminated(0)], "", 0),
        (
            [terminated(137, 9, oom_killed="true")],
            "the runner was killed: it ran out of memory",
            137,
        ),
        ([{"Type": "Killing"}, terminated(137, 9)], "(signal 9): it did not end in time", 137),
        ([terminated(0, 11)], "the runner was killed (signal 11)", 139),
        ([terminated(0), terminated(FENCED_CODE)], "its node was restarted", FENCED_CODE),
        ([terminated(-1)], "the runner ended, and Nomad cannot tell how", -1),
        ([{"Type": "Driver Failure", "DriverError": "no python"}], "did not start: no python", 1),
        ([{"Type": "Setup Failure", "DisplayMessage": "no room"}], "did not start: no room", 1),
        ([{"Type": "Not Restarting", "DisplayMessage": "never"}], "not start: Failed tasks", 1),
    ],
)
def test_an_end_has_a_reason_and_a_code(
    events: list[dict[str, Any]], reason: str, code: int
) -> None:
    exit = view.exit_of(placed("failed", *events))
    assert exit.reason.endswith(reason)
    assert (exit.code, exit.phase) == (code, "unknown")
    assert exit.at == datetime(2026, 8, 21, 10, 0, 0, 123456, UTC)


def test_one_that_never_began_has_ended_well() -> None:
    exit = view.exit_of(placed("complete") | {"TaskStates": None})
    assert (exit.reason, exit.code) == ("", 0)
    assert exit.at == datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)


def test_what_is_lost_is_over_only_when_its_node_was_heard_again() -> None:
    lost = placed("lost")
    assert not view.is_over(lost)
    assert not view.is_over(lost, {"node-2"})
    assert view.is_out_of_reach(lost)
    assert view.is_over(lost, {"node-1"})
    assert not view.is_out_of_reach(lost, {"node-1"})
    assert view.exit_of(lost).reason == "node node-1 was lost"
    assert not view.is_over(placed("unknown"), {"node-1"})


def test_the_youngest_allocation_counts() -> None:
    old, young = placed("complete"), placed("running") | {"CreateIndex": 9}
    assert view.newest([old, young, old]) is young
    assert view.newest([]) is None


def node(status: str, **more: Any) -> dict[str, Any]:
    return {
        "Name": "node-1",
        "Address": "10.0.0.1",
        "Status": status,
        "ModifyIndex": 1,
        "SchedulingEligibility": "eligible",
        "NodePool": "default",
        "NodeClass": "",
        "Version": "2.0.5",
        "HostVolumes": {"yurt": {}},
        "NodeResources": {"Memory": {"MemoryMB": 1000}, "Disk": {"DiskMB": 900}},
        "ReservedResources": {"Memory": {"MemoryMB": 100}, "Disk": {"DiskMB": 200}},
        **more,
    }


def test_a_node_that_was_made_anew_is_listed_once() -> None:
    old = node("down", ModifyIndex=99)
    (status,) = view.node_statuses([old, node("ready"), old], [], SETTINGS)
    assert status.is_ready
    assert (status.memory_mib, status.disk_mib) == (900, 700)


@pytest.mark.parametrize(
    "more", [{"NodePool": "other"}, {"HostVolumes": None}, {"NodeClass": "small"}]
)
def test_only_nodes_for_sandboxes_are_listed(more: dict[str, Any]) -> None:
    settings = NomadSettings("http://nomad:4646", node_class="large")
    large = node("ready", NodeClass="large")
    assert view.node_statuses([large | more], [], settings) == []
    assert len(view.node_statuses([large], [], settings)) == 1


def test_a_lack_of_room_counts_its_reasons() -> None:
    metric = {
        "NodesEvaluated": 7,
        "NodePool": "default",
        "DimensionExhausted": {"memory": 1, "disk": 2, "cpu": 1, "devices": 1},
        "ConstraintFiltered": {
            "missing drivers": 1,
            "${node.unique.name} != node-2": 1,
            "computed class ineligible": 1,
        },
    }
    group = {
        "Tasks": [{"Resources": {"MemoryMB": 272}}],
        "EphemeralDisk": {"SizeMB": 3072},
    }
    assert view.no_room(metric, group, "") == (
        "no room: of 7 nodes in pool default, 1 have no 272 MiB of memory left, 2 have no 3072 MiB"
        " of disk left, 1 have no processor time left, 1 lack devices, 1 do not run raw_exec, 1"
        " have no room for one more disk, 1 do not fit (computed class ineligible); stop or delete"
        " sandboxes, or join a node"
    )
    nobody = {"NodesEvaluated": 0, "NodePool": "other"}
    assert "no node of pool other is ready" in view.no_room(nobody, group, "")
    assert view.no_room(nobody, group, "node-1 is down") == "no room: node-1 is down"
