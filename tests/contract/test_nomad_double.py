"""The same raw requests to the Nomad double and to a real Nomad: what it does with jobs is true.

What can be read of them is in ``test_nomad_reads.py``; what no one can ask of a real Nomad on
request is tried of the double alone, in ``test_nomad_faults.py``.
"""

from __future__ import annotations

import copy
import zlib
from typing import Any

import pytest

from tests.support.nomad_rig import (
    PORTS,
    Nomad,
)
from tests.support.waiting import eventually

Json = dict[str, Any]


# -- a job's life ----------------------------------------------------------------------------


def test_a_job_is_placed_at_once_and_said_to_run_later(nomad: Nomad) -> None:
    answer = nomad.register(nomad.job("yurt-a"))
    told = answer.json()
    assert answer.status_code == 200
    assert told["EvalCreateIndex"] == told["JobModifyIndex"] == told["Index"]
    assert answer.headers["X-Nomad-Index"] == str(told["Index"])
    assert told["Warnings"] == ""
    placed = nomad.until("yurt-a", "run", "DesiredStatus")
    assert (placed["ClientStatus"], placed["EvalID"]) == ("pending", told["EvalID"])
    assert (placed["NodeName"], placed["TaskGroup"]) == ("node-1", "sandbox")
    assert (placed["JobType"], placed["JobVersion"]) == ("batch", 0)
    evaluation = nomad.get(f"/evaluation/{told['EvalID']}")
    assert (evaluation["TriggeredBy"], evaluation["Type"]) == ("job-register", "batch")
    assert "FailedTGAllocs" not in evaluation
    address, port = nomad.port("yurt-a")
    assert address == "127.0.0.1"
    assert PORTS["node-1"][0] <= port <= PORTS["node-1"][1]
    running = nomad.until("yurt-a", "running")
    assert running["ClientDescription"] == "Tasks are running"
    whole = nomad.get(f"/allocation/{running['ID']}")
    assert whole["Job"]["Meta"] == {"yurt": "sandbox", "generation": "1"}
    assert whole["AllocatedResources"]["Tasks"]["runner"]["Memory"]["MemoryMB"] == 10
    assert whole["TaskStates"]["runner"]["State"] == "running"
    job = nomad.get("/job/yurt-a")
    assert (job["Status"], job["Stop"], job["Version"]) == ("running", False, 0)
    assert (job["JobModifyIndex"], job["CreateIndex"]) == (told["JobModifyIndex"],) * 2


@pytest.mark.parametrize(
    ("exit_code", "signal", "status", "told"),
    [
        pytest.param(0, 0, "complete", (0, 0), id="well"),
        pytest.param(3, 0, "failed", (3, 0), id="with 3"),
        pytest.param(0, 9, "failed", (137, 9), id="killed"),
    ],
)
def test_an_end_tells_its_code_and_its_signal(
    nomad: Nomad, exit_code: int, signal: int, status: str, told: tuple[int, int]
) -> None:
    job_id = f"yurt-end-{exit_code}-{signal}"
    nomad.start(job_id)
    nomad.one.finish(job_id, exit_code, signal)
    ended = nomad.until(job_id, status)
    state = ended["TaskStates"]["runner"]
    events = [event["Type"] for event in state["Events"]]
    failing = ["Not Restarting"] if status == "failed" else []
    assert events == ["Received", "Task Setup", "Started", "Terminated", *failing]
    assert (state["State"], state["Failed"]) == ("dead", status == "failed")
    assert state["StartedAt"] < state["FinishedAt"]
    (terminated,) = [event for event in state["Events"] if event["Type"] == "Terminated"]
    assert (terminated["ExitCode"], terminated["Signal"]) == told
    assert ended["DesiredStatus"] == "run"
    job = nomad.get(f"/job/{job_id}")
    assert (job["Status"], job["Stop"]) == ("dead", False)
    assert set(nomad.evaluations(job_id)) == {"job-register"}


