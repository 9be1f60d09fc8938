"""Whatever is killed, only what went through it notices, and nothing of the user's is lost."""

from __future__ import annotations

import contextlib
import subprocess
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.chaos.workers import Worker
from tests.support.api import Api
from tests.support.instance import Instance
from tests.support.processes import Process, holder_of_lock, listener_on
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.api import Sandbox

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(900)]

SANDBOXES = 10
NEW_REQUEST_SECONDS = 5
STOPPED_SECONDS = 10
DIRTY_BYTES = 1 << 30


@pytest.fixture(scope="module")
def instance() -> Iterator[Instance]:
    """A server of its own; that nothing is left of it after the purge is part of the test."""
    with Instance.temporary() as made:
        made.up()
        yield made


@pytest.fixture(scope="module")
def chaos_api(instance: Instance) -> Iterator[Api]:
    client = Api(instance)
    yield client
    client.close()


@pytest.fixture
def workers(chaos_api: Api) -> Iterator[list[Worker]]:
    """Ten sandboxes at work."""
    with contextlib.ExitStack() as stack:
        made = []
        for _ in range(SANDBOXES):
            worker = Worker(stack.enter_context(chaos_api.sandbox()))
            stack.callback(worker.close)
            worker.begin()
            made.append(worker)
        yield made


def control_of(instance: Instance) -> Process:
    return listener_on(int((instance.data / "run" / "control.port").read_text()))


def supervisor_of(instance: Instance) -> Process:
    return holder_of_lock(instance.data / "run" / "up.lock")


def traefik_of(instance: Instance) -> Process:
    return listener_on(instance.port)


def runner_of(instance: Instance, sandbox: Sandbox) -> Process:
    return holder_of_lock(instance.data / "run" / "sandboxes" / sandbox.id / "lock")


def expect_api(api: Api) -> None:
    """New requests succeed within five seconds."""
    eventually(api.answers, "the API to answer again", seconds=NEW_REQUEST_SECONDS)


def test_without_control_everything_goes_on_and_control_comes_back(
    instance: Instance, chaos_api: Api, workers: list[Worker]
) -> None:
    control = control_of(instance)
    control.kill()
    eventually(lambda: not control.lives(), "control to die")
    for worker in workers:
        worker.expect_open_terminal()
        worker.expect_progress()
    expect_api(chaos_api)
    assert all(worker.sandbox.record()["state"] == "started" for worker in workers)
    workers[0].sandbox.stop()
    workers[0].sandbox.start()


def test_a_killed_traefik_costs_one_connection_error(
    instance: Instance, chaos_api: Api, workers: list[Worker]
) -> None:
    traefik = traefik_of(instance)
    traefik.kill()
    eventually(lambda: not traefik.lives(), "Traefik to die")
    for worker in workers:
        eventually(worker.answers, "the toolbox", seconds=NEW_REQUEST_SECONDS)
    expect_api(chaos_api)
    for worker in workers:
        worker.expect_one_error()
        worker.expect_progress()
        worker.reconnect()
        worker.expect_ticks()


def test_a_killed_runner_stops_its_sandbox_and_no_other(
    instance: Instance, workers: list[Worker]
) -> None:
    victim, *others = workers
    reached = victim.count()
    victim.sandbox.check("sync")
    runner_of(instance, victim.sandbox).kill()
    record = victim.sandbox.wait_for("stopped", STOPPED_SECONDS)
    assert "killed" in record["errorReason"]
    for worker in others:
        worker.expect_open_terminal()
        worker.expect_progress()
    victim.sandbox.start()
    assert int(victim.sandbox.download("/tmp/command")) >= reached
    assert not victim.sandbox.record().get("errorReason")


def test_everything_but_the_runners_may_die_and_finds_them_again(
    instance: Instance, chaos_api: Api, workers: list[Worker]
) -> None:
    control, traefik = control_of(instance), traefik_of(instance)
    for process in (supervisor_of(instance), control, traefik):
        process.kill()
    counts = [holder_of_lock(_lock(instance, worker)) for worker in workers]
    instance.up()
    expect_api(chaos_api)
    assert [holder_of_lock(_lock(instance, worker)) for worker in workers] == counts
    for worker in workers:
        assert worker.sandbox.record()["state"] == "started"
        worker.expect_progress()


