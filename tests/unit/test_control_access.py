"""Who may do what, and which few things need no key."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.control_rig import Rig, a_rig, complaint, eventually

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.unit, pytest.mark.asyncio(loop_scope="session")]

WRITE, DELETE, MANAGE = "write:sandboxes", "delete:sandboxes", "manage:api_keys"


async def with_key(rig: Rig, **body: Any) -> str:
    made = await rig.call("POST", "/api-keys", json=body)
    assert made.status_code == 201, made.text
    value: str = made.json()["value"]
    return value


async def test_a_key_is_shown_once_and_listed_without_its_value(rig: Rig) -> None:
    value = await with_key(rig, name="ci", permissions=[WRITE])
    assert re.fullmatch(r"yurt_[0-9a-f]{8}_[0-9a-f]{64}", value)
    listed = await rig.call("GET", "/api-keys")
    assert [key["name"] for key in listed.json()] == ["first", "ci"]
    for secret in (value, value.rpartition("_")[2], rig.secrets.api_key):
        assert secret not in listed.text
    mine = await rig.call("GET", "/api-keys/current")
    assert mine.json()["name"] == "first"
    assert mine.json()["lastUsedAt"] is not None
    assert (await rig.call("GET", "/api-keys/ci")).json()["permissions"] == [WRITE]
    assert (await rig.call("GET", "/api-keys/nope")).status_code == 404


async def test_a_key_reaches_as_far_as_its_permissions(rig: Rig) -> None:
    made = await rig.create(name="box")
    reader = await with_key(rig, name="reader", permissions=[])
    writer = await with_key(rig, name="writer", permissions=[WRITE, MANAGE])
    rig.http.headers["authorization"] = f"Bearer {reader}"
    assert (await rig.call("GET", "/sandbox/box")).status_code == 200
    refused = await rig.call("GET", "/sandbox/box/ports/80/preview-url")
    assert refused.status_code == 403
    assert complaint(refused) == "This API key lacks the permission write:sandboxes"
    rig.http.headers["authorization"] = f"Bearer {writer}"
    assert (await rig.call("GET", "/sandbox/box/ports/80/preview-url")).status_code == 200
    assert (await rig.call("DELETE", "/sandbox/box")).status_code == 403
    more = {"name": "more", "permissions": [DELETE]}
    assert (await rig.call("POST", "/api-keys", json=more)).status_code == 403
    assert (await rig.call("DELETE", "/api-keys/reader")).status_code == 204
    assert (await rig.show(made["id"]))["state"] == "started"


async def test_only_keys_that_may_write_enter_a_toolbox(rig: Rig) -> None:
    await with_key(rig, name="reader", permissions=[])
    until = datetime.now(UTC) + timedelta(hours=1)
    await with_key(rig, name="writer", permissions=[WRITE], expiresAt=until.isoformat())
    made = await rig.create()
    keys = rig.runners[made["id"]].assignment["keys"]
    assert [key["expires_at"] for key in keys] == [None, pytest.approx(until.timestamp(), abs=0.1)]
    assert rig.secrets.api_key not in str(keys)


async def test_gates_hear_of_new_and_revoked_keys(rig: Rig) -> None:
    runner = rig.runners[(await rig.create())["id"]]
    await with_key(rig, name="ci", permissions=[WRITE])

    async def keys(number: int) -> bool:
        await rig.settle()
        return len(runner.assignment["keys"]) == number

    await eventually(lambda: keys(2))
    assert (await rig.call("DELETE", "/api-keys/ci")).status_code == 204
    await eventually(lambda: keys(1))


async def test_a_revoked_and_an_expired_key_end_at_once(rig: Rig) -> None:
    soon = (datetime.now(UTC) + timedelta(seconds=0.2)).isoformat()
    expiring = await with_key(rig, name="soon", permissions=[], expiresAt=soon)
    revoked = await with_key(rig, name="gone", permissions=[])
    await rig.call("DELETE", "/api-keys/gone")
    rig.http.headers["authorization"] = f"Bearer {revoked}"
    assert (await rig.call("GET", "/sandbox")).status_code == 401
    rig.http.headers["authorization"] = f"Bearer {expiring}"

    async def expired() -> bool:
        return (await rig.call("GET", "/sandbox")).status_code == 401

    await eventually(expired)
    assert complaint(await rig.call("GET", "/sandbox")) == "This API key has expired"


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"name": "first", "permissions": []}, 409),
        ({"name": "", "permissions": []}, 400),
        ({"name": "a/b", "permissions": []}, 400),
        ({"name": "x"}, 400),
        ({"name": "x", "permissions": ["fly"]}, 400),
        ({"name": "x", "permissions": [], "expiresAt": "2020-01-01T00:00:00Z"}, 400),
        ({"name": "x", "permissions": [], "expiresAt": "soon"}, 400),
    ],
)
async def test_keys_that_make_no_sense_are_refused(
    rig: Rig, body: dict[str, Any], status: int
) -> None:
    answer = await rig.call("POST", "/api-keys", json=body)
    assert answer.status_code == status
    assert len((await rig.call("GET", "/api-keys")).json()) == 1


async def test_the_first_key_is_the_installation_s(tmp_path: Path) -> None:
    async with a_rig(tmp_path) as rig:
        refused = await rig.call("DELETE", "/api-keys/first")
        assert refused.status_code == 400
        old = rig.secrets
        await rig.end()
        rig.secrets = type(old)(old.master_key, old.node_key, "yurt_00000000_" + "0" * 64)
        await rig.begin()
        assert (await rig.call("GET", "/sandbox")).status_code == 200
        rig.http.headers["authorization"] = f"Bearer {old.api_key}"
        assert (await rig.call("GET", "/sandbox")).status_code == 401


async def test_use_is_stored_now_and_then(rig: Rig) -> None:
    await rig.call("GET", "/sandbox")
    await rig.control.reconciler._chore()
    (stored,) = await rig.store.keys.all()
    assert stored.last_used_at is not None


async def test_who_changed_what_is_logged_without_a_key(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    value = await with_key(rig, name="ci", permissions=[])
    rig.http.headers["authorization"] = f"Bearer {value}"
    await rig.call("POST", "/sandbox", json={"env": {"A": "a secret"}})
    rig.http.headers["authorization"] = "Bearer nobody's"
    await rig.call("DELETE", "/sandbox/box")
    await rig.call("POST", "/sandbox/box/ports/80/signed-preview-url/a-label/expire")
    ours = [vars(record) for record in caplog.records if record.name.startswith("control")]
    written = [record for record in ours if record["message"] == "request"]
    assert [(r["key"], r["method"], r["path"], r["status"]) for r in written] == [
        ("first", "POST", "/api/api-keys", 201),
        ("ci", "POST", "/api/sandbox", 403),
        (None, "DELETE", "/api/sandbox/box", 401),
        (None, "POST", "/api/sandbox/box/ports/80/signed-preview-url/.../expire", 401),
    ]
    for secret in (value, rig.secrets.api_key, "a secret", "nobody's", "a-label"):
        assert secret not in str(ours)
