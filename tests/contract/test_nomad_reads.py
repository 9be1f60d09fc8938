"""The same reads of the Nomad double and of a real Nomad: lists, waiting, events, files, tokens."""

from __future__ import annotations

import shutil
import threading
import time
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests.support.nomad_agent import NomadAgents
from tests.support.nomad_rig import (
    KINDS,
    MEMORY_MIB,
    MISSING,
    Nomad,
    a_double,
    events,
    index_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


Json = dict[str, Any]


@pytest.mark.parametrize(
    ("method", "path", "status", "told"),
    [
        ("GET", "/job/yurt-none", 404, "job not found"),
        ("GET", "/job/yurt-none/allocations", 200, "[]"),
        ("GET", "/job/yurt-none/evaluations", 200, "[]"),
        ("GET", f"/allocation/{MISSING}", 404, "alloc not found"),
        ("GET", f"/evaluation/{MISSING}", 404, "eval not found"),
        ("GET", f"/node/{MISSING}", 404, "node not found"),
        ("GET", "/allocation/c0014433", 500, "UUID must be 36 characters"),
        ("GET", "/node/c0014433", 500, "UUID must be 36 characters"),
        ("GET", "/allocations?prefix=yurt", 500, "invalid byte: U+0079 'y'"),
        ("GET", "/nodes?prefix=abc", 500, "Input (without hyphens) must be even length"),
        ("GET", "/allocations?filter=Foo==1", 400, 'struct field with name "Foo"'),
        ("GET", "/jobs?region=mars", 500, "No path to region"),
        ("GET", "/jobs?index=x", 400, "Invalid index"),
        ("GET", "/jobs?index=1&wait=5", 400, "Invalid wait time"),
        ("GET", "/jobs?prefix=yurt-none", 200, "[]"),
        ("DELETE", "/jobs", 405, "Invalid method"),
        ("GET", "/nonsense", 404, ""),
        ("GET", f"/client/fs/cat/{MISSING}?path=a", 200, f'Unknown allocation "{MISSING}"'),
    ],
)
def test_an_answer_has_its_status_and_its_words(
    nomad: Nomad, method: str, path: str, status: int, told: str
) -> None:
    nomad.start("yurt-some")
    answer = nomad.ask(method, path)
    assert answer.status_code == status
    assert answer.text.endswith(told)


@pytest.mark.parametrize(
    ("change", "status", "told"),
    [
        pytest.param({"ID": None}, 400, "Job ID hasn't been provided", id="no id"),
        pytest.param({"ID": ""}, 500, "Missing job ID", id="an empty id"),
        pytest.param({"NodePool": "x"}, 500, 'is in nonexistent node pool "x"', id="pool"),
        pytest.param({"Namespace": "x"}, 500, 'is in nonexistent namespace "x"', id="namespace"),
        pytest.param({"TaskGroups": []}, 500, "Missing job task groups", id="no group"),
    ],
)
def test_a_wrong_job_is_refused(nomad: Nomad, change: Json, status: int, told: str) -> None:
    answer = nomad.register(nomad.job("yurt-wrong") | change)
    assert (answer.status_code, told in answer.text) == (status, True), answer.text


@pytest.mark.parametrize(
    ("memory", "logs", "told"),
    [(5, 1, "minimum MemoryMB value is 10; got 5"), (10, 10, "log storage (10 MB) must be less")],
)
def test_a_task_needs_memory_and_room_for_logs(
    nomad: Nomad, memory: int, logs: int, told: str
) -> None:
    job = nomad.job("yurt-wrong", memory=memory)
    job["TaskGroups"][0]["Tasks"][0]["LogConfig"]["MaxFiles"] = logs
    answer = nomad.register(job)
    assert (answer.status_code, told in answer.text) == (500, True), answer.text


def test_lists_take_what_is_asked_for(nomad: Nomad) -> None:
    for job_id in ("yurt-list-a", "yurt-list-b"):
        nomad.start(job_id)
    listed = nomad.ask("GET", "/jobs?prefix=yurt-list-&meta=true")
    assert listed.headers["X-Nomad-KnownLeader"] == "true"
    assert listed.headers["X-Nomad-LastContact"] == "0"
    assert [job["ID"] for job in listed.json()] == ["yurt-list-a", "yurt-list-b"]
    assert listed.json()[0]["Meta"] == {"yurt": "sandbox", "generation": "1"}
    counts = listed.json()[0]["JobSummary"]["Summary"]["sandbox"]
    assert {key for key, value in counts.items() if value} == {"Running"}
    assert "Meta" not in nomad.get("/jobs?prefix=yurt-list-a")[0]
    filtered = nomad.get('/allocations?filter=JobID == "yurt-list-a"&task_states=false')
    assert [(a["JobID"], a["TaskStates"]) for a in filtered] == [("yurt-list-a", None)]
    assert "AllocatedResources" not in filtered[0]
    both = nomad.get('/allocations?filter=JobID contains "yurt-list" and ClientStatus != "lost"')
    assert len(both) == 2
    assert len(nomad.get(f"/allocations?prefix={both[0]['ID'][:8]}")) == 1
    page = nomad.ask("GET", "/jobs?prefix=yurt-list&per_page=1")
    assert len(page.json()) == 1
    rest = nomad.ask(
        "GET", f"/jobs?prefix=yurt-list&per_page=1&next_token={page.headers['X-Nomad-NextToken']}"
    )
    assert [job["ID"] for job in rest.json()] == ["yurt-list-b"]
    assert "X-Nomad-NextToken" not in rest.headers


def test_a_node_tells_what_it_has(nomad: Nomad) -> None:
    stub = nomad.node("node-1")
    node = nomad.get(f"/node/{stub['ID']}")
    for one in (stub, node):
        assert (one["Name"], one["NodePool"]) == ("node-1", "default")
        assert one["NodeClass"] == "class-node-1"
        assert (one["Status"], one["SchedulingEligibility"]) == ("ready", "eligible")
        assert one["NodeResources"]["Memory"]["MemoryMB"] == MEMORY_MIB
        assert one["ReservedResources"]["Memory"]["MemoryMB"] == 0
        assert one["HostVolumes"]["yurt"]["Name"] == "yurt"
        assert one["Drivers"]["raw_exec"]["Healthy"]
        assert one["Drain"] is False
    assert (stub["Version"], stub["Address"]) == ("2.0.5", "127.0.0.1")
    assert node["Attributes"]["nomad.version"] == "2.0.5"
    assert node["Meta"]["yurt_data"] == "/data"
    assert nomad.get('/nodes?filter=Name == "node-2"')[0]["Name"] == "node-2"
    assert nomad.get("/status/leader").startswith("127.0.0.1:")
    own = nomad.get("/agent/self")
    assert (own["config"]["Region"], own["config"]["Version"]["Version"]) == ("global", "2.0.5")


def wait_for_change(nomad: Nomad, path: str, change: Callable[[], object]) -> float:
    """Make a change while a query waits, and tell how long it waited after all."""
    separator = "&" if "?" in path else "?"
    query = f"{path}{separator}wait=2s&index={index_of(nomad, path)}"
    timer = threading.Timer(0.3, change)
    timer.start()
    begin = time.monotonic()
    nomad.get(query)
    waited = time.monotonic() - begin
    timer.join()
    return waited


@pytest.mark.parametrize(
    ("path", "is_woken"),
    [
        ("/jobs?prefix=yurt-other", True),
        ("/allocations?prefix=ab", True),
        ("/job/yurt-watched/allocations", None),
        ("/job/yurt-watched/evaluations", False),
        ("/job/yurt-watched", False),
        ("/nodes", True),
    ],
)
def test_a_list_wakes_for_any_change_and_a_job_for_its_own(
    nomad: Nomad, path: str, is_woken: bool | None
) -> None:
    nomad.start("yurt-watched")
    waited = wait_for_change(nomad, path, lambda: nomad.register(nomad.job("yurt-new")))
    # Nomad itself may or may not wake for another job's allocation: None.
    assert is_woken is None or (waited < 1.8) is is_woken
    if "yurt-watched" in path:
        stop = wait_for_change(nomad, path, lambda: nomad.ask("DELETE", "/job/yurt-watched"))
        assert stop < 1.8


def test_a_query_without_a_change_ends_with_the_same_index(nomad: Nomad) -> None:
    nomad.start("yurt-still")
    index = index_of(nomad, "/job/yurt-still")
    begin = time.monotonic()
    answer = nomad.ask("GET", f"/job/yurt-still?index={index}&wait=500ms")
    assert time.monotonic() - begin >= 0.5
    assert answer.headers["X-Nomad-Index"] == str(index)
    far = nomad.ask("GET", f"/job/yurt-still?index={index + 100_000}&wait=100ms")
    assert far.headers["X-Nomad-Index"] == str(index)


def test_a_file_of_a_task_can_be_read(nomad: Nomad) -> None:
    allocation = nomad.start("yurt-file")
    path = f"/client/fs/cat/{allocation['ID']}"
    missing = nomad.ask("GET", f"{path}?path=alloc/result.json")
    # A trap that Nomad sets: the reason stands where the file would, and the status is good.
    assert missing.status_code == 200
    assert missing.text.endswith("/alloc/result.json: no such file or directory")
    content = '{"disks": {}}'
    if isinstance(nomad.one, NomadAgents):
        nomad.one.finish_with_file("yurt-file", "result.json", content)
    else:
        (task,) = nomad.one.tasks("yurt-file")
        task.files["alloc/result.json"] = content.encode()
        task.finish()
    nomad.until("yurt-file", "complete")
    assert nomad.ask("GET", f"{path}?path=alloc/result.json").text == content
    assert nomad.ask("GET", path).text == "must provide a file name"


def test_events_tell_a_job_from_its_begin_to_its_end(nomad: Nomad) -> None:
    index = index_of(nomad, "/jobs")
    allocation = nomad.start("yurt-events")
    nomad.ask("DELETE", "/job/yurt-events")
    nomad.until("yurt-events", "complete")
    told: list[tuple[str, str, str]] = []
    keys = set()
    query = f"topic=Allocation:yurt-events&topic=Job:yurt-events&index={index + 1}"
    with events(nomad, query) as stream:
        assert next(stream) == {}
        for entry in stream:
            assert entry["Index"] > index
            for event in entry["Events"]:
                assert event["Index"] == entry["Index"]
                what = event["Payload"][event["Topic"]]
                status = what.get("ClientStatus") or what["Status"]
                told.append((event["Topic"], event["Type"], status))
                if event["Topic"] == "Allocation":
                    assert "Job" not in what
                    assert event["FilterKeys"] == ["yurt-events", ""]
                    keys.add(event["Key"])
            if told[-1] == ("Allocation", "AllocationUpdated", "complete"):
                break
    assert keys == {allocation["ID"]}
    jobs = [event for event in dict.fromkeys(told) if event[0] == "Job"]
    assert jobs[:2] == [("Job", "JobRegistered", "pending"), ("Job", "PlanResult", "running")]
    assert [status for topic, kind, status in told if kind == "JobDeregistered"] == ["running"]
    # A client may send "pending" once more, and Nomad sends each entry once.
    assert list(dict.fromkeys(event for event in told if event[0] == "Allocation")) in (
        [
            ("Allocation", "PlanResult", "pending"),
            *([("Allocation", "AllocationUpdated", "pending")] * more),
            ("Allocation", "AllocationUpdated", "running"),
            ("Allocation", "PlanResult", "running"),
            ("Allocation", "AllocationUpdated", "complete"),
        ]
        for more in (0, 1)
    )


def test_a_purge_is_told_as_a_deletion(nomad: Nomad) -> None:
    index = index_of(nomad, "/jobs")
    nomad.start("yurt-purged")
    nomad.ask("DELETE", "/job/yurt-purged?purge=true")
    with events(nomad, f"topic=Job:yurt-purged&index={index + 1}") as stream:
        for entry in stream:
            last = entry.get("Events", [{}])[-1]
            if last.get("Type") == "JobDeregistered":
                break
        else:
            raise AssertionError("the stream has ended")
    assert last["Payload"]["Deleted"] is True


def test_a_stream_from_the_future_begins_with_the_newest_entry(nomad: Nomad) -> None:
    nomad.start("yurt-future")
    index = max(index_of(nomad, path) for path in ("/jobs", "/allocations", "/nodes"))
    nomad.ask("DELETE", "/job/yurt-future")
    with events(nomad, f"topic=*&index={index + 100_000}") as stream:
        assert next(stream) == {}
        assert next(stream)["Index"] <= index + 100_000


@pytest.fixture(params=KINDS)
def closed(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Nomad]:
    """A Nomad that asks for a token; nobody in these tests has one."""
    if request.param == "double":
        token = "e0014433-b0dd-9da2-444f-aa38c7c82200"
        with a_double(token=token) as double, Nomad(double) as nomad:
            yield nomad
        return
    program = shutil.which("nomad") or ""
    directory = tmp_path_factory.mktemp("acl")
    with NomadAgents(directory, program, acl=True) as agents, Nomad(agents) as nomad:
        yield nomad


def test_without_a_token_nothing_is_told(closed: Nomad) -> None:
    job = closed.job("yurt-a")
    refused = [
        closed.ask("GET", path)
        for path in ("/jobs", "/nodes", "/allocations", "/job/x", "/job/x/allocations")
    ]
    refused += [closed.ask("GET", "/agent/self"), closed.ask("GET", f"/node/{MISSING}")]
    refused += [closed.register(job), closed.ask("DELETE", "/job/x")]
    closed.http.headers["X-Nomad-Token"] = MISSING
    refused.append(closed.ask("GET", "/jobs"))
    assert {(a.status_code, a.text) for a in refused} == {(403, "Permission denied")}
    assert closed.ask("GET", "/status/leader").status_code == 200


def test_without_a_token_a_stream_is_open_and_mute(closed: Nomad) -> None:
    query = "/event/stream?topic=Allocation"
    timeout = httpx.Timeout(10, read=2)
    with closed.http.stream("GET", query, timeout=timeout) as answer:
        assert answer.status_code == 200
        with pytest.raises(httpx.ReadTimeout):
            next(answer.iter_bytes())
