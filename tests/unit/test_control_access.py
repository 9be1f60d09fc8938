"""Who may do what, and which few things need no key."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio
from fastapi.routing import APIRoute

from control.api.caller import Needs
from control.app import _ROUTERS
from tests.support.control_rig import Rig, a_rig, complaint, eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

pytestmark = pytest.mark.unit

PUBLIC = {
    ("GET", "/api/config"),
    ("GET", "/api/health"),
    ("GET", "/api/health/ready"),
    ("POST", "/internal/report"),  # sealed by the key of a node instead
}
WRITE, DELETE, MANAGE = "write:sandboxes", "delete:sandboxes", "manage:api_keys"
NEEDS = {
    None: {
        ("GET", "/api/sandbox"),
        ("GET", "/api/sandbox/paginated"),
        ("GET", "/api/sandbox/{name}"),
        ("GET", "/api/sandbox/{name}/toolbox-proxy-url"),
        ("GET", "/api/api-keys/current"),
        ("GET", "/api/snapshots"),
        ("GET", "/api/snapshots/{name:path}"),
        ("GET", "/api/regions"),
        ("GET", "/api/shared-regions"),
    },
    DELETE: {("DELETE", "/api/sandbox/{name}")},
    MANAGE: {
        ("GET", "/api/api-keys"),
        ("POST", "/api/api-keys"),
        ("GET", "/api/api-keys/{name}"),
        ("DELETE", "/api/api-keys/{name}"),
    },
}


def routes() -> list[tuple[str, str, APIRoute]]:
    found = []
    for router in _ROUTERS:
        for route in router.routes:
            assert isinstance(route, APIRoute)
            found += [(method, route.path, route) for method in route.methods or ()]
    return found


def guard(route: APIRoute) -> Needs | None:
    guards = [d.call for d in route.dependant.dependencies if isinstance(d.call, Needs)]
    return guards[0] if guards else None


@pytest_asyncio.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    async with a_rig(tmp_path) as rig:
        yield rig


def test_every_call_needs_a_key_but_these() -> None:
    assert {(m, path) for m, path, route in routes() if guard(route) is None} == PUBLIC
    assert len(PUBLIC) <= 4


def test_every_permission_opens_exactly_its_calls() -> None:
    for method, path, route in routes():
        needs = guard(route)
        if needs is None:
            continue
        listed = [scope for scope, calls in NEEDS.items() if (method, path) in calls]
        assert needs.permission == (listed[0] if listed else WRITE), (method, path)


async def test_no_call_is_answered_without_a_valid_key(rig: Rig) -> None:
    good = rig.secrets.api_key
    bad = [
        "",
        "Bearer",
        "Bearer nonsense",
        f"Basic {good}",
        good,
        f"Bearer {good[:-1]}{'0' if good[-1] != '0' else '1'}",
        f"Bearer {good[:14]}{'0' * 64}",
        f"Bearer yurt_00000000_{'0' * 64}",
        "Bearer \u00e9",
    ]
    for method, path, route in routes():
        if guard(route) is None:
            continue
        url = "http://localhost" + re.sub(r"\{.*?\}", "x", path)
        for field in bad:
            headers = [(b"authorization", field.encode("latin-1"))]
            answer = await rig.http.request(method, url, headers=headers)
            assert answer.status_code == 401, (method, path, field)
            assert complaint(answer).startswith("Invalid credentials")
            assert answer.headers["www-authenticate"] == "Bearer"
    nobody = await rig.http.get("/sandbox", headers={"cookie": f"authorization={good}"})
    assert nobody.status_code == 200  # the client's own key; a cookie is nothing
    del rig.http.headers["authorization"]
    assert (await rig.http.get("/sandbox", headers={"cookie": f"key={good}"})).status_code == 401


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


async def test_the_first_key_is_the_installation_s(rig: Rig) -> None:
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
