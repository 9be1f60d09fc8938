"""Two tenants: every call that is served, and every way into a gate, with the other one's key."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio

from control.api.description import described
from control.previews import sign
from jobs.runner import gate_route
from jobs.runner.gate_auth import Policy
from jobs.runner.gate_http import RefusedError, RequestHead
from jobs.runner.gate_route import PREVIEW, TOOLBOX, Route
from tests.support.control_rig import complaint
from tests.support.records import a_snapshot

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from tests.support.control_rig import Rig, Tenant

pytestmark = [pytest.mark.unit, pytest.mark.asyncio(loop_scope="session")]

# What a call is about, by the beginning of its path: what the first parameter may be, so that the
# call means something of the other tenant. What is not here fails the test.
THINGS = {
    "/api/sandbox/{": ("sandbox id", "sandbox name"),
    "/api/snapshots/{": ("snapshot id", "snapshot name"),
    "/api/volumes/{": ("volume id",),
    "/api/volumes/by-name/{": ("volume name",),
    "/api/api-keys/{": ("key name",),
    "/api/organizations/{": ("organization id",),
    "/api/audit/organizations/{": ("organization id",),
}
# The other parameters, whatever the call: they have to be right for it to come that far.
VALUES = {"port": "3000", "token": "a-token", "value": "true", "minutes": "5", "region_id": "us"}
BODIES: dict[tuple[str, str], dict[str, Any]] = {
    ("PUT", "/api/sandbox/{name}/labels"): {"labels": {"a": "b"}},
    ("POST", "/api/sandbox/{name}/snapshot"): {"name": "of-a-sandbox"},
}
# These are about nothing that exists: what they answer must not tell of the other tenant.
LISTS = {
    "/api/sandbox",
    "/api/sandbox/paginated",
    "/api/snapshots",
    "/api/volumes",
    "/api/api-keys",
    "/api/api-keys/current",
    "/api/organizations",
    "/api/users/me",
    "/api/regions",
    "/api/shared-regions",
    "/api/config",
    "/api/health",
    "/api/health/ready",
    "/api/openapi.json",
}
# These make something of the caller's own; that names do not collide is tested elsewhere.
MAKING = {
    "/api/sandbox",
    "/api/snapshots",
    "/api/volumes",
    "/api/api-keys",
    "/api/organizations",
}


class World:
    """What one tenant has, and another one who wants it."""

    def __init__(
        self,
        rig: Rig,
        owner: Tenant,
        other: Tenant,
        sandbox: Mapping[str, Any],
        volume_id: str,
    ) -> None:
        self.rig, self.owner, self.other = rig, owner, other
        self.sandbox = sandbox
        self.names = {
            "sandbox id": str(sandbox["id"]),
            "sandbox name": "canary-sandbox",
            "snapshot id": "canary-snapshot-id",
            "snapshot name": "canary-snapshot",
            "volume id": volume_id,
            "volume name": "canary-volume",
            "key name": "canary-key",
            "organization id": owner.id,
        }
        # As different as can be, and of nobody: what is not there is answered like this.
        self.nobody = {
            "sandbox id": "2" * 26,
            "sandbox name": "nobody-s",
            "snapshot id": "nobody-s-id",
            "snapshot name": "nobody-s",
            "volume id": "5b1c1f1e-0000-4000-8000-00000000000f",
            "volume name": "nobody-s",
            "key name": "nobody-s",
            "organization id": "nobody-s-id",
        }


@pytest_asyncio.fixture(loop_scope="session")
async def world(rig: Rig) -> World:
    owner, other = await rig.tenant("canary-owner"), await rig.tenant("other")
    made = await owner.call("POST", "/sandbox", json={"name": "canary-sandbox"})
    key = {"name": "canary-key", "permissions": ["write:sandboxes"]}
    assert (await owner.call("POST", "/api-keys", json=key)).status_code == 201
    volume = await owner.call("POST", "/volumes", json={"name": "canary-volume"})
    found = World(rig, owner, other, made.json(), volume.json()["id"])
    await rig.store.snapshots.put(
        a_snapshot("canary-snapshot", id="canary-snapshot-id", organization_id=owner.id)
    )
    return found


def served(rig: Rig) -> Iterator[tuple[str, str]]:
    for path, operations in described(rig.control.api)["paths"].items():
        for method in operations:
            yield method.upper(), path


def things_of(path: str) -> Sequence[str]:
    found = [things for start, things in THINGS.items() if path.startswith(start)]
    assert found, f"{path} is not known here: say in THINGS what it is about"
    return found[0]


def written(path: str, thing: str) -> str:
    """Write a path about something."""
    first, *more = re.findall(r"\{(.*?)(?::path)?\}", path)
    values = {first: thing, **{name: VALUES[name] for name in more}}
    return re.sub(r"\{(.*?)(?::path)?\}", lambda match: values[match[1]], path)


async def test_no_call_reaches_what_another_tenant_has(world: World) -> None:
    before = (await world.owner.call("GET", "/sandbox/canary-sandbox")).json()
    tried = 0
    for method, path in served(world.rig):
        if "{" not in path:
            continue
        for kind in things_of(path):
            tried += 1
            said = []
            for thing in (world.names[kind], world.nobody[kind]):
                url = "http://localhost" + written(path, thing)
                body = BODIES.get((method, path), {})
                answer = await world.other.call(method, url, json=body)
                assert answer.status_code in {401, 404}, (method, path, kind, answer.text)
                said.append(complaint(answer).replace(thing, "it"))
            # It cannot be told from what is not there.
            assert said[0] == said[1], (method, path, kind)
    assert tried >= 30
    await world.rig.settle()
    assert (await world.owner.call("GET", "/sandbox/canary-sandbox")).json() == before
    assert (await world.owner.call("GET", "/api-keys/canary-key")).status_code == 200
    assert (await world.owner.call("GET", "/snapshots/canary-snapshot")).status_code == 200
    volume = (await world.owner.call("GET", "/volumes/by-name/canary-volume")).json()
    assert volume["state"] in {"pending_create", "ready"}


async def test_no_list_tells_of_what_another_tenant_has(world: World) -> None:
    for method, path in served(world.rig):
        if "{" in path:
            continue
        if method != "GET":
            assert path in MAKING, f"{method} {path} is not known here"
            continue
        assert path in LISTS, f"{path} is not known here"
        for fields in ({}, {"X-Daytona-SDK-Version": "0.21.0"}):
            answer = await world.other.call("GET", f"http://localhost{path}", headers=fields)
            assert answer.status_code == 200
            assert "canary" not in answer.text, path
            assert world.sandbox["id"] not in answer.text, path
            assert world.owner.id not in answer.text, path


async def test_a_foreign_snapshot_makes_no_sandbox(world: World) -> None:
    for name in ("canary-snapshot", "canary-snapshot-id"):
        answer = await world.other.call("POST", "/sandbox", json={"snapshot": name})
        assert answer.status_code == 400
        assert complaint(answer).startswith(f"Snapshot {name} not found.")


async def test_no_gate_lets_another_tenant_in(world: World) -> None:
    """Every way that a gate knows, with each thing that the other tenant has."""
    kinds = {
        value for name, value in vars(gate_route).items() if name.isupper() and type(value) is str
    }
    # Messages are sealed by a key of the node; that it is up may be known to whoever is near.
    assert kinds == {TOOLBOX, PREVIEW, gate_route.MESSAGE, gate_route.HEALTH}
    made = (await world.other.call("POST", "/sandbox", json={})).json()
    mine = await world.rig.store.sandboxes.get(made["id"])
    assert mine is not None
    sandbox_id = str(world.sandbox["id"])
    policy = Policy(sandbox_id, world.rig.runners[sandbox_id].assignment)
    now = world.rig.control.api.state.service.now().timestamp()
    token = mine.secrets.preview_token
    label = sign(mine, 3000, int(now) + 60).encode()
    routes = [
        Route(TOOLBOX, b"/files"),
        *(Route(PREVIEW, b"/", port) for port in (3000, 2280, 22222)),
        Route(PREVIEW, b"/", 3000, signature=label),
        Route(TOOLBOX, f"/files?DAYTONA_SANDBOX_AUTH_KEY={token}".encode()),
        Route(PREVIEW, f"/?DAYTONA_SANDBOX_AUTH_KEY={token}".encode(), 3000),
    ]
    fields = ("", f"Authorization: Bearer {world.other.key}", f"X-Daytona-Preview-Token: {token}")
    for route in routes:
        for field in fields:
            lines = ["GET / HTTP/1.1", "Host: h", *filter(None, [field]), "", ""]
            with pytest.raises(RefusedError) as refused:
                policy.admit(RequestHead("\r\n".join(lines).encode()), route, now)
            assert refused.value.status == 401
    own = ["GET / HTTP/1.1", "Host: h", f"Authorization: Bearer {world.owner.key}", "", ""]
    assert policy.admit(RequestHead("\r\n".join(own).encode()), routes[0], now)


async def test_the_edge_answers_for_a_foreign_sandbox_as_for_none(world: World) -> None:
    assert (await world.owner.call("POST", "/sandbox/canary-sandbox/stop")).status_code == 200
    said = []
    for sandbox_id in (str(world.sandbox["id"]), "2" * 26):
        for path in (f"/toolbox/{sandbox_id}/files", f"/api/toolbox/{sandbox_id}/toolbox/files"):
            answer = await world.other.call("GET", f"http://localhost{path}")
            assert answer.status_code == 404
            said.append(complaint(answer).replace(sandbox_id, "it"))
    assert len(set(said)) == 1
    mine = await world.owner.call("GET", f"http://localhost/toolbox/{world.sandbox['id']}/files")
    assert mine.status_code == 400
