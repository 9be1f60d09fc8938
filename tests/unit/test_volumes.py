"""Volumes: what may be mounted where, on which node, and what becomes of their records."""

from __future__ import annotations

import asyncio
import ctypes
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio

from control.errors import ConflictError, InvalidError, NoCapacityError
from control.model import Mount, VolumeState
from control.mounts import MOST_MOUNTS, check_together, checked_mount, choose_node
from control.volumes import check_place, deleted
from jobs.memory import NODE
from jobs.runner import volumes
from jobs.runner.disk import DiskError
from jobs.scheduler import NodeStatus
from tests.support.control_rig import Rig, eventually
from tests.support.records import NOW, a_store, a_volume

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.unit

GIB = 1 << 30


# -- where a volume may be ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "kept"),
    [("/data", "/data"), ("/home/daytona/v/", "/home/daytona/v"), ("/optical", "/optical")],
)
def test_a_volume_may_be_anywhere_apart_from_the_system(path: str, kept: str) -> None:
    assert checked_mount("v", path, None) == Mount("v", kept)


@pytest.mark.parametrize(
    "path",
    [
        *("", "/", "//", "data", "./data", "/a/../b", "/a/./b", "/a//b", "/a\0b", "//data"),
        *("/proc", "/proc/self", "/sys/fs/cgroup", "/dev", "/dev/shm", "/etc", "/etc/x", "/bin"),
        *("/opt", "/opt/yurt", "/opt/yurt/app", f"/{'x' * 256}", "/x" * 600),
    ],
)
def test_other_places_are_refused(path: str) -> None:
    with pytest.raises(InvalidError, match="Invalid mount path"):
        checked_mount("v", path, None)


@pytest.mark.parametrize(
    ("subpath", "kept"), [(None, ""), ("", ""), ("a", "a"), ("a/b/", "a/b"), ("...", "...")]
)
def test_a_part_of_a_volume_is_named_by_a_path_in_it(subpath: str | None, kept: str) -> None:
    assert checked_mount("v", "/data", subpath) == Mount("v", "/data", kept)


@pytest.mark.parametrize("subpath", ["/", "/etc", "..", "../x", "a/../..", "a//b", "./a", "a\0"])
def test_a_subpath_cannot_lead_out_of_the_volume(subpath: str) -> None:
    with pytest.raises(InvalidError, match="Invalid subpath"):
        checked_mount("v", "/data", subpath)


def test_volumes_lie_side_by_side() -> None:
    check_together([Mount("v", "/data"), Mount("v", "/data2", "x"), Mount("w", "/other/data")])
    for other in ("/data", "/data/below", "/data/b/c"):
        with pytest.raises(InvalidError, match="side by side"):
            check_together([Mount("v", "/data"), Mount("u", "/data-more"), Mount("w", other)])
    many = [Mount("v", f"/{number}") for number in range(MOST_MOUNTS + 1)]
    check_together(many[1:])
    with pytest.raises(InvalidError, match="at most"):
        check_together(many)


def test_a_part_that_changes_while_it_is_opened_stays_inside(tmp_path: Path) -> None:
    root, outside = tmp_path / "volume", tmp_path / "outside"
    (root / "part").mkdir(parents=True)
    (root / "link").symlink_to(outside)
    outside.mkdir()
    libc, over = ctypes.CDLL(None), threading.Event()
    names = (os.fsencode(root / "part"), os.fsencode(root / "link"))

    def exchange() -> None:
        while not over.is_set():
            assert libc.renameat2(-100, names[0], -100, names[1], 2) == 0  # RENAME_EXCHANGE

    found = {True: 0, False: 0}
    with ThreadPoolExecutor(1) as threads:
        exchanging = threads.submit(exchange)
        while min(found.values()) < 500 and not exchanging.done():
            try:
                fd = volumes.open_below(str(root), "part/new")
            except DiskError:
                found[False] += 1
                continue
            inside = Path(f"/proc/self/fd/{fd}").readlink()
            os.close(fd)
            assert inside.is_relative_to(root)
            found[True] += 1
        over.set()
        exchanging.result()
    assert list(outside.iterdir()) == []


# -- on which node it is -----------------------------------------------------------------------


def a_node(name: str, *, disk_gib: int = 100, free_mib: int = 1000, **fields: Any) -> NodeStatus:
    status = NodeStatus(name, "", True, False, "", "", free_mib + 500, 500, disk_gib * 1024)
    return replace(status, **fields)