def test_a_stopped_job_is_dead_before_its_task(nomad: Nomad) -> None:
    nomad.start("yurt-stop")
    told = nomad.ask("DELETE", "/job/yurt-stop").json()
    assert told["JobModifyIndex"] == told["EvalCreateIndex"] == told["Index"] > 0
    stopping = nomad.until("yurt-stop", "stop", "DesiredStatus")
    assert stopping["DesiredDescription"] == "alloc not needed due to job update"
    ended = nomad.until("yurt-stop", "complete")
    assert ended["ClientDescription"] == "All tasks have completed"
    state = ended["TaskStates"]["runner"]
    assert [event["Type"] for event in state["Events"]][3:] == ["Killing", "Terminated", "Killed"]
    assert (state["State"], state["Failed"]) == ("dead", False)
    job = nomad.get("/job/yurt-stop")
    assert (job["Status"], job["Stop"], job["Version"]) == ("dead", True, 1)
    nomad.ask("DELETE", "/job/yurt-stop?purge=true")
    assert nomad.ask("GET", "/job/yurt-stop").status_code == 404
    assert nomad.get("/job/yurt-stop/allocations") == []
    assert nomad.ask("GET", f"/allocation/{ended['ID']}").text == "alloc not found"
    assert set(nomad.evaluations("yurt-stop")) == {"job-register", "job-deregister"}
    assert nomad.evaluations("yurt-stop")["job-deregister"]["Type"] == "service"


def test_deleting_what_is_not_there_succeeds(nomad: Nomad) -> None:
    for path in ("/job/yurt-none", "/job/yurt-none?purge=true"):
        answer = nomad.ask("DELETE", path)
        assert (answer.status_code, answer.headers["X-Nomad-Index"]) == (200, "0")
        assert (answer.json()["EvalID"], answer.json()["JobModifyIndex"]) == ("", 0)


def test_a_job_is_registered_only_over_the_index_that_is_named(nomad: Nomad) -> None:
    job = nomad.job("yurt-index")
    index = nomad.register(job).json()["JobModifyIndex"]
    again = nomad.register(job)
    enforcing = "Enforcing job modify index"
    assert (again.status_code, again.text) == (500, f"{enforcing} 0: job already exists")
    assert again.headers["Content-Type"] == "text/plain; charset=utf-8"
    other = nomad.register(job, index - 1)
    conflict = f"{enforcing} {index - 1}: job exists with conflicting job modify index: {index}"
    assert (other.status_code, other.text) == (500, conflict)
    none = nomad.register(nomad.job("yurt-index-none"), 7)
    assert (none.status_code, none.text) == (500, f"{enforcing} 7: job does not exist")
    assert nomad.register(job, index).status_code == 200


def test_the_same_job_again_is_no_new_version(nomad: Nomad) -> None:
    first = nomad.start("yurt-same")
    job = nomad.job("yurt-same")
    before = nomad.get("/job/yurt-same")
    again = nomad.register(copy.deepcopy(job), None)
    assert again.status_code == 200
    assert again.json()["JobModifyIndex"] == before["ModifyIndex"] != before["JobModifyIndex"]
    evaluation = f"/evaluation/{again.json()['EvalID']}"
    eventually(lambda: nomad.get(evaluation)["Status"] == "complete", "it to be evaluated")
    assert nomad.newest("yurt-same")["ID"] == first["ID"]
    assert nomad.get("/job/yurt-same")["Version"] == 0


def test_another_generation_replaces_what_runs(nomad: Nomad) -> None:
    first = nomad.start("yurt-next")
    nomad.register(nomad.job("yurt-next", generation="2"), None)
    eventually(lambda: nomad.newest("yurt-next")["ID"] != first["ID"], "a second allocation")
    second = nomad.until("yurt-next", "running")
    assert second["JobVersion"] == 1
    old = eventually(
        lambda: nomad.ask("GET", f"/allocation/{first['ID']}").json(), "the first to be told"
    )
    assert old["DesiredStatus"] == "stop"
    assert old["DesiredDescription"] == "alloc is being updated due to job update"


# -- room ------------------------------------------------------------------------------------

_CLASS = {"LTarget": "${node.class}", "RTarget": "class-node-9", "Operand": "="}
_META = {"LTarget": "${meta.yurt_data}", "RTarget": "/other", "Operand": "="}


