"""How a runner begins and ends, whoever starts it: what it takes from its caller, what it says."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from jobs.installed import interpreter, link_runner
from jobs.runner import admission, locks
from jobs.runner.channel import connect_unix
from jobs.runner.contact import Contact
from jobs.runner.holder import Holder
from jobs.runner.record import FENCED_CODE
from tests.support.runner_rig import ASSIGNMENT, NEEDS, SUBNET, Rig, eventually

pytestmark = [pytest.mark.contract, *NEEDS]
A, B = "a" * 26, "b" * 26


def last_report(rig: Rig, sandbox_id: str = A) -> dict[str, Any]:
    """The report of the end, without what every report has."""
    rig.until(sandbox_id, "exit", seconds=20)
    (report,) = [r for r in rig.control.reports if r["phase"] == "exit"]
    return {name: report[name] for name in ("reason", "code", "reached")}


def children(pid: int) -> list[int]:
    return [int(x) for x in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def command_lines(guard: int) -> list[str]:
    holders = children(guard)  # the kernel may leave one out while others of its kind end
    found = [pid for holder in holders for pid in children(holder)]
    return [Path(f"/proc/{pid}/cmdline").read_text() for pid in found]


# -- what it takes from its caller -------------------------------------------------------------


def test_a_runner_makes_its_directory_itself(rig: Rig) -> None:
    process = rig.start(A)
    rig.until(A, "ready")
    rig.stop(A, process)
    rig.verb("remove-disk", data=str(rig.data), sandbox_id=A)
    assert not rig.directory(A).exists()
    (rig.data / "run" / "sandboxes").rmdir()
    job = json.dumps(rig.spec(A, 2))
    command = [*interpreter(), str(rig.main), "run", str(rig.directory(A)), job]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL) as started:
        rig.until(A, "ready", 2)
        written = json.loads((rig.directory(A) / "spec.json").read_text())
        assert (written["sandbox_id"], written["generation"]) == (A, 2)
        assert rig.directory(A).stat().st_mode & 0o777 == 0o700
        socket.create_connection(("127.0.0.1", rig.last_port)).close()
        started.terminate()
        assert started.wait(20) == 0


def test_a_runner_started_through_the_link_keeps_its_own_directory(rig: Rig) -> None:
    real = rig.main
    rig.main = link_runner(real)
    assert rig.main.is_relative_to(rig.data / "lib" / "runner")
    process = rig.start(A)
    rig.until(A, "ready")
    (rig.data / "lib" / "runner").unlink()  # an upgrade moves it on
    (holder,) = children(process.pid)
    (first,) = [pid for pid in children(holder) if pid != rig.init_pid(A)]
    os.kill(first, signal.SIGKILL)
    gate = f"{real}\0gate"
    eventually(lambda: [line for line in command_lines(process.pid) if gate in line])
    rig.main = real
    assert rig.stop(A, process)["reason"] == ""


def test_a_scheduler_that_dies_as_it_calls_costs_nothing(rig: Rig) -> None:
    process = rig.start(A)
    rig.until(A, "ready")
    (holder,) = children(process.pid)
    doorbell = str(rig.directory(A) / "sock")
    os.kill(holder, signal.SIGSTOP)
    connect_unix(doorbell).close()  # it is gone before anybody opens
    os.kill(holder, signal.SIGCONT)
    with socket.socket(fileno=connect_unix(doorbell).detach()) as link:
        link.settimeout(30)
        assert json.loads(link.recv(4096))["phase"] == "ready"
    assert rig.stop(A, process)["reason"] == ""


def test_a_host_brings_up_a_few_at_a_time_and_says_who_waits(rig: Rig) -> None:
    taken = list(iter(admission.admit, None))
    try:
        process = rig.start(A)
        rig.until(A, "waiting")
        assert rig.control.reports[-1]["message"] == "this host brings other sandboxes up first"
        ended = rig.start(B)
        rig.until(B, "waiting")
        ended.terminate()
        assert ended.wait(10) == 0
        assert "ready" not in rig.control.phases(A)
    finally:
        for place in taken:
            os.close(place)
    rig.until(A, "ready")
    assert len(taken) == admission.places()
    again = list(iter(admission.admit, None))  # who is up has given its place back
    for place in again:
        os.close(place)
    assert len(again) == len(taken)
    assert rig.stop(A, process)["reason"] == ""


def test_nothing_of_its_caller_s_reaches_the_sandbox(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("NOMAD_ALLOC_DIR", "/alloc")
    monkeypatch.setenv("SECRET_OF_THE_CALLER", "x")
    left_open = os.open(tmp_path, os.O_RDONLY)
    process = rig.start(A, pass_fds=(left_open,))
    rig.until(A, "ready")
    inside = rig.inside(A, "cat /proc/*/environ /proc/self/mountinfo").stdout
    assert "PATH=" in inside
    assert "NOMAD" not in inside
    assert "SECRET" not in inside
    (holder,) = children(process.pid)
    for pid in (process.pid, holder, *rig.pids(A)):
        files = [path.readlink() for path in Path(f"/proc/{pid}/fd").iterdir()]
        assert tmp_path not in files
        assert not str(Path(f"/proc/{pid}/cwd").readlink()).startswith(str(Path.cwd()))
    os.close(left_open)
    rig.stop(A, process)


def test_the_gate_is_not_told_what_is_the_agent_s() -> None:
    told: list[bytes] = []
    holder = SimpleNamespace(
        _assignment={**ASSIGNMENT, "env": {"PASSWORD": "x"}, "user": "daytona"},
        _secret="s",
        phase="ready",
        _contact=Contact(0),
        _gate=SimpleNamespace(send=told.append),
    )
    Holder._tell_gate(holder)  # type: ignore[arg-type]
    order = json.loads(told[0][1:])
    assert order["assignment"]["preview_token"] == ASSIGNMENT["preview_token"]
    assert not {"env", "user", "workdir", "entrypoint"} & set(order["assignment"])
    assert b"PASSWORD" not in told[0]


# -- how it ends -------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_in_order(rig: Rig, number: int) -> None:
    process = rig.start(A)
    rig.until(A, "ready")
    rig.inside(A, "echo kept > /etc/kept")
    process.send_signal(number)
    assert process.wait(20) == 0
    assert last_report(rig) == {"reason": "", "code": 0, "reached": "stopping"}
    assert rig.exit_of(A)["phase"] == "stopping"
    assert not rig.loops()
    image = rig.data / "disks" / A / "disk.img"
    state = subprocess.run(["dumpe2fs", "-h", image], capture_output=True, text=True, check=True)
    assert "needs_recovery" not in state.stdout  # it was unmounted


def test_a_signal_is_heard_from_the_first_moment(rig: Rig) -> None:
    process = rig.start(A)
    eventually((rig.directory(A) / "spec.json").exists)
    process.terminate()
    assert process.wait(20) == 0
    assert rig.exit_of(A)["reason"] == ""
    assert not rig.loops()
    assert not rig.pids(A)


def test_a_signal_ends_the_wait_for_a_busy_disk(rig: Rig) -> None:
    lock = rig.data / "disks" / A / "disk.lock"
    lock.parent.mkdir()
    with lock.open("w") as held:
        assert locks.try_lock(held.fileno())
        process = rig.start(A)
        rig.until(A, "assign")
        process.terminate()
        assert process.wait(10) == 0
    assert last_report(rig) == {"reason": "", "code": 0, "reached": "assign"}


def test_a_scheduler_is_answered_while_the_disk_is_busy(rig: Rig) -> None:
    lock = rig.data / "disks" / A / "disk.lock"
    lock.parent.mkdir()
    with lock.open("w") as held:
        assert locks.try_lock(held.fileno())
        process = rig.start(A)
        rig.until(A, "assign")
        assert rig.stop(A, process)["reason"] == ""


def put_damaged_disk(rig: Rig) -> None:
    image = rig.data / "disks" / A / "disk.img"
    image.parent.mkdir()
    image.write_bytes(b"x" * (1 << 20))


FAILURES = [
    pytest.param(
        lambda rig: None, {"image_id": "missing"}, "no registry is configured", id="image"
    ),
    pytest.param(put_damaged_disk, {}, "the disk is damaged", id="disk"),
    pytest.param(
        lambda rig: rig.configure(subnet="192.168.77.0/32"), {}, "has no room", id="subnet"
    ),
    pytest.param(
        lambda rig: rig.configure(bundle="/missing"), {}, "No such file", id="agent bundle"
    ),
]


@pytest.mark.parametrize(("spoil", "job", "said"), FAILURES)
def test_a_failed_start_is_reported(rig: Rig, spoil: Any, job: dict[str, Any], said: str) -> None:
    spoil(rig)
    process = rig.start(A, **job)
    assert process.wait(30) == 1
    report = last_report(rig)
    assert said in report.pop("reason")
    assert report == {"code": 1, "reached": "assign"}
    assert rig.control.phases(A)[0] == "assign"  # so that control knows whose word it is
    ended = rig.exit_of(A)
    assert said in ended["reason"]
    assert (ended["code"], ended["phase"]) == (1, "assign")
    assert not rig.loops()
    assert not rig.pids(A)
    assert not rig.links()


def test_a_taken_port_is_reported(rig: Rig) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        process = rig.start(A, port=port)
        assert process.wait(20) == 1
    assert last_report(rig)["reason"] == (
        f"the gate cannot listen on 127.0.0.1:{port}: Address already in use"
    )
    assert rig.exit_of(A)["code"] == 1


@pytest.mark.parametrize("was_there", [False, True], ids=["new disk", "old disk"])
def test_a_start_that_another_runner_has_leaves_no_disk_of_its_own(
    rig: Rig, was_there: bool
) -> None:
    if was_there:
        process = rig.start(A)
        rig.until(A, "ready")
        rig.stop(A, process)
    disk = rig.data / "disks" / A / "disk.img"
    rig.control.refusal = "409 Conflict"
    rig.control.release.clear()
    try:
        process = rig.start(A, generation=2)
        eventually(disk.exists)
        rig.control.release.set()
        assert process.wait(20) == FENCED_CODE
    finally:
        rig.control.refusal = ""
        rig.control.release.set()
    assert disk.exists() == was_there


def test_the_end_waits_for_control_only_so_long(rig: Rig) -> None:
    rig.control.release.clear()  # its first report is not answered
    process = rig.start(A, image_id="missing")
    try:
        assert process.wait(10) == 1
        assert "registry" in rig.exit_of(A)["reason"]
    finally:
        rig.control.release.set()


def test_a_node_without_configuration_says_so_where_it_can(rig: Rig) -> None:
    (rig.data / "node.json").unlink()
    process = rig.start(A)
    assert process.wait(20) == 1
    assert "node.json" in rig.exit_of(A)["reason"]
    rig.configure(subnet=SUBNET)


# -- work on the node --------------------------------------------------------------------------


def test_an_inventory_names_the_runners_that_live(rig: Rig) -> None:
    process = rig.start(A)
    rig.until(A, "ready")
    rig.directory(B).mkdir()
    (rig.directory(B) / "lock").touch()
    assert rig.verb("inventory", data=str(rig.data))["running"] == [A]
    rig.stop(A, process)
    assert rig.verb("inventory", data=str(rig.data))["running"] == []


def test_a_disk_goes_with_the_run_directory_unless_a_runner_has_it(rig: Rig) -> None:
    for sandbox_id in (A, B):
        rig.directory(sandbox_id).mkdir()
    with (rig.directory(A) / "lock").open("w") as held:
        assert locks.try_lock(held.fileno())
        for sandbox_id in (A, B, A):
            rig.verb("remove-disk", data=str(rig.data), sandbox_id=sandbox_id)
        assert [path.name for path in rig.directory(A).parent.iterdir()] == [A]


def test_a_result_goes_into_a_file_that_appears_whole(rig: Rig, tmp_path: Path) -> None:
    result = tmp_path / "result.json"
    for arguments, code in (({"data": str(rig.data)}, 0), ({"data": "/missing"}, 1)):
        done = subprocess.run(
            [*interpreter(), rig.main, "inventory", json.dumps(arguments), "--result", result],
            capture_output=True,
            check=False,
        )
        assert done.returncode == code
        assert result.read_bytes() == done.stdout
        assert ("error" in json.loads(done.stdout)) == bool(code)
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["result.json"]
