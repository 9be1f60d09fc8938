"""Sandboxes from images that are built first, and snapshots of sandboxes."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from control.errors import UnavailableError
from control.model import Build, Sandbox, State
from control.snapshots import digest_of
from tests.support.control_rig import Rig, a_rig, complaint, eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from jobs.scheduler import Allocation

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
    text = 'FROM node:22\nENV A="b c" PATH=/x:$PATH\nUSER 7\nCMD ["serve"]\n'
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
    wanted = "7", "/srv", ["init"], ["serve"]
    shown_defaults = image["user"], image["workdir"], image["entrypoint"], image["cmd"]
    assert shown_defaults == wanted
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


class Said:
    """What the steps say and how they end, by their command; asked for like a gate."""

    def __init__(self, rig: Rig) -> None:
        self.rig, self.codes, self.texts = rig, dict[str, int](), dict[str, bytes]()
        self.ran = list[Sandbox]()
        self.breaks = 0

    async def follow(self, sandbox: Sandbox, _: Allocation) -> AsyncIterator[bytes]:
        text = self.texts.get(sandbox.entrypoint[-1], b"said \xf0\x9f\x98\x80\n")
        half = len(text) // 2
        yield text[:half]
        if self.breaks:
            self.breaks -= 1
            raise UnavailableError("cut off")
        yield text[half:]

    async def exit_code(self, sandbox: Sandbox, _: Allocation) -> int | None:
        self.ran.append(sandbox)
        return self.codes.get(sandbox.entrypoint[-1], 0)


@pytest.fixture
def said(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> Said:
    made = Said(rig)
    monkeypatch.setattr(rig.control.keeper, "output", made)
    rig.scheduler.images["node:22"] = IMAGE
    return made


STEPS = "FROM node:22\nENV A=b\nRUN first\nUSER daytona\nWORKDIR app\nRUN second $A\n"


async def built(rig: Rig, text: str, state: str = "started") -> tuple[dict[str, Any], str]:
    made = await rig.create(**of(text))
    assert made["state"] == "pending_build"
    shown = await rig.until(made["id"], state)
    log = await rig.call("GET", f"/sandbox/{made['id']}/build-logs")
    return shown, log.text


async def test_each_step_runs_in_a_hidden_sandbox_of_its_own(rig: Rig, said: Said) -> None:
    said.breaks = 1
    shown, log = await built(rig, STEPS)
    commands = [(s.entrypoint, s.user, s.workdir, dict(s.secrets.env)) for s in said.ran]
    env = {"PATH": "/bin", "A": "b"}
    assert commands == [
        (("/bin/sh", "-c", "first"), "node", "/srv", env),
        (("/bin/sh", "-c", 'mkdir -p "$0"', "/srv/app"), "root", "/", {}),
        (("/bin/sh", "-c", "second $A"), "daytona", "/srv/app", env),
    ]
    assert len({s.image_id for s in said.ran}) == 3
    assert all(s.organization_id == "default" and s.hidden for s in said.ran)
    lines = [line for line in log.splitlines() if line]
    smile = "said \U0001f600"
    assert lines == [
        *("FROM node:22", "ENV A=b", "RUN first", smile, "USER daytona", "WORKDIR app", smile),
        *("RUN second $A", smile, "the image is built"),
    ]
    assert (shown["user"], shown["buildInfo"]["dockerfileContent"]) == ("daytona", STEPS)
    # Nobody sees the sandboxes of the steps, and nothing is left of them.
    listed = (await rig.call("GET", "/sandbox")).json()["items"]
    assert [each["id"] for each in listed] == [shown["id"]]
    for one in said.ran:
        assert (await rig.call("GET", f"/sandbox/{one.id}")).status_code == 404
        assert (await rig.call("GET", f"/sandbox/{one.name}")).status_code == 404

    async def gone() -> bool:
        await rig.settle()
        kept = [await rig.store.sandboxes.get(one.id) for one in said.ran]
        return all(each is None or each.state is State.DESTROYED for each in kept)

    await eventually(gone)


async def test_a_step_that_was_done_before_is_not_done_again(rig: Rig, said: Said) -> None:
    await built(rig, STEPS)
    count = len(said.ran)
    _, log = await built(rig, STEPS + "RUN third\n")
    assert [s.entrypoint[-1] for s in said.ran[count:]] == ["third"]
    assert log.count("done before") == 3
    other = await rig.tenant("other")
    made = (await other.call("POST", "/sandbox", json=of(STEPS))).json()
    assert made["state"] == "pending_build"  # what others built is not told

    async def started() -> bool:
        shown = (await other.call("GET", f"/sandbox/{made['id']}")).json()
        return bool(shown["state"] == "started")

    await eventually(started)
    assert len(said.ran) == count + 1 + 3
    assert said.ran[-1].organization_id == other.id
    await other.call("DELETE", f"/sandbox/{made['id']}")


async def test_a_step_that_fails_is_named_with_what_it_said(rig: Rig, said: Said) -> None:
    said.codes["second $A"] = 3
    said.texts["second $A"] = b"x" * 5000 + b"\nE: no such thing\n"
    shown, log = await built(rig, STEPS, "build_failed")
    reason = "Dockerfile line 6: RUN second $A: it failed with exit code 3\n"
    assert shown["errorReason"].startswith(reason)
    assert shown["errorReason"].endswith("E: no such thing")
    assert len(shown["errorReason"]) < 2000
    assert "E: no such thing\n" in log
    assert log.rstrip().endswith("E: no such thing")
    count = len(said.ran)
    said.codes.clear()
    await built(rig, STEPS)
    assert [s.entrypoint[-1] for s in said.ran[count:]] == ["second $A"]


async def test_a_step_s_sandbox_that_cannot_start_or_ends_fails_the_build(
    rig: Rig, said: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.scheduler.most = 0
    shown, _ = await built(rig, "FROM node:22\nRUN first\n", "build_failed")
    assert "did not start: no room: 0 sandboxes run" in shown["errorReason"]
    rig.scheduler.most = None

    async def killed(sandbox: Sandbox, _: Allocation) -> int | None:
        rig.scheduler.end(sandbox.id, "out of memory", code=1, phase="ready")
        rig.control.wake(sandbox.id)
        await asyncio.sleep(0)
        raise UnavailableError("it is gone")

    monkeypatch.setattr(said, "exit_code", killed)
    shown, _ = await built(rig, "FROM node:22\nRUN other\n", "build_failed")
    assert "the sandbox of this step ended: out of memory" in shown["errorReason"]


async def test_a_quota_holds_for_builds_too(rig: Rig, said: Said) -> None:
    tenant = await rig.tenant("small")
    limits = {"totalCpuQuota": 2}
    assert (
        await rig.call("PATCH", f"/organizations/{tenant.id}/quota/us", json=limits)
    ).status_code < 300
    made = (await tenant.call("POST", "/sandbox", json=of("FROM node:22\nRUN x"))).json()
    shown: dict[str, Any] = {}

    async def failed() -> bool:
        nonlocal shown
        shown = (await tenant.call("GET", f"/sandbox/{made['id']}")).json()
        return bool(shown["state"] == "build_failed")

    await eventually(failed)
    assert "CPU limit exceeded" in shown["errorReason"]
    assert said.ran == []
    await tenant.call("DELETE", f"/sandbox/{made['id']}")


async def test_what_a_killed_build_left_is_cleared_away(tmp_path: Path) -> None:
    async with a_rig(tmp_path) as rig:
        rig.scheduler.images["node:22"] = IMAGE
        said = Said(rig)
        going = asyncio.Event()

        async def waits(sandbox: Sandbox, _: Allocation) -> int | None:
            said.ran.append(sandbox)
            going.set()
            await asyncio.Event().wait()
            return 0

        said.exit_code = waits  # type: ignore[method-assign]
        rig.control.keeper.output = said  # type: ignore[assignment]
        made = await rig.create(**of("FROM node:22\nRUN first\n"))
        await asyncio.wait_for(going.wait(), 5)
        (left,) = said.ran
        # As a kill does: nothing is tidied up.
        before = await rig.store.sandboxes.get(left.id)
        await rig.end()
        assert before is not None
        await rig.store.sandboxes.change(left.id, lambda _: before)
        await rig.begin()
        again = Said(rig)
        rig.control.keeper.output = again  # type: ignore[assignment]
        await rig.until(made["id"], "started")

        async def gone() -> bool:
            await rig.settle()
            kept = await rig.store.sandboxes.get(left.id)
            return kept is None or kept.state is State.DESTROYED

        await eventually(gone)
        assert left.id not in {one.id for one in again.ran}
