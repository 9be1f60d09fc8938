"""Every call of the API: which key opens it."""

from __future__ import annotations

import re

import pytest
from fastapi.routing import APIRoute

from control.api.caller import Needs
from control.app import _ROUTERS
from tests.support.control_rig import Rig, complaint

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
        ("GET", "/api/sandbox/{name}/build-logs"),
        ("GET", "/api/sandbox/{name}/build-logs-url"),
        ("GET", "/api/snapshots/{name:path}/build-logs"),
        ("GET", "/api/snapshots/{name:path}/build-logs-url"),
        ("GET", "/api/api-keys/current"),
        ("GET", "/api/snapshots"),
        ("GET", "/api/snapshots/{name:path}"),
        ("GET", "/api/regions"),
        ("GET", "/api/shared-regions"),
        ("GET", "/api/organizations"),
        ("GET", "/api/organizations/{organization_id}"),
        ("GET", "/api/organizations/{organization_id}/usage"),
        ("GET", "/api/users/me"),
        ("GET", "/api/openapi.json"),
    },
    DELETE: {("DELETE", "/api/sandbox/{name}")},
    "read:audit_logs": {("GET", "/api/audit/organizations/{organization_id}")},
    "read:volumes": {
        ("GET", "/api/volumes"),
        ("GET", "/api/volumes/by-name/{name}"),
        ("GET", "/api/volumes/{volume_id}"),
    },
    "write:volumes": {("POST", "/api/volumes")},
    "delete:volumes": {("DELETE", "/api/volumes/{volume_id}")},
    "write:snapshots": {
        ("POST", "/api/snapshots"),
        ("POST", "/api/snapshots/{name:path}/activate"),
        ("POST", "/api/snapshots/{name:path}/deactivate"),
    },
    "delete:snapshots": {("DELETE", "/api/snapshots/{name:path}")},
    MANAGE: {
        ("GET", "/api/api-keys"),
        ("POST", "/api/api-keys"),
        ("GET", "/api/api-keys/{name}"),
        ("DELETE", "/api/api-keys/{name}"),
        ("POST", "/api/organizations"),
        ("GET", "/metrics"),
        ("PATCH", "/api/organizations/{organization_id}/quota/{region_id}"),
        ("DELETE", "/api/organizations/{organization_id}"),
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


@pytest.mark.asyncio(loop_scope="session")
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