@pytest.mark.parametrize(
    ("node", "more", "evaluated", "reasons"),
    [
        pytest.param(
            "node-1",
            {"memory": 2000},
            (2, 1, 1),
            ({"${node.unique.name} = node-1": 1}, {"memory": 1}, {"class-node-2": 1}),
            id="memory of one",
        ),
        pytest.param("", {"memory": 2000}, (2, 0, 2), (None, {"memory": 2}, None), id="memory"),
        pytest.param(
            "node-9",
            {},
            (2, 2, 0),
            (
                {"${node.unique.name} = node-9": 2},
                None,
                {"class-node-1": 1, "class-node-2": 1},
            ),
            id="no such node",
        ),
        pytest.param(
            "",
            {"constraints": [_CLASS]},
            (2, 2, 0),
            (
                {"${node.class} = class-node-9": 2},
                None,
                {"class-node-1": 1, "class-node-2": 1},
            ),
            id="no such class",
        ),
        pytest.param(
            "",
            {"constraints": [_META]},
            (2, 2, 0),
            (
                {"${meta.yurt_data} = /other": 2},
                None,
                {"class-node-1": 1, "class-node-2": 1},
            ),
            id="no such meta",
        ),
        pytest.param(
            "",
            {"volume": "other"},
            (2, 2, 0),
            (
                {"missing compatible host volumes": 2},
                None,
                {"class-node-1": 1, "class-node-2": 1},
            ),
            id="no such volume",
        ),
    ],
)
def test_what_finds_no_room_says_why_and_waits(
    nomad: Nomad,
    request: pytest.FixtureRequest,
    node: str,
    more: Json,
    evaluated: tuple[int, int, int],
    reasons: tuple[Json | None, Json | None, Json | None],
) -> None:
    job_id = f"yurt-room-{zlib.crc32(request.node.name.encode()):x}"
    assert nomad.register(nomad.job(job_id, node, **more)).status_code == 200
    failed = nomad.blocked(job_id)
    counts = ("NodesEvaluated", "NodesFiltered", "NodesExhausted")
    assert tuple(failed[key] for key in counts) == evaluated
    told = ("ConstraintFiltered", "DimensionExhausted", "ClassFiltered")
    assert tuple(failed[key] for key in told) == reasons
    assert (failed["NodesAvailable"], failed["NodesInPool"]) == ({"dc1": 2}, 2)
    assert failed["NodePool"] == "default"
    assert nomad.get(f"/job/{job_id}")["Status"] == "pending"
    assert nomad.get(f"/job/{job_id}/allocations") == []
    (listed,) = nomad.get(f"/jobs?prefix={job_id}")
    assert listed["JobSummary"]["Summary"]["sandbox"]["Queued"] == 1


def test_what_waits_for_room_is_given_up_with_its_job(nomad: Nomad) -> None:
    nomad.register(nomad.job("yurt-given-up", "node-9"))
    nomad.blocked("yurt-given-up")
    nomad.ask("DELETE", "/job/yurt-given-up")
    eventually(
        lambda: nomad.evaluations("yurt-given-up")["queued-allocs"]["Status"] == "canceled",
        "the blocked evaluation to be canceled",
    )
    assert nomad.get("/job/yurt-given-up")["Status"] == "dead"


def test_memory_is_free_again_only_when_the_task_is_over(nomad: Nomad) -> None:
    nomad.start("yurt-first", memory=900)
    nomad.register(nomad.job("yurt-second", memory=900))
    assert nomad.blocked("yurt-second")["DimensionExhausted"] == {"memory": 1}
    nomad.ask("DELETE", "/job/yurt-first")
    nomad.until("yurt-second", "run", "DesiredStatus")
    assert nomad.newest("yurt-first")["ClientStatus"] == "complete"
    evaluation = nomad.evaluations("yurt-second")["queued-allocs"]
    assert evaluation["Status"] == "complete"
    assert "FailedTGAllocs" not in evaluation


def test_a_purge_frees_the_port_at_once_and_wakes_nobody(nomad: Nomad) -> None:
    first, last = PORTS["node-2"]
    addresses = [n["IP"] for n in nomad.node("node-2")["NodeResources"]["Networks"] if n.get("IP")]
    jobs = [f"yurt-p{i}" for i in range((last - first + 1) * len(addresses))]
    for job_id in jobs:
        nomad.register(nomad.job(job_id, "node-2"))
    for job_id in jobs:
        nomad.until(job_id, "running")
    given = [nomad.port(job_id) for job_id in jobs]
    assert sorted(given) == sorted((a, p) for a in addresses for p in range(first, last + 1))
    nomad.register(nomad.job("yurt-waits", "node-2"))
    failed = nomad.blocked("yurt-waits")
    assert failed["DimensionExhausted"] == {"network: dynamic port selection failed": 1}
    freed = nomad.port(jobs[0])
    nomad.ask("DELETE", f"/job/{jobs[0]}?purge=true")
    nomad.register(nomad.job("yurt-lucky", "node-2"))
    nomad.until("yurt-lucky", "run", "DesiredStatus")
    assert nomad.port("yurt-lucky") == freed
    assert nomad.evaluations("yurt-waits")["queued-allocs"]["Status"] == "blocked"
    nomad.ask("DELETE", f"/job/{jobs[1]}")
    nomad.until("yurt-waits", "run", "DesiredStatus")


