"""Archiving, and starts that need the archive: what control does, over doubles of nodes."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from control.model import Archive
from control.naming import SandboxId
from tests.support.control_rig import Runner, complaint, eventually

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.control_rig import Rig

pytestmark = [pytest.mark.unit, pytest.mark.asyncio(loop_scope="session")]


@pytest.fixture
def store(rig: Rig) -> Path:
    """The directory that archives are kept in."""
    return rig.settings.data / "archive"


@pytest.fixture
def held(rig: Rig) -> Iterator[dict[str, asyncio.Event]]:
    """Hold work on nodes back: each verb here waits for its event."""
    events: dict[str, asyncio.Event] = {}
    rig.scheduler.held = events
    yield events
    rig.scheduler.held = {}
    for event in events.values():
        event.set()


async def shows(rig: Rig, sandbox_id: str, **wanted: str) -> dict[str, Any]:
    """Wait until a record shows this, also while somebody is at work on it."""
    shown: dict[str, Any] = {}

    async def does() -> bool:
        nonlocal shown
        await asyncio.sleep(0)
        shown = await rig.show(sandbox_id)
        return wanted.items() <= shown.items()

    await eventually(does)
    return shown


async def stopped(rig: Rig, **body: Any) -> str:
    made = await rig.create(**body)
    await rig.call("POST", f"/sandbox/{made['id']}/stop")
    await rig.until(made["id"], "stopped")
    return str(made["id"])


async def archive(rig: Rig, sandbox_id: str) -> dict[str, Any]:
    answer = await rig.call("POST", f"/sandbox/{sandbox_id}/archive")
    assert answer.status_code == 200, answer.text
    said: dict[str, Any] = answer.json()
    return said


async def at_work(rig: Rig, verb: str) -> None:
    """Wait until a node does this."""

    async def begun() -> bool:
        await asyncio.sleep(0)
        return verb in rig.scheduler.at_work

    await eventually(begun)


async def test_an_archived_sandbox_is_off_its_node_and_starts_from_its_archive(
    rig: Rig, store: Path
) -> None:
    sandbox_id = await stopped(rig, labels={"a": "b"}, env={"K": "v"})
    asked = await archive(rig, sandbox_id)
    assert (asked["state"], asked["desiredState"]) == ("archiving", "archived")
    shown = await rig.until(sandbox_id, "archived")
    assert (shown["backupState"], shown["labels"]) == ("Completed", {"a": "b"})
    assert sandbox_id not in rig.scheduler.disks
    kept = store / sandbox_id / "1"
    kept.parent.mkdir(parents=True)
    kept.write_bytes(b"sealed")
    started = await rig.call("POST", f"/sandbox/{sandbox_id}/start")
    assert started.json()["state"] == "started"
    runner = rig.runners[sandbox_id]
    assert runner.job.restore
    told = runner.assignment["archive"]
    assert (told["name"], told["url"]) == (f"{sandbox_id}/1", f"file://{store}")
    assert len(told["key"]) == 64
    assert runner.assignment["env"] == {"K": "v"}
    await rig.settle()
    assert not kept.exists()
    record = await rig.store.sandboxes.get(runner.job.sandbox_id)
    assert record is not None
    assert (record.archive, record.secrets.archive_key) == (None, "")


async def test_a_start_without_an_archive_is_told_of_none(rig: Rig) -> None:
    sandbox_id = await stopped(rig)
    await rig.call("POST", f"/sandbox/{sandbox_id}/start")
    runner = rig.runners[sandbox_id]
    assert not runner.job.restore
    assert "archive" not in runner.assignment


async def test_a_start_while_its_files_are_packed_gives_the_archive_up(
    rig: Rig, held: dict[str, asyncio.Event]
) -> None:
    sandbox_id = await stopped(rig)
    held["archive-disk"] = asyncio.Event()
    await archive(rig, sandbox_id)
    await at_work(rig, "archive-disk")
    started = await rig.call("POST", f"/sandbox/{sandbox_id}/start")
    assert started.json()["state"] == "started"
    assert rig.scheduler.at_work == []
    assert not rig.runners[sandbox_id].job.restore
    assert sandbox_id in rig.scheduler.disks


async def test_a_start_while_the_disk_goes_takes_the_archive(
    rig: Rig, held: dict[str, asyncio.Event]
) -> None:
    sandbox_id = await stopped(rig)
    held["remove-disk"] = asyncio.Event()
    await archive(rig, sandbox_id)
    await at_work(rig, "remove-disk")
    starting = asyncio.ensure_future(rig.call("POST", f"/sandbox/{sandbox_id}/start"))
    shown = await shows(rig, sandbox_id, state="restoring")
    assert shown["desiredState"] == "started"
    held["remove-disk"].set()
    assert (await starting).json()["state"] == "started"
    assert rig.runners[sandbox_id].job.restore


async def test_a_deletion_while_its_files_are_packed_leaves_nothing(
    rig: Rig, held: dict[str, asyncio.Event], store: Path
) -> None:
    sandbox_id = await stopped(rig)
    held["archive-disk"] = asyncio.Event()
    await archive(rig, sandbox_id)
    await at_work(rig, "archive-disk")
    half = store / sandbox_id / "1-half#1"
    half.parent.mkdir(parents=True)
    half.write_bytes(b"half")
    assert (await rig.call("DELETE", f"/sandbox/{sandbox_id}")).status_code == 200
    await rig.until(sandbox_id, "destroyed")
    assert rig.scheduler.at_work == []
    assert sandbox_id not in rig.scheduler.disks
    assert not half.parent.exists()


async def test_an_archive_that_the_disk_has_outlived_is_found_by_the_next_control(
    rig: Rig, store: Path
) -> None:
    sandbox_id = SandboxId((await rig.create())["id"])
    await rig.settle()
    kept = store / sandbox_id / "1"
    kept.parent.mkdir(parents=True)
    kept.write_bytes(b"sealed")
    old = Archive(f"{sandbox_id}/1", "0" * 64, 6, is_stale=True)
    await rig.store.sandboxes.change(sandbox_id, lambda record: replace(record, archive=old))
    await rig.control.reconciler.resync()
    await rig.settle()
    record = await rig.store.sandboxes.get(sandbox_id)
    assert record is not None
    assert (record.archive, kept.exists()) == (None, False)


async def test_a_deletion_takes_the_archive_along(rig: Rig, store: Path) -> None:
    sandbox_id = await stopped(rig)
    await archive(rig, sandbox_id)
    await rig.until(sandbox_id, "archived")
    (store / sandbox_id).mkdir(parents=True)
    (store / sandbox_id / "1").write_bytes(b"sealed")
    await rig.call("DELETE", f"/sandbox/{sandbox_id}")
    await rig.until(sandbox_id, "destroyed")
    assert not (store / sandbox_id).exists()


async def test_a_restore_that_fails_says_why_and_can_be_tried_again(rig: Rig) -> None:
    sandbox_id = await stopped(rig)
    await archive(rig, sandbox_id)
    await rig.until(sandbox_id, "archived")
    why = "the archive store s3://kept cannot be used: connection refused"

    async def fails(runner: Runner) -> None:
        await runner.claim()
        await runner.report("exit", reason=why, code=1, reached="assign")
        rig.scheduler.end(sandbox_id, why, code=1, phase="assign")

    rig.boots = fails
    for _ in range(2):
        answer = await rig.call("POST", f"/sandbox/{sandbox_id}/start")
        said = answer.json()
        assert (said["state"], said["errorReason"]) == ("error", why)
        assert said["recoverable"]
        assert rig.runners[sandbox_id].assignment["archive"]["name"] == f"{sandbox_id}/1"
    rig.boots = Runner.boot
    answer = await rig.call("POST", f"/sandbox/{sandbox_id}/recover")
    assert answer.json()["state"] == "started"
    assert rig.runners[sandbox_id].job.restore


async def test_while_the_node_cannot_pack_nothing_is_lost(rig: Rig) -> None:
    sandbox_id = await stopped(rig)
    rig.scheduler.lost.add("local")
    await archive(rig, sandbox_id)

    await rig.settle()
    shown = await rig.show(sandbox_id)
    assert shown["state"] == "archiving"
    assert "it is not archived yet, and loses nothing" in shown["errorReason"]
    assert sandbox_id in rig.scheduler.disks
    rig.scheduler.lost.clear()
    rig.control.wake(sandbox_id)  # type: ignore[arg-type]
    shown = await rig.until(sandbox_id, "archived")
    assert shown["errorReason"] is None


async def test_only_what_is_stopped_and_kept_is_archived(rig: Rig) -> None:
    made = await rig.create()
    refused = await rig.call("POST", f"/sandbox/{made['id']}/archive")
    assert (refused.status_code, complaint(refused)) == (400, "Sandbox is not stopped")
    short = await rig.create(autoDeleteInterval=0)
    refused = await rig.call("POST", f"/sandbox/{short['id']}/archive")
    assert complaint(refused) == "Ephemeral sandboxes cannot be archived"


async def test_a_start_comes_after_the_stop_that_is_under_way(rig: Rig) -> None:
    made = await rig.create()
    runner = rig.runners[made["id"]]
    done = asyncio.Event()

    async def stop(self: Runner = runner) -> None:
        self.phase = "stopping"
        await done.wait()
        rig.scheduler.end(made["id"], "", phase="stopping")

    runner.stop = stop  # type: ignore[method-assign]
    stopping = asyncio.ensure_future(rig.call("POST", f"/sandbox/{made['id']}/stop"))
    await shows(rig, made["id"], state="stopping")
    starting = asyncio.ensure_future(rig.call("POST", f"/sandbox/{made['id']}/start"))

    await shows(rig, made["id"], state="stopping", desiredState="started")
    again = await rig.call("POST", f"/sandbox/{made['id']}/stop")
    assert (again.status_code, complaint(again)) == (409, "Sandbox state change in progress")
    done.set()
    assert (await starting).json()["state"] == "started"
    assert (await stopping).status_code == 200
    assert rig.runners[made["id"]].job.generation == 2
