"""Organisations: what one has, others neither see nor change."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from tests.support.control_rig import complaint, eventually

if TYPE_CHECKING:
    from tests.support.control_rig import Rig

pytestmark = [pytest.mark.unit, pytest.mark.asyncio(loop_scope="session")]


async def test_names_are_unique_in_each_organization(rig: Rig) -> None:
    one, two = await rig.tenant("one"), await rig.tenant("two")
    made = [await who.call("POST", "/sandbox", json={"name": "box"}) for who in (one, two)]
    assert [answer.json()["organizationId"] for answer in made] == [one.id, two.id]
    again = await one.call("POST", "/sandbox", json={"name": "box"})
    assert again.status_code == 409
    assert complaint(again) == "Sandbox with name box already exists"
    for who, answer in zip((one, two), made, strict=True):
        assert (await who.call("GET", "/sandbox/box")).json()["id"] == answer.json()["id"]
        listed = (await who.call("GET", "/sandbox")).json()["items"]
        assert [item["id"] for item in listed] == [answer.json()["id"]]
    assert (await rig.call("GET", "/sandbox/box")).status_code == 404


async def test_gates_let_in_keys_of_their_organization_only(rig: Rig) -> None:
    one, two = await rig.tenant("one"), await rig.tenant("two")
    made = await one.call("POST", "/sandbox", json={})
    runner = rig.runners[made.json()["id"]]
    assert len(runner.assignment["keys"]) == 1
    version = runner.version
    more = {"name": "more", "permissions": ["write:sandboxes"]}
    assert (await two.call("POST", "/api-keys", json=more)).status_code == 201
    assert (await one.call("POST", "/api-keys", json=more)).status_code == 201

    async def told() -> bool:
        await rig.settle()
        return len(runner.assignment["keys"]) == 2

    await eventually(told)
    assert runner.version == version + 1


async def test_keys_belong_to_their_organization(rig: Rig) -> None:
    one = await rig.tenant("one")
    listed = (await one.call("GET", "/api-keys")).json()
    assert [(key["name"], key["userId"]) for key in listed] == [("first", one.id)]
    assert [key["name"] for key in (await rig.call("GET", "/api-keys")).json()] == ["first"]
    body = {"name": "ci", "permissions": []}
    assert (await one.call("POST", "/api-keys", json=body)).status_code == 201
    assert (await rig.call("GET", "/api-keys/ci")).status_code == 404
    assert (await rig.call("DELETE", "/api-keys/ci")).status_code == 404
    assert (await one.call("DELETE", "/api-keys/ci")).status_code == 204


async def test_only_the_installation_s_own_keys_make_organizations(rig: Rig) -> None:
    one = await rig.tenant("one")
    refused = await one.call("POST", "/organizations", json={"name": "two"})
    assert refused.status_code == 403
    assert (await one.call("DELETE", f"/organizations/{one.id}")).status_code == 403
    known = (await one.call("GET", "/organizations")).json()
    assert [organization["name"] for organization in known] == ["one"]
    assert (await one.call("GET", "/organizations/default")).status_code == 404
    assert (await one.call("GET", "/organizations/default/usage")).status_code == 404
    assert (await one.call("GET", f"/organizations/{one.id}")).json() == known[0]
    assert (await one.call("GET", "/users/me")).json()["id"] == one.id
    everybody = (await rig.call("GET", "/organizations")).json()
    assert [organization["name"] for organization in everybody] == ["default", "one"]
    taken = await rig.call("POST", "/organizations", json={"name": "one"})
    assert taken.status_code == 409
    assert complaint(taken) == "Organization with name one already exists"
    strange = await rig.call("POST", "/organizations", json={"name": "a/b"})
    assert strange.status_code == 400


async def test_an_organization_is_removed_with_its_keys_when_it_is_empty(rig: Rig) -> None:
    one = await rig.tenant("one")
    made = await one.call("POST", "/sandbox", json={})
    assert (await rig.call("DELETE", f"/organizations/{one.id}")).status_code == 409
    assert (await one.call("DELETE", f"/sandbox/{made.json()['id']}")).status_code == 200

    async def removed() -> bool:
        await rig.settle()
        return (await rig.call("DELETE", f"/organizations/{one.id}")).status_code == 204

    await eventually(removed)
    assert (await one.call("GET", "/sandbox")).status_code == 401
    assert (await rig.call("DELETE", "/organizations/default")).status_code == 400


async def limit(rig: Rig, organization_id: str, **limits: int | None) -> None:
    answer = await rig.call("PATCH", f"/organizations/{organization_id}/quota/us", json=limits)
    assert answer.status_code == 204, answer.text


@pytest.mark.parametrize(
    ("name", "most", "what", "unit"),
    [
        ("totalSandboxQuota", 1, "Sandbox count", ""),
        ("totalCpuQuota", 3, "CPU", ""),
        ("totalMemoryQuota", 4, "Memory", " GiB"),
        ("totalDiskQuota", 5, "Disk", " GiB"),
    ],
)
async def test_a_refusal_for_want_of_quota_names_limit_and_use(
    rig: Rig, name: str, most: int, what: str, unit: str
) -> None:
    one = await rig.tenant("one")
    await limit(rig, one.id, **{name: most})
    body = {"cpu": 2, "memory": 3, "disk": 4}
    made = await one.call("POST", "/sandbox", json=body)
    assert made.status_code == 200
    refused = await one.call("POST", "/sandbox", json=body)
    assert refused.status_code == 400
    used = {"Sandbox count": 1, "CPU": 2, "Memory": 3, "Disk": 4}[what]
    assert complaint(refused) == (
        f"Total {what} limit exceeded. Maximum allowed: {most}{unit}. "
        f"In use: {used}{unit}, asked for: {used}{unit}."
    )
    assert (await rig.create())["state"] == "started"  # others have limits of their own
    assert (await one.call("DELETE", f"/sandbox/{made.json()['id']}")).status_code == 200


async def test_many_creates_at_once_stay_within_a_quota(rig: Rig) -> None:
    one = await rig.tenant("one")
    await limit(rig, one.id, totalCpuQuota=3)
    creating = (one.call("POST", "/sandbox", json={}) for _ in range(8))
    answers = await asyncio.gather(*creating)
    assert sorted(answer.status_code for answer in answers) == [200] * 3 + [400] * 5


async def test_a_start_is_within_the_quota_and_a_deletion_always(rig: Rig) -> None:
    one = await rig.tenant("one")
    await limit(rig, one.id, totalCpuQuota=1)
    first = (await one.call("POST", "/sandbox", json={})).json()["id"]
    assert (await one.call("POST", f"/sandbox/{first}/stop")).json()["state"] == "stopped"
    second = (await one.call("POST", "/sandbox", json={})).json()["id"]
    refused = await one.call("POST", f"/sandbox/{first}/start")
    assert refused.status_code == 400
    assert complaint(refused).startswith("Total CPU limit exceeded.")
    assert (await one.call("GET", f"/sandbox/{first}")).json()["state"] == "stopped"
    await limit(rig, one.id, totalCpuQuota=0)
    for sandbox_id in (first, second):
        assert (await one.call("DELETE", f"/sandbox/{sandbox_id}")).status_code == 200


async def test_only_an_operator_sets_limits(rig: Rig) -> None:
    one = await rig.tenant("one")
    path = f"/organizations/{one.id}/quota"
    assert (await one.call("PATCH", f"{path}/us", json={})).status_code == 403
    assert (await rig.call("PATCH", f"{path}/eu", json={})).status_code == 404
    body = {"totalCpuQuota": -1}
    assert (await rig.call("PATCH", f"{path}/us", json=body)).status_code == 400


async def test_use_is_counted_by_organization(rig: Rig) -> None:
    one = await rig.tenant("one")
    made = (await one.call("POST", "/sandbox", json={"cpu": 2, "memory": 3, "disk": 4})).json()
    await rig.create()

    async def used() -> tuple[int, int, int]:
        answer = await one.call("GET", f"/organizations/{one.id}/usage")
        (region,) = answer.json()["regionUsage"]
        names = ("currentCpuUsage", "currentMemoryUsage", "currentDiskUsage")
        cpu, memory, disk = (region[name] for name in names)
        return cpu, memory, disk

    assert await used() == (2, 3, 4)
    await one.call("POST", f"/sandbox/{made['id']}/stop")
    assert await used() == (0, 0, 4)