def test_a_cordoned_node_takes_nothing_until_it_may_again(nomad: Nomad) -> None:
    running = nomad.start("yurt-stays", "node-2")
    path = f"/node/{nomad.node('node-2')['ID']}/eligibility"
    told = nomad.ask("POST", path, {"Eligibility": "ineligible"})
    assert told.status_code == 200
    assert told.json()["Index"] == int(told.headers["X-Nomad-Index"])
    node = nomad.node("node-2")
    assert (node["SchedulingEligibility"], node["Status"]) == ("ineligible", "ready")
    nomad.register(nomad.job("yurt-cordon", "node-2"))
    failed = nomad.blocked("yurt-cordon")
    assert (failed["NodesEvaluated"], failed["NodesInPool"]) == (1, 1)
    assert nomad.newest("yurt-stays")["ID"] == running["ID"]
    nomad.ask("POST", path, {"Eligibility": "eligible"})
    nomad.until("yurt-cordon", "run", "DesiredStatus")
    wrong = nomad.ask("POST", path, {"Eligibility": "maybe"})
    assert (wrong.status_code, wrong.text) == (500, 'invalid scheduling eligibility "maybe"')


# -- a node that is lost ---------------------------------------------------------------------


def test_a_lost_node_leaves_its_allocations_unknown_until_it_returns(nomad: Nomad) -> None:
    nomad.start("yurt-lost", "node-2")
    nomad.start("yurt-lost-stop", "node-2")
    nomad.one.lose_node("node-2")
    try:
        unknown = nomad.until("yurt-lost", "unknown")
        nomad.until("yurt-lost-stop", "unknown")
        assert unknown["DesiredStatus"] == "run"
        description = "alloc is unknown since its node is disconnected"
        assert unknown["ClientDescription"] == description
        assert unknown["TaskStates"]["runner"]["State"] == "running"
        assert nomad.node("node-2")["Status"] == "disconnected"
        assert nomad.get("/job/yurt-lost")["Status"] == "running"
        followup = nomad.get(f"/evaluation/{unknown['FollowupEvalID']}")
        assert (followup["Status"], followup["TriggeredBy"]) == (
            "pending",
            "max-disconnect-timeout",
        )
        assert nomad.port("yurt-lost")[0] == "127.0.0.1"
        nomad.register(nomad.job("yurt-lost-new", "node-2"))
        assert nomad.blocked("yurt-lost-new")["NodesEvaluated"] == 1
        nomad.ask("DELETE", "/job/yurt-lost-stop")
        stopped = nomad.until("yurt-lost-stop", "stop", "DesiredStatus")
        assert stopped["ClientStatus"] == "unknown"
    finally:
        nomad.one.return_node("node-2")
    again = nomad.until("yurt-lost", "running")
    assert (again["ID"], again["FollowupEvalID"]) == (unknown["ID"], "")
    values = [state["Value"] for state in nomad.get(f"/allocation/{again['ID']}")["AllocStates"]]
    assert values == ["unknown", "running"]
    nomad.until("yurt-lost-stop", "complete")
    nomad.until("yurt-lost-new", "running")
    assert nomad.node("node-2")["Status"] == "ready"
    assert nomad.get(f"/evaluation/{unknown['FollowupEvalID']}")["Status"] == "canceled"


def test_a_job_that_does_not_wait_for_its_node_is_lost(nomad: Nomad) -> None:
    nomad.start("yurt-no-wait", "node-2", disconnect=None)
    nomad.one.lose_node("node-2")
    try:
        lost = nomad.until("yurt-no-wait", "lost")
        assert lost["DesiredStatus"] == "stop"
        assert lost["DesiredDescription"] == "alloc is lost since its node is down"
        assert nomad.node("node-2")["Status"] == "down"
    finally:
        nomad.one.return_node("node-2")
    eventually(
        lambda: nomad.newest("yurt-no-wait")["ID"] != lost["ID"], "a replacement", seconds=20
    )
    eventually(lambda: nomad.node("node-2")["Status"] == "ready", "the node to be ready")
