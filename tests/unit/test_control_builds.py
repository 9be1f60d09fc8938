"""Sandboxes from images that are built first, and snapshots of sandboxes."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from control.model import Build
from control.snapshots import digest_of
from tests.support.control_rig import Rig, a_rig, complaint, eventually

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.unit, pytest.mark.asyncio(loop_scope="session")]

IMAGE: dict[str, Any] = {
    "id": "b" * 64,
    "user": "node",
    "workdir": "/srv",
    "env": {"PATH": "/bin"},
    "entrypoint": ["init"],
    "cmd": ["python3"],
    "layers": ["c" * 64],
    "size_bytes": 1 << 30,
}


def of(dockerfile: str, **more: Any) -> dict[str, Any]:
    return {"buildInfo": {"dockerfileContent": dockerfile}, **more}


async def test_a_sandbox_of_an_image_waits_for_it_and_starts(rig: Rig) -> None:
    rig.scheduler.images["node:22"] = IMAGE
    made = await rig.create(**of("FROM node:22\n", cpu=2, memory=2, disk=5, env={"A": "b"}))
    assert made["state"] == "pending_build"
    assert made["snapshot"] is None
    assert made["buildInfo"]["dockerfileContent"] == "FROM node:22\n"
    shown = await rig.until(made["id"], "started")
    assert (shown["user"], shown["cpu"], shown["memory"], shown["disk"]) == ("node", 2, 2, 5)
    assert rig.scheduler.jobs[made["id"]].image_id == IMAGE["id"]
    log = await rig.call("GET", f"/sandbox/{made['id']}/build-logs?follow=true")
    assert log.headers["content-type"].startswith("text/plain")
    assert "FROM node:22\n" in log.text
    where = (await rig.call("GET", f"/sandbox/{made['id']}/build-logs-url")).json()["url"]
    assert where == f"http://localhost:9878/api/sandbox/{made['id']}/build-logs"
    # Who asks for the same again has it at once, and no list shows it.
    again = await rig.create(**of("FROM node:22\n"))
    assert again["state"] == "started"
    listed = (await rig.call("GET", "/snapshots")).json()["items"]
    assert [snapshot["name"] for snapshot in listed] == ["default"]


async def test_an_image_that_cannot_be_had_fails_the_sandbox_and_is_tried_again(rig: Rig) -> None:
    made = await rig.create(**of("FROM no/such:1"))
    shown = await rig.until(made["id"], "build_failed")
    assert shown["errorReason"] == "there is no image no/such:1"
    refused = await rig.call("POST", f"/sandbox/{made['id']}/start")
    assert (refused.status_code, complaint(refused)) == (400, "Sandbox is in an errored state")
    rig.scheduler.images["no/such:1"] = IMAGE
    again = await rig.create(**of("FROM no/such:1"))
    assert again["state"] == "pending_build"
    await rig.until(again["id"], "started")
    assert (await rig.call("DELETE", f"/sandbox/{made['id']}")).status_code == 200
    await rig.until(made["id"], "destroyed")


async def test_a_sandbox_can_be_deleted_while_its_image_is_made(rig: Rig) -> None:
    rig.scheduler.is_away = True
    made = await rig.create(**of("FROM node:22"))
    busy = await rig.call("POST", f"/sandbox/{made['id']}/stop")
    assert (busy.status_code, complaint(busy)) == (409, "Sandbox state change in progress")
    await rig.call("DELETE", f"/sandbox/{made['id']}")
    rig.scheduler.is_away = False
    rig.scheduler.images["node:22"] = IMAGE
    await rig.until(made["id"], "destroyed")


async def test_what_only_changes_defaults_is_an_image_with_these(rig: Rig) -> None:
    rig.scheduler.images["node:22"] = IMAGE
    text = 'FROM node:22\nENV A="b c" PATH=/x:$PATH\nWORKDIR app\nCMD ["serve"]\n'
    body = {"name": "derived", "buildInfo": {"dockerfileContent": text}, "entrypoint": ["x"]}
    answer = await rig.call("POST", "/snapshots", json=body)
    assert answer.json()["state"] == "pending", answer.text
    shown: dict[str, Any] = {}

    async def active() -> bool:
        nonlocal shown
        shown = (await rig.call("GET", "/snapshots/derived")).json()
        return bool(shown["state"] == "active")

    await eventually(active)
    assert shown["buildInfo"]["dockerfileContent"] == text
    image = rig.scheduler.images[shown["ref"].rpartition("-")[2]]
    assert image["env"] == {"PATH": "/x:/bin", "A": "b c"}
    assert (image["workdir"], image["entrypoint"], image["cmd"]) == (
        "/srv/app",
        ["init"],
        ["serve"],
    )
    sandbox = await rig.create(snapshot="derived")
    assert rig.runners[sandbox["id"]].assignment["entrypoint"] == ["x"]
    both = await rig.call("POST", "/snapshots", json={**body, "imageName": "node:22"})
    assert complaint(both) == "Cannot use both imageName and buildInfo"
    where = (await rig.call("GET", "/snapshots/derived/build-logs-url")).json()["url"]
    assert where.endswith(f"/api/snapshots/{shown['id']}/build-logs")


async def test_builds_that_nobody_asked_for_lately_are_forgotten(rig: Rig) -> None:
    rig.scheduler.images["node:22"] = IMAGE
    made = await rig.create(**of("FROM node:22"))
    await rig.until(made["id"], "started")
    name = f"_build_{digest_of(Build('FROM node:22'))}"
    assert (await rig.call("GET", f"/snapshots/{name}")).status_code == 200
    store = rig.store.snapshots
    assert await store.outdated(rig.control.api.state.service.now()) != []
    kept = await store.get("default", name)
    assert kept is not None
    old = kept.updated_at.replace(year=2020)
    await store.change(kept.id, lambda known: replace(known, updated_at=old))
    await rig.control.keeper.collect()
    assert (await rig.call("GET", f"/snapshots/{name}")).status_code == 404
    assert rig.scheduler.kept is not None
    assert IMAGE["id"] in rig.scheduler.kept  # the sandbox needs it


async def test_a_snapshot_of_a_sandbox_is_made_and_can_be_used(rig: Rig) -> None:
    for state in ("started", "stopped"):
        source = await rig.create(env={"SECRET": "canary"}, user="daytona")
        if state == "stopped":
            await rig.call("POST", f"/sandbox/{source['id']}/stop")
        answer = await rig.call(
            "POST", f"/sandbox/{source['id']}/snapshot", json={"name": f"of-{state}"}
        )
        assert (answer.status_code, answer.json()["state"]) == (200, state), answer.text
        shown = (await rig.call("GET", f"/snapshots/of-{state}")).json()
        assert (shown["state"], shown["sourceSandboxId"]) == ("active", source["id"])
        assert ":daytona" in shown["ref"]
        assert shown["size"] > 0
        made = await rig.create(snapshot=f"of-{state}")
        assert "canary" not in str(made)
        assert made["user"] == "daytona"
        assert rig.scheduler.jobs[made["id"]].image_id == shown["ref"].rpartition("-")[2]
        found = await rig.call("GET", f"/snapshots?sourceSandboxId={source['id']}")
        assert [each["name"] for each in found.json()["items"]] == [f"of-{state}"]


async def test_nothing_else_is_done_while_a_snapshot_is_made(rig: Rig) -> None:
    source = (await rig.create())["id"]
    rig.scheduler.is_away = True
    asking = rig.spawn(_ask(rig, source))

    async def marked() -> bool:
        return bool((await rig.show(source))["state"] == "snapshotting")

    await eventually(marked)
    old = await rig.call("GET", f"/sandbox/{source}", headers={"x-daytona-sdk-version": "0.21.0"})
    assert old.json()["state"] == "started"
    for verb in ("stop", "archive"):
        busy = await rig.call("POST", f"/sandbox/{source}/{verb}")
        assert (busy.status_code, complaint(busy)) == (409, "Sandbox state change in progress")
    twice = await rig.call("POST", f"/sandbox/{source}/snapshot", json={"name": "second"})
    assert twice.status_code == 409
    assert (await rig.call("GET", "/snapshots/second")).status_code == 404
    rig.scheduler.is_away = False
    await asking
    assert (await rig.show(source))["state"] == "started"


async def _ask(rig: Rig, sandbox_id: str) -> None:
    await rig.call("POST", f"/sandbox/{sandbox_id}/snapshot", json={"name": "slow"})


async def test_what_no_snapshot_can_be_made_of_is_refused(rig: Rig) -> None:
    source = (await rig.create())["id"]
    path = f"/sandbox/{source}/snapshot"
    again = await rig.call("POST", path, json={"name": "default"})
    assert (again.status_code, complaint(again)) == (
        409,
        "Snapshot with name default already exists",
    )
    assert (await rig.show(source))["state"] == "started"
    for body, status in (
        ({"name": "a b"}, 400),
        ({}, 400),
        ({"name": "m", "includeMemory": True}, 422),
    ):
        assert (await rig.call("POST", path, json=body)).status_code == status
    made = await rig.create(**of("FROM no/such:1"))
    await rig.until(made["id"], "build_failed")
    refused = await rig.call("POST", f"/sandbox/{made['id']}/snapshot", json={"name": "x"})
    assert complaint(refused) == "Sandbox must be started or stopped to make a snapshot of it"


async def test_a_deleted_sandbox_s_snapshot_fails_and_says_why(rig: Rig) -> None:
    source = (await rig.create())["id"]
    rig.scheduler.is_away = True
    asking = rig.spawn(_ask(rig, source))

    async def marked() -> bool:
        return bool((await rig.show(source))["state"] == "snapshotting")

    await eventually(marked)
    await rig.call("DELETE", f"/sandbox/{source}")
    rig.scheduler.is_away = False
    await asking
    await rig.until(source, "destroyed")


async def test_a_control_that_was_killed_goes_on_with_builds(tmp_path: Path) -> None:
    async with a_rig(tmp_path) as rig:
        source = (await rig.create())["id"]
        rig.scheduler.is_away = True
        waiting = await rig.create(**of("FROM node:22"))
        asking = rig.spawn(_ask(rig, source))

        async def are_begun() -> bool:
            first = (await rig.show(waiting["id"]))["state"] == "building_snapshot"
            shown = (await rig.call("GET", "/snapshots/slow")).json()
            return bool(first and shown.get("state") == "pulling")

        await eventually(are_begun)
        asking.cancel()
        await rig.end()
        rig.scheduler.is_away = False
        rig.scheduler.images["node:22"] = IMAGE
        await rig.begin()
        await rig.until(waiting["id"], "started")
        await rig.until(source, "started")
        assert (await rig.call("GET", "/snapshots/slow")).json()["state"] == "active"