def test_a_new_volume_goes_where_there_is_room() -> None:
    nodes = [
        a_node("full", free_mib=9000),
        a_node("away", free_mib=9000, is_ready=False),
        a_node("cordoned", free_mib=9000, is_cordoned=True),
        a_node("small", free_mib=9000, disk_gib=12),
        a_node("busy", free_mib=10),
        a_node("idle", free_mib=20),
    ]
    kept = {"full": 88, "busy": 87, "idle": 87}
    assert choose_node(nodes, kept, 13) == "idle"
    with pytest.raises(NoCapacityError, match="no node has 14 GiB"):
        choose_node(nodes, kept, 14)


def test_a_sandbox_has_volumes_of_one_node() -> None:
    here, there, nowhere = a_volume(node="n1"), a_volume(node="n2"), a_volume()
    check_place([here, nowhere, here])
    with pytest.raises(InvalidError, match="different nodes"):
        check_place([here, nowhere, there])


# -- its end -----------------------------------------------------------------------------------


def test_a_volume_in_use_or_not_ready_is_not_deleted() -> None:
    volume = a_volume(name="v", state=VolumeState.READY)
    with pytest.raises(ConflictError, match="in use by one or more sandboxes: a, b, c and 1 more"):
        deleted(volume, ["a", "b", "c", "d"], NOW)
    for state in set(VolumeState) - {VolumeState.READY, VolumeState.ERROR}:
        with pytest.raises(InvalidError, match=state.value):
            deleted(replace(volume, state=state), [], NOW)
    over = deleted(volume, [], NOW)
    assert over.state is VolumeState.PENDING_DELETE
    assert over.name != "v"


# -- by the API --------------------------------------------------------------------------------


@pytest_asyncio.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    async with a_store(tmp_path) as store, Rig(tmp_path, store, volume_gib=2) as rig:
        await rig.wipe()
        yield rig


async def made(rig: Rig, name: str = "v") -> dict[str, Any]:
    answer = await rig.call("POST", "/volumes", json={"name": name})
    assert answer.status_code == 200, answer.text
    fields: dict[str, Any] = answer.json()
    return fields


async def reaches(rig: Rig, volume_id: str, state: str) -> dict[str, Any]:
    fields: dict[str, Any] = {}

    async def reached() -> bool:
        nonlocal fields
        await asyncio.sleep(0)
        fields = (await rig.call("GET", f"/volumes/{volume_id}")).json()
        return bool(fields.get("state") == state)

    await eventually(reached)
    return fields


async def test_a_volume_is_made_listed_and_deleted(rig: Rig) -> None:
    volume = await made(rig)
    assert volume["state"] == "pending_create"
    assert set(volume) == {
        *("id", "name", "organizationId", "state", "errorReason"),
        *("createdAt", "updatedAt", "lastUsedAt"),
    }
    ready = await reaches(rig, volume["id"], "ready")
    assert (await rig.call("GET", "/volumes")).json() == [ready]
    assert (await rig.call("GET", "/volumes/by-name/v")).json() == ready
    gone = await rig.call("DELETE", f"/volumes/{volume['id']}")
    assert (gone.status_code, gone.content) == (200, b"")
    again = await made(rig)  # the name is free at once
    await reaches(rig, volume["id"], "deleted")
    await reaches(rig, again["id"], "ready")
    assert [v["id"] for v in (await rig.call("GET", "/volumes")).json()] == [again["id"]]
    every = (await rig.call("GET", "/volumes?includeDeleted=true")).json()
    assert {v["id"]: v["state"] for v in every} == {volume["id"]: "deleted", again["id"]: "ready"}


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "says"),
    [
        ("POST", "", {"name": "v"}, 400, "Volume with name v already exists"),
        ("POST", "", {}, 400, "name"),
        ("POST", "", {"name": ""}, 400, "name must have"),
        ("POST", "", {"name": "../x"}, 400, "name must have"),
        ("POST", "", {"name": "x" * 129}, 400, "name must have"),
        ("POST", "", {"name": "5b1c1f1e-0000-4000-8000-000000000001"}, 400, "not look like an id"),
        ("GET", "/by-name/w", None, 404, "Volume with name w not found"),
        ("GET", "/5b1c1f1e-0000-4000-8000-000000000001", None, 404, "not found"),
        ("GET", "/v", None, 404, "not found"),
        ("GET", "?includeDeleted=x", None, 400, "includeDeleted"),
        ("DELETE", "/5b1c1f1e-0000-4000-8000-000000000001", None, 404, "not found"),
    ],
)
async def test_refusals(
    rig: Rig, method: str, path: str, body: dict[str, Any] | None, status: int, says: str
) -> None:
    await made(rig)
    answer = await rig.call(method, f"/volumes{path}", json=body)
    assert (answer.status_code, says in answer.json()["message"]) == (status, True), answer.text


