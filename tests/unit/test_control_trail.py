"""The audit log: who changed what, and how it ended."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from control.app import now
from control.trail import Trail, deed

if TYPE_CHECKING:
    from tests.support.control_rig import Rig, Tenant

pytestmark = pytest.mark.unit
asynchronous = pytest.mark.asyncio(loop_scope="session")


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("POST", "/api/sandbox", ("create", "sandbox", "")),
        ("DELETE", "/api/sandbox/box", ("delete", "sandbox", "box")),
        ("POST", "/api/sandbox/box/stop", ("stop", "sandbox", "box")),
        ("POST", "/api/sandbox/box/public/true", ("public", "sandbox", "box")),
        ("PUT", "/api/sandbox/box/labels", ("put labels", "sandbox", "box")),
        ("PATCH", "/api/organizations/x/quota/us", ("patch quota", "organizations", "x")),
        ("DELETE", "/api/api-keys/ci", ("delete", "api-keys", "ci")),
    ],
)
def test_a_call_is_read_as_a_deed(method: str, path: str, expected: tuple[str, str, str]) -> None:
    assert deed(method, path) == expected


async def lines(who: Rig | Tenant, organization_id: str) -> list[dict[str, Any]]:
    answer = await who.call("GET", f"/audit/organizations/{organization_id}")
    assert answer.status_code == 200
    items: list[dict[str, Any]] = answer.json()["items"]
    return items


@asynchronous
async def test_each_change_leaves_a_line_and_reading_none(rig: Rig) -> None:
    one = await rig.tenant("one")
    source = {"X-Daytona-Source": "sdk-python"}
    made = await one.call("POST", "/sandbox", json={"env": {"A": "a secret"}}, headers=source)
    sandbox_id = made.json()["id"]
    await one.call("GET", f"/sandbox/{sandbox_id}")
    await one.call("POST", f"/sandbox/{sandbox_id}/last-activity")
    await one.call("POST", f"/sandbox/{sandbox_id}/archive-it")
    await one.call("POST", f"/sandbox/{sandbox_id}/autostop/-1")
    await one.call("DELETE", f"/sandbox/{sandbox_id}")
    written = await lines(one, one.id)
    told = [(line["action"], line["targetId"], line["statusCode"]) for line in written]
    assert told == [
        ("delete", sandbox_id, 200),
        ("autostop", sandbox_id, 400),
        ("create", sandbox_id, 200),
    ]
    assert written[-1]["source"] == "sdk-python"
    assert {line["actorId"] for line in written} == {"first"}
    assert one.key not in str(written)
    assert "a secret" not in str(written)
    assert await lines(rig, one.id) == written


@asynchronous
async def test_the_log_is_paged_and_forgets_what_is_old(rig: Rig) -> None:
    one = await rig.tenant("one")
    for number in range(3):
        await one.call("DELETE", f"/sandbox/nobody-{number}")
    page = await one.call("GET", f"/audit/organizations/{one.id}", params={"limit": 2, "page": 2})
    assert [line["targetId"] for line in page.json()["items"]] == ["nobody-0"]
    assert (page.json()["total"], page.json()["totalPages"]) == (3, 2)
    await Trail(rig.store.trail, 1, lambda: now() + timedelta(hours=23)).forget()
    assert len(await lines(one, one.id)) == 3
    await Trail(rig.store.trail, 1, lambda: now() + timedelta(hours=25)).forget()
    assert await lines(one, one.id) == []


@asynchronous
async def test_the_log_takes_a_permission(rig: Rig) -> None:
    body = {"name": "reader", "permissions": []}
    key = (await rig.call("POST", "/api-keys", json=body)).json()["value"]
    headers = {"authorization": f"Bearer {key}"}
    answer = await rig.call("GET", "/audit/organizations/default", headers=headers)
    assert answer.status_code == 403
