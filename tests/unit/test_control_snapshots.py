"""Snapshots as clients see them, and what becomes of their images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest

from tests.support.control_rig import Rig, a_rig, complaint, eventually

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.unit, pytest.mark.asyncio(loop_scope="session")]

IMAGE = {"id": "a" * 64, "user": "node", "size_bytes": 3 << 30, "entrypoint": [], "env": {}}
REQUIRED = {
    *("id", "general", "name", "state", "size", "entrypoint", "cpu", "gpu", "mem", "disk"),
    *("errorReason", "createdAt", "updatedAt", "lastUsedAt", "sourceSandboxId", "enabled"),
}


async def made(rig: Rig, name: str, image: str = "node:22", **more: Any) -> dict[str, Any]:
    """Create a snapshot and wait until it is active, or has failed."""
    rig.scheduler.images.setdefault("node:22", IMAGE)
    body = {"name": name, "imageName": image, "regionId": "us", **more}
    answer = await rig.call("POST", "/snapshots", json=body)
    assert answer.status_code == 200, answer.text
    assert answer.json()["state"] == "pending"
    shown: dict[str, Any] = {}

    async def finished() -> bool:
        nonlocal shown
        shown = (await rig.call("GET", f"/snapshots/{quote(name, safe='')}")).json()
        return shown["state"] in {"active", "error"}

    await eventually(finished)
    return shown


async def test_a_snapshot_is_made_from_an_image_and_sandboxes_from_it(rig: Rig) -> None:
    shown = await made(rig, "tools/node:22", cpu=2, memory=3, disk=4, entrypoint=["sleep", "1"])
    assert shown.keys() >= REQUIRED
    assert (shown["state"], shown["imageName"], shown["size"]) == ("active", "node:22", 3.0)
    assert (shown["cpu"], shown["mem"], shown["disk"]) == (2, 3, 4)
    assert (shown["general"], shown["enabled"]) == (False, True)
    assert ":daytona" in shown["ref"]
    sandbox = await rig.create(snapshot="tools/node:22")
    assert (sandbox["snapshot"], sandbox["user"], sandbox["memory"]) == ("tools/node:22", "node", 3)
    assert rig.scheduler.jobs[sandbox["id"]].image_id == IMAGE["id"]
    assert rig.runners[sandbox["id"]].assignment["entrypoint"] == ["sleep", "1"]
    by_id = await rig.call("GET", f"/snapshots/{shown['id']}")
    assert by_id.json()["lastUsedAt"] is not None


async def test_why_there_is_no_image_is_told(rig: Rig) -> None:
    shown = await made(rig, "missing", "no/such:1")
    assert (shown["state"], shown["size"]) == ("error", None)
    assert shown["errorReason"] == "there is no image no/such:1"
    refused = await rig.call("POST", "/sandbox", json={"snapshot": "missing"})
    assert complaint(refused) == "Snapshot missing is error"


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({"name": "a"}, "Must specify an image name"),
        ({"name": "a", "imageName": "ubuntu"}, "Image name must include a tag"),
        ({"name": "a", "imageName": "u:latest"}, 'Images with tag ":latest" are not allowed'),
        ({"name": "a", "imageName": "bad image:1"}, "Invalid image name"),
        ({"name": "a", "imageName": "10.0.0.1:5000/x:1"}, "YURT_REGISTRIES"),
        ({"name": "", "imageName": "ubuntu:22.04"}, "name must have"),
        ({"name": "a b", "imageName": "ubuntu:22.04"}, "name must have"),
        ({"name": "n" * 256, "imageName": "ubuntu:22.04"}, "name must have"),
        ({"name": "a", "imageName": "ubuntu:22.04", "cpu": 0}, "CPU must be at least 1"),
        ({"name": "a", "imageName": "ubuntu:22.04", "disk": 9999}, "Maximum allowed: 1024."),
    ],
)
async def test_what_cannot_be_a_snapshot_is_refused(
    rig: Rig, body: dict[str, Any], text: str
) -> None:
    refused = await rig.call("POST", "/snapshots", json=body)
    assert refused.status_code == 400
    assert text in complaint(refused)


async def test_a_name_is_taken_until_its_snapshot_is_deleted(rig: Rig) -> None:
    first = await made(rig, "name")
    taken = await rig.call("POST", "/snapshots", json={"name": "name", "imageName": "node:22"})
    assert (taken.status_code, complaint(taken)) == (409, "Snapshot with name name already exists")
    gone = await rig.call("DELETE", f"/snapshots/{first['id']}")
    assert (gone.status_code, gone.content) == (200, b"")
    assert (await rig.call("GET", "/snapshots/name")).status_code == 404
    again = await made(rig, "name")
    assert again["id"] != first["id"]


async def test_an_inactive_snapshot_makes_no_sandboxes_until_it_is_active(rig: Rig) -> None:
    shown = await made(rig, "asleep")
    path = f"/snapshots/{shown['id']}"
    assert (await rig.call("POST", f"{path}/deactivate")).status_code == 204
    assert (await rig.call("GET", path)).json()["state"] == "inactive"
    refused = await rig.call("POST", "/sandbox", json={"snapshot": "asleep"})
    assert (refused.status_code, complaint(refused)) == (400, "Snapshot asleep is inactive")
    woken = await rig.call("POST", f"{path}/activate")
    assert woken.json()["state"] == "active"
    twice = await rig.call("POST", f"{path}/activate")
    assert (twice.status_code, complaint(twice)) == (400, "Snapshot asleep is already active")
    await rig.create(snapshot="asleep")


async def test_the_server_s_own_snapshot_stays(rig: Rig) -> None:
    for method, path in (("DELETE", ""), ("POST", "/deactivate")):
        refused = await rig.call(method, f"/snapshots/default{path}")
        assert refused.status_code == 403, path
    await rig.create()


async def test_lists_have_pages_names_and_orders(rig: Rig) -> None:
    for name in ("list-b", "list-a", "list-c"):
        await made(rig, name)

    async def names(query: str) -> list[str]:
        answer = await rig.call("GET", f"/snapshots?name=list-&{query}")
        assert answer.status_code == 200, answer.text
        return [item["name"] for item in answer.json()["items"]]

    assert await names("sort=name&order=asc") == ["list-a", "list-b", "list-c"]
    assert await names("sort=createdAt") == ["list-c", "list-a", "list-b"]
    assert await names("sort=name&order=asc&limit=1&page=2") == ["list-b"]
    await rig.create(snapshot="list-b")
    assert (await names(""))[0] == "list-b"
    counted = (await rig.call("GET", "/snapshots?name=list-&limit=2")).json()
    assert (counted["total"], counted["page"], counted["totalPages"]) == (3, 1, 2)
    refused = await rig.call("GET", "/snapshots?sort=size")
    assert "sort must be one of name" in complaint(refused)


async def test_an_image_stays_as_long_as_a_sandbox_needs_it(rig: Rig) -> None:
    shown = await made(rig, "needed")
    sandbox = await rig.create(snapshot="needed")
    await rig.call("DELETE", f"/snapshots/{shown['id']}")
    await rig.control.keeper.collect()
    assert rig.scheduler.kept is not None
    assert IMAGE["id"] in rig.scheduler.kept
    await rig.call("DELETE", f"/sandbox/{sandbox['id']}")
    await rig.until(sandbox["id"], "destroyed")

    async def dropped() -> bool:
        await rig.control.keeper.collect()
        return IMAGE["id"] not in (rig.scheduler.kept or set())

    await eventually(dropped)


async def test_a_control_that_was_killed_goes_on_with_a_snapshot(tmp_path: Path) -> None:
    async with a_rig(tmp_path) as rig:
        rig.scheduler.is_away = True
        body = {"name": "later", "imageName": "node:22"}
        await rig.call("POST", "/snapshots", json=body)

        async def state(wanted: str) -> bool:
            shown = (await rig.call("GET", "/snapshots/later")).json()
            return bool(shown["state"] == wanted)

        await eventually(lambda: state("pulling"))
        await rig.end()
        rig.scheduler.is_away = False
        rig.scheduler.images["node:22"] = IMAGE
        await rig.begin()
        await eventually(lambda: state("active"))