async def test_there_are_only_so_many_volumes(tmp_path: Path) -> None:
    async with a_store(tmp_path) as store, Rig(tmp_path, store, max_volumes=1) as rig:
        await reaches(rig, (await made(rig))["id"], "ready")
        answer = await rig.call("POST", "/volumes", json={"name": "w"})
        assert (answer.status_code, answer.json()["message"]) == (
            400,
            "Volume count limit exceeded. Maximum allowed: 1.",
        )


async def test_a_sandbox_gets_its_volumes_by_id_or_name(rig: Rig) -> None:
    volume = await made(rig)  # not ready yet: the first use makes it
    asked = [
        {"volumeId": volume["id"], "mountPath": "/data/"},
        {"volumeId": "v", "mountPath": "/part", "subpath": "a/b"},
    ]
    sandbox = await rig.create(volumes=asked)
    assert sandbox["state"] == "started"
    assert sandbox["volumes"] == [
        {"volumeId": volume["id"], "mountPath": "/data"},
        {"volumeId": volume["id"], "mountPath": "/part", "subpath": "a/b"},
    ]
    assert rig.scheduler.volumes == {volume["id"]: 2 * GIB}
    assert rig.scheduler.jobs[sandbox["id"]].node == NODE
    assert rig.runners[sandbox["id"]].assignment["volumes"] == [
        {"id": volume["id"], "path": "/data", "subpath": ""},
        {"id": volume["id"], "path": "/part", "subpath": "a/b"},
    ]
    assert (await reaches(rig, volume["id"], "ready"))["lastUsedAt"] is not None


@pytest.mark.parametrize(
    ("mount", "says"),
    [
        ({"volumeId": "nobody", "mountPath": "/data"}, "Volume 'nobody' not found"),
        ({"volumeId": "../v", "mountPath": "/data"}, "not found"),
        ({"volumeId": "", "mountPath": "/data"}, "volumeId is empty"),
        ({"volumeId": "v", "mountPath": "/proc"}, "Invalid mount path"),
        ({"volumeId": "v", "mountPath": "/data", "subpath": ".."}, "Invalid subpath"),
        ({"volumeId": "v"}, "volumes.0.mountPath"),
        ("v", "volumes.0"),
    ],
)
async def test_a_sandbox_with_an_impossible_volume_is_not_made(
    rig: Rig, mount: Any, says: str
) -> None:
    await made(rig)
    answer = await rig.call("POST", "/sandbox", json={"volumes": [mount]})
    assert (answer.status_code, says in answer.json()["message"]) == (400, True), answer.text
    assert (await rig.call("GET", "/sandbox")).json()["items"] == []


async def test_a_volume_outlives_its_sandboxes_and_is_deleted_after_them(rig: Rig) -> None:
    volume = await made(rig)
    mounts = [{"volumeId": "v", "mountPath": "/data"}]
    sandbox = await rig.create(name="user", volumes=mounts)
    refused = await rig.call("DELETE", f"/volumes/{volume['id']}")
    assert refused.status_code == 409
    assert "in use by one or more sandboxes: user" in refused.json()["message"]
    await rig.call("DELETE", f"/sandbox/{sandbox['id']}")
    await rig.until(sandbox["id"], "destroyed")
    assert volume["id"] in rig.scheduler.volumes
    other = await rig.create(volumes=mounts)
    # Deleted while its last user is still on its way out: it waits for that.
    await rig.call("DELETE", f"/sandbox/{other['id']}")
    assert (await rig.call("DELETE", f"/volumes/{volume['id']}")).status_code == 200
    refused = await rig.call("POST", "/sandbox", json={"volumes": mounts})
    assert refused.status_code == 400
    refused = await rig.call("DELETE", f"/volumes/{volume['id']}")
    assert refused.status_code == 400
    await rig.until(other["id"], "destroyed")
    rig.control._volumes.wake()
    await reaches(rig, volume["id"], "deleted")
    assert rig.scheduler.volumes == {}


