"""What goes wrong with the Nomad double when a test wants it to, and what its tasks do."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests.support.nomad_rig import (
    WAIT,
    Nomad,
    a_double,
    events,
    index_of,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.nomad_double import NomadDouble, Task

Json = dict[str, Any]

pytestmark = pytest.mark.contract


@pytest.fixture
def double() -> Iterator[NomadDouble]:
    with a_double() as double:
        yield double


@pytest.fixture
def alone(double: NomadDouble) -> Iterator[Nomad]:
    with Nomad(double) as nomad:
        yield nomad


def test_a_task_is_what_a_test_makes_of_it(double: NomadDouble, alone: Nomad) -> None:
    seen: list[Task] = []
    double.on_start(seen.append)
    allocation = alone.start("yurt-played")
    (task,) = seen
    assert (task.allocation_id, task.job_id) == (allocation["ID"], "yurt-played")
    assert (task.node, task.meta["generation"]) == ("node-1", "1")
    assert (task.address, task.ports["gate"]) == alone.port("yurt-played")
    with pytest.raises(LookupError):
        double.finish("yurt-none")


def test_a_task_that_does_not_end_is_killed_in_time(double: NomadDouble, alone: Nomad) -> None:
    double.on_stop(lambda _: None)
    alone.start("yurt-stubborn")
    alone.ask("DELETE", "/job/yurt-stubborn")
    begin = time.monotonic()
    ended = alone.until("yurt-stubborn", "complete")
    assert time.monotonic() - begin > 1.8
    terminated = ended["TaskStates"]["runner"]["Events"][-2]
    assert (terminated["ExitCode"], terminated["Signal"]) == (137, 9)


def test_a_purged_task_runs_on_beside_the_next_one_on_its_port(
    double: NomadDouble, alone: Nomad
) -> None:
    double.on_stop(lambda _: None)
    alone.start("yurt-old")
    freed = alone.port("yurt-old")
    alone.ask("DELETE", "/job/yurt-old?purge=true")
    alone.start("yurt-young")
    assert alone.port("yurt-young") == freed
    (old,) = double.tasks("yurt-old")
    assert old.is_running
    assert alone.get("/allocations?resources=true")[0]["JobID"] == "yurt-young"


def test_nothing_is_placed_while_no_worker_is_there(double: NomadDouble, alone: Nomad) -> None:
    double.faults.never_places = True
    told = alone.register(alone.job("yurt-a")).json()
    time_of_no_change = alone.ask("GET", "/job/yurt-a?index=0")
    index = time_of_no_change.headers["X-Nomad-Index"]
    assert alone.ask("GET", f"/job/yurt-a?index={index}&wait=300ms").json()["Status"] == "pending"
    assert alone.get(f"/evaluation/{told['EvalID']}")["Status"] == "pending"
    double.faults.clear()
    alone.until("yurt-a", "running")


@pytest.mark.parametrize(
    ("fault", "status", "told"),
    [
        ({"status": 500, "text": "rpc error: EOF"}, 500, "rpc error: EOF"),
        ({"status": 429}, 429, "too many concurrent connections"),
        ({"no_leader": True}, 500, "No cluster leader"),
    ],
)
def test_an_error_is_answered_as_long_as_it_is_wanted(
    double: NomadDouble, alone: Nomad, fault: Json, status: int, told: str
) -> None:
    for name, value in fault.items():
        setattr(double.faults, name, value)
    answer = alone.ask("GET", "/jobs")
    assert (answer.status_code, told in answer.text) == (status, True)
    double.faults.clear()
    assert alone.get("/jobs") == []


def test_a_fault_concerns_only_what_it_names_and_is_counted(
    double: NomadDouble, alone: Nomad
) -> None:
    double.faults.status, double.faults.path, double.faults.times = 500, "/v1/jobs", 2
    assert alone.ask("GET", "/nodes").status_code == 200
    statuses = [alone.ask("GET", "/jobs").status_code for _ in range(3)]
    assert statuses == [500, 500, 200]


def test_a_stale_answer_says_that_no_leader_is_known(double: NomadDouble, alone: Nomad) -> None:
    double.faults.no_leader = True
    answer = alone.ask("GET", "/jobs?stale=true")
    assert (answer.status_code, answer.headers["X-Nomad-KnownLeader"]) == (200, "false")
    assert int(answer.headers["X-Nomad-LastContact"]) > 5000


def test_a_lost_answer_is_of_a_request_that_was_done(double: NomadDouble, alone: Nomad) -> None:
    double.faults.loses_answers, double.faults.method, double.faults.times = True, "PUT", 1
    with pytest.raises(httpx.RemoteProtocolError):
        alone.register(alone.job("yurt-a"))
    assert alone.get("/job/yurt-a")["ID"] == "yurt-a"
    assert alone.register(alone.job("yurt-a")).status_code == 500


def test_a_cut_list_cannot_be_taken_for_a_whole_one(double: NomadDouble, alone: Nomad) -> None:
    for job_id in ("yurt-a", "yurt-b"):
        alone.start(job_id)
    double.faults.cuts_lists = True
    with pytest.raises(httpx.RemoteProtocolError):
        alone.ask("GET", "/allocations?resources=true")
    first = alone.ask("GET", "/jobs?per_page=1")
    token = first.headers["X-Nomad-NextToken"]
    assert alone.ask("GET", f"/jobs?per_page=1&next_token={token}").status_code == 500


def test_a_slow_answer_comes_after_the_patience_of_its_caller(double: NomadDouble) -> None:
    double.faults.slow_seconds = 5
    with pytest.raises(httpx.ReadTimeout):
        httpx.get(f"{double.url}/v1/jobs", timeout=0.2)


def test_a_driver_that_fails_leaves_no_running_task(double: NomadDouble, alone: Nomad) -> None:
    double.faults.driver_error = "failed to launch command with executor"
    alone.register(alone.job("yurt-a"))
    state = alone.until("yurt-a", "failed")["TaskStates"]["runner"]
    assert state["StartedAt"] is None
    assert state["Events"][-2]["DriverError"] == "failed to launch command with executor"


def test_a_stream_is_cut_and_loses_events(double: NomadDouble, alone: Nomad) -> None:
    double.faults.loses_events = True
    with events(alone, "topic=Job") as stream:
        assert next(stream) == {}
        alone.start("yurt-a")
        double.faults.loses_events = False
        double.faults.cut_event_streams()
        alone.register(alone.job("yurt-b"))
        assert list(stream) == []


def test_a_stream_beats_while_nothing_happens() -> None:
    with (
        a_double(heartbeat_seconds=0.05) as double,
        Nomad(double) as nomad,
        events(nomad, "topic=Job") as stream,
    ):
        assert [next(stream) for _ in range(3)] == [{}, {}, {}]


def test_a_stream_begins_later_than_asked_when_the_buffer_is_short() -> None:
    with a_double(event_buffer=3) as double, Nomad(double) as nomad:
        asked = index_of(nomad, "/nodes")
        nomad.start("yurt-a")
        nomad.start("yurt-b")
        with events(nomad, f"topic=*&index={asked}") as stream:
            assert next(stream) == {}
            assert next(stream)["Index"] > asked + 2


def test_what_is_unknown_for_too_long_is_lost(double: NomadDouble, alone: Nomad) -> None:
    short = WAIT | {"LostAfter": 200_000_000}
    alone.start("yurt-a", disconnect=short)
    double.lose_node("node-1")
    assert alone.newest("yurt-a")["ClientStatus"] == "unknown"
    alone.until("yurt-a", "lost")
    assert alone.node("node-1")["Status"] == "down"
    (task,) = double.tasks("yurt-a")
    assert task.is_running


def test_nodes_of_another_pool_are_out_of_reach(double: NomadDouble, alone: Nomad) -> None:
    double.add_node("node-3", pool="sandbox")
    alone.register(alone.job("yurt-a", "node-3"))
    assert alone.blocked("yurt-a")["NodesInPool"] == 2
    alone.register(alone.job("yurt-b", "node-3") | {"NodePool": "sandbox"})
    alone.until("yurt-b", "running")