def _lock(instance: Instance, worker: Worker) -> Path:
    return instance.data / "run" / "sandboxes" / worker.sandbox.id / "lock"


def test_after_the_death_of_everything_at_once_all_disks_are_there(
    instance: Instance, chaos_api: Api, workers: list[Worker]
) -> None:
    for number, worker in enumerate(workers):
        worker.sandbox.check(f"echo kept-{number} > /home/daytona/kept; sync")
    control, traefik = control_of(instance), traefik_of(instance)
    runners = [runner_of(instance, worker.sandbox) for worker in workers]
    everything = [supervisor_of(instance), control, traefik, *runners]
    for process in everything:
        process.kill()
    eventually(lambda: not any(process.lives() for process in everything), "all to die")
    instance.up()
    expect_api(chaos_api)
    for number, worker in enumerate(workers):
        record = worker.sandbox.wait_for("stopped", STOPPED_SECONDS)
        assert record["errorReason"]
        worker.sandbox.start()
        assert worker.sandbox.check("cat /home/daytona/kept").strip() == f"kept-{number}"


def test_a_disk_is_never_attached_twice_however_dirty_it_was(
    instance: Instance, chaos_api: Api
) -> None:
    with chaos_api.sandbox() as sandbox:
        disk = instance.data / "disks" / sandbox.id / "disk.img"
        sandbox.check("echo before > /home/daytona/kept; sync")
        with DoubleAttachment(disk) as watched:
            assert watched.seen == 1
            soil(sandbox)
            runner = runner_of(instance, sandbox)
            runner.kill()
            start_at_once(instance, sandbox, runner)
            assert sandbox.check("cat /home/daytona/kept").strip() == "before"
        assert watched.doubles == []
        sandbox.stop()
        checked = subprocess.run(
            ["e2fsck", "-fn", disk], capture_output=True, text=True, check=False
        )
        assert checked.returncode == 0, checked.stdout


def soil(sandbox: Sandbox) -> None:
    """Write until at least a gibibyte waits to be written to the host's disk."""
    before = dirty_bytes()
    sandbox.background("dd if=/dev/zero of=/home/daytona/dirt bs=1M count=6000")
    eventually(
        lambda: dirty_bytes() - before >= DIRTY_BYTES,
        "a gibibyte of unwritten data",
        seconds=60,
        pause_seconds=0.005,
    )


def dirty_bytes() -> int:
    lines = Path("/proc/meminfo").read_text().splitlines()
    return sum(
        int(line.split()[1]) << 10 for line in lines if line.startswith(("Dirty:", "Writeb"))
    )


def start_at_once(instance: Instance, sandbox: Sandbox, killed: Process) -> None:
    """Ask for a start from the moment of death on, until another runner has the sandbox."""

    def taken() -> bool:
        # Until the death is noticed, a start is answered with the state that was.
        sandbox.act("start")
        with contextlib.suppress(LookupError):
            return runner_of(instance, sandbox) != killed
        return False

    eventually(taken, "another runner", seconds=70, pause_seconds=0.005)
    sandbox.wait_for("started", 70)


class DoubleAttachment:
    """Looks all the time whether two loop devices have one file behind them."""

    def __init__(self, disk: Path) -> None:
        self._disk = str(disk)
        self._stop = threading.Event()
        self._watcher = threading.Thread(target=self._watch)
        self.doubles: list[list[str]] = []
        self.seen = 0

    def __enter__(self) -> DoubleAttachment:
        self._watcher.start()
        eventually(lambda: self.seen, "the first look")
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._watcher.join()

    def _watch(self) -> None:
        while not self._stop.is_set():
            attached = self._attached()
            self.seen = max(self.seen, len(attached))
            # Looked at one after the other: only what is still there afterwards was there together.
            if len(attached) > 1 and set(attached) <= set(self._attached()):
                self.doubles.append(attached)
            time.sleep(0)

    def _attached(self) -> list[str]:
        found = []
        for path in Path("/sys/block").glob("loop*/loop/backing_file"):
            # A device may go between the listing and the look.
            with contextlib.suppress(OSError):
                if path.read_text().startswith(self._disk):
                    found.append(path.parts[3])
        return found