async def test_a_volume_that_no_node_has_room_for_says_so(rig: Rig) -> None:
    rig.scheduler.disk_mib = 1024
    volume = await made(rig)
    failed = await reaches(rig, volume["id"], "error")
    assert "no node has 2 GiB left" in failed["errorReason"]
    refused = await rig.call(
        "POST", "/sandbox", json={"volumes": [{"volumeId": "v", "mountPath": "/data"}]}
    )
    assert "not in a ready state. Current state: error" in refused.json()["message"]
    assert (await rig.call("DELETE", f"/volumes/{volume['id']}")).status_code == 200


async def test_a_start_that_finds_no_room_for_its_new_volume_fails_with_the_reason(
    rig: Rig,
) -> None:
    volume = await made(rig)
    await reaches(rig, volume["id"], "ready")
    rig.scheduler.disk_mib = 4 << 10
    sandbox = await rig.create(volumes=[{"volumeId": "v", "mountPath": "/data"}])
    assert sandbox["state"] == "error"
    assert "no node has 5 GiB left" in sandbox["errorReason"]  # 3 of the sandbox, 2 of the volume
    assert rig.scheduler.volumes == {}


async def test_what_was_cut_off_half_way_is_done_by_the_next_control(rig: Rig) -> None:
    volume = await made(rig)
    sandbox = await rig.create(volumes=[{"volumeId": "v", "mountPath": "/data"}])
    await rig.call("DELETE", f"/sandbox/{sandbox['id']}")
    await rig.until(sandbox["id"], "destroyed")
    rig.scheduler.lost.add(NODE)
    assert (await rig.call("DELETE", f"/volumes/{volume['id']}")).status_code == 200

    async def is_noted() -> bool:
        await asyncio.sleep(0)
        shown = (await rig.call("GET", f"/volumes/{volume['id']}")).json()
        return "cannot be removed yet" in (shown["errorReason"] or "")

    await eventually(is_noted)
    await rig.end()
    rig.scheduler.lost.clear()
    assert volume["id"] in rig.scheduler.volumes
    await rig.begin()
    assert (await reaches(rig, volume["id"], "deleted"))["errorReason"] is None
    assert rig.scheduler.volumes == {}


async def test_the_volumes_of_another_organisation_do_not_exist(rig: Rig) -> None:
    mine = await made(rig)
    answer = await rig.call("POST", "/organizations", json={"name": "others"})
    headers = {"authorization": f"Bearer {answer.json()['apiKey']['value']}"}
    for method, path in (
        ("GET", f"/{mine['id']}"),
        ("GET", "/by-name/v"),
        ("DELETE", f"/{mine['id']}"),
    ):
        refused = await rig.call(method, f"/volumes/{path}", headers=headers)
        assert refused.status_code == 404
    assert (await rig.call("GET", "/volumes", headers=headers)).json() == []
    for name in (mine["id"], "v"):
        body = {"volumes": [{"volumeId": name, "mountPath": "/data"}]}
        refused = await rig.call("POST", "/sandbox", json=body, headers=headers)
        assert (refused.status_code, refused.json()["message"]) == (
            400,
            f"Volume '{name}' not found",
        )
    theirs = await rig.call("POST", "/volumes", json={"name": "v"}, headers=headers)
    assert theirs.json()["organizationId"] != mine["organizationId"]


@pytest.mark.parametrize(
    ("permissions", "method", "path"),
    [
        (["write:volumes"], "GET", "/volumes"),
        (["read:volumes"], "POST", "/volumes"),
        (["read:volumes", "write:volumes"], "DELETE", "/volumes/x"),
    ],
)
async def test_a_key_needs_the_permission(
    rig: Rig, permissions: list[str], method: str, path: str
) -> None:
    body = {"name": "limited", "permissions": permissions}
    key = (await rig.call("POST", "/api-keys", json=body)).json()["value"]
    headers = {"authorization": f"Bearer {key}"}
    answer = await rig.call(method, path, json={"name": "n"}, headers=headers)
    assert answer.status_code == 403
