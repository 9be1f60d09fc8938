"""Two organizations on a live server: each way into a gate, with what opens the other one's.

The calls of the toolbox are those of the agent's own table, so a new one is tried, too; one with a
parameter that is not known here fails.
"""

from __future__ import annotations

import base64
import contextlib
import hmac
import re
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

import httpx
import pytest

from tests.support.api import Api
from tests.support.processes import holder_of_lock
from tests.support.waiting import eventually
from yurt_agent.routes import ROUTES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.api import Sandbox
    from tests.support.instance import Instance
    from tests.support.remote import Server

pytestmark = pytest.mark.security

PROGRAM = Path(__file__).parent / "inside" / "echo.py"
PORT = 3000
PORTS = (PORT, 2280, 22222)
NAMES = {
    "port": "3000",
    "session": "theirs",
    "command": "theirs",
    "terminal": "theirs",
    "context": "theirs",
}
CALLS = [
    (method, re.sub(r"\{(.*?)\}", lambda match: NAMES[match[1]], path))
    for method, path, _ in ROUTES
]
UPGRADE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}
NAVIGATION = {"Sec-Fetch-Site": "none", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}


class Tenant(NamedTuple):
    """One organization with a sandbox, in which an app listens that counts."""

    key: str
    sandbox: Sandbox

    @property
    def token(self) -> str:
        return self.sandbox.preview(PORT)[1]["X-Daytona-Preview-Token"]

    def signed_host(self, port: int) -> str:
        path = f"/sandbox/{self.sandbox.id}/ports/{port}/signed-preview-url"
        return urlsplit(str(self.sandbox.api.call("GET", path).json()["url"])).netloc

    def cookie(self) -> str:
        """What a browser gets that opens a page with the token."""
        url, header = self.sandbox.preview(PORT)
        answer = httpx.get(url, headers=header | NAVIGATION, trust_env=False)
        return str(answer.headers["set-cookie"]).partition(";")[0]

    def requests(self) -> int:
        """How often its app was asked until now."""
        url, header = self.sandbox.preview(PORT)
        number: int = httpx.get(url, headers=header, trust_env=False).json()["number"]
        return number

    def state(self) -> str:
        """What calls of the toolbox would have changed."""
        asked = ("/process/session", "/process/pty", "/process/interpreter/context")
        said = [self.sandbox.toolbox("GET", path).text for path in asked]
        return "\n".join([*said, self.sandbox.check("env; ls -laR ~ /tmp")])


@contextlib.contextmanager
def tenant(server: Server, operator: Api, name: str) -> Iterator[Tenant]:
    made = operator.call("POST", "/organizations", json={"name": name})
    assert made.status_code == 201, made.text
    key = made.json()["apiKey"]["value"]
    api = Api(server, key)
    with api.sandbox() as sandbox:
        sandbox.upload(PROGRAM.read_bytes(), "/tmp/echo.py")
        sandbox.background(f"python3 /tmp/echo.py {PORT}")
        url, header = sandbox.preview(PORT)

        def listens() -> bool:
            return httpx.get(url, headers=header, trust_env=False).status_code == 200

        eventually(listens, "its app", seconds=30)
        yield Tenant(key, sandbox)
    api.close()
    path = f"/organizations/{made.json()['id']}"
    eventually(lambda: operator.call("DELETE", path).status_code == 204, "its end", seconds=30)


@pytest.fixture(scope="module")
def tenants(server: Server, api: Api) -> Iterator[tuple[Tenant, Tenant]]:
    """Who owns something, and somebody else."""
    with tenant(server, api, "owner") as owner, tenant(server, api, "other") as other:
        yield owner, other


@pytest.fixture
def owner(tenants: tuple[Tenant, Tenant]) -> Tenant:
    return tenants[0]


@pytest.fixture
def other(tenants: tuple[Tenant, Tenant]) -> Tenant:
    return tenants[1]


@pytest.fixture
def stranger() -> Iterator[httpx.Client]:
    """A client that brings nothing by itself."""
    with httpx.Client(trust_env=False, timeout=60) as client:
        yield client


def toolboxes(tenant: Tenant) -> list[str]:
    """Where the toolbox of a sandbox is."""
    base, sandbox_id = tenant.sandbox.api.base_url, tenant.sandbox.id
    older = f"{base}/api/toolbox/{sandbox_id}/toolbox"
    return [f"{base}/toolbox/{sandbox_id}", older, tenant.sandbox.preview(2280)[0]]


def shown(tenant: Tenant) -> list[tuple[dict[str, str], dict[str, str]]]:
    """Fields and queries by which a tenant gets in."""
    key, token = tenant.key, tenant.token
    return [
        ({}, {}),
        ({"Authorization": f"Bearer {key}"}, {}),
        ({"X-Daytona-Preview-Token": token}, {}),
        ({"Cookie": tenant.cookie()}, {}),
        ({}, {"DAYTONA_SANDBOX_AUTH_KEY": token}),
        ({}, {"DAYTONA_SANDBOX_AUTH_KEY": key}),
    ]


def test_no_call_of_a_toolbox_is_let_in_with_what_is_another_tenants(
    owner: Tenant, other: Tenant, stranger: httpx.Client
) -> None:
    before = owner.state()
    for base in toolboxes(owner):
        for fields, query in shown(other):
            for method, path in CALLS:
                for more in ({}, UPGRADE) if method == "GET" else ({},):
                    answer = stranger.request(
                        method, base + path, params=query, headers=fields | more, json={}
                    )
                    assert answer.status_code in {401, 404}, (method, base + path, fields, query)
                    assert "Cannot" not in answer.text, "it reached the agent"
    assert owner.state() == before


def test_each_call_of_a_toolbox_is_let_in_with_its_owners_key(
    owner: Tenant, stranger: httpx.Client
) -> None:
    """Else the test before would show nothing."""
    fields = {"Authorization": f"Bearer {owner.key}"}
    for base in toolboxes(owner):
        for method, path in CALLS:
            answer = stranger.request(method, base + path, headers=fields, json={})
            assert answer.status_code != 401, (method, base + path)
            assert "Cannot" not in answer.text, (method, base + path)


def test_no_preview_is_opened_with_what_is_another_tenants(
    owner: Tenant, other: Tenant, stranger: httpx.Client
) -> None:
    begin = owner.requests()
    hosts = [urlsplit(owner.sandbox.preview(port)[0]).netloc for port in PORTS]
    # The label that opens the other one's, behind this one's id.
    for port in PORTS:
        label = other.signed_host(port).partition(".")[0].rpartition("-")[2]
        plain = urlsplit(owner.sandbox.preview(port)[0]).netloc
        name, dot, rest = plain.partition(".")
        hosts.append(f"{name}-{label}{dot}{rest}")
    for host in hosts:
        for fields, query in shown(other):
            for more in ({}, UPGRADE, NAVIGATION):
                for method in ("GET", "POST", "DELETE"):
                    url = f"http://{host}/"
                    answer = stranger.request(method, url, params=query, headers=fields | more)
                    assert answer.status_code in {401, 404}, (method, host, fields, query, more)
    assert owner.requests() == begin + 1  # it was asked for this number alone


def test_a_link_to_a_file_is_for_no_other_sandbox(
    owner: Tenant, other: Tenant, stranger: httpx.Client
) -> None:
    api = other.sandbox.api
    key = api.call("GET", f"/sandbox/{other.sandbox.id}/signing-key").json()
    digest = hmac.digest(key.encode(), b"v1:files:GET:/etc/hosts:0", "sha256")
    signature = "v1_" + base64.urlsafe_b64encode(digest).decode().rstrip("=")
    query = {"path": "/etc/hosts", "expires": "0", "signature": signature}
    for whose, expected in ((other, 200), (owner, 401)):
        for base in toolboxes(whose)[:2]:
            answer = stranger.get(f"{base}/files/download", params=query)
            assert answer.status_code == expected


def test_nobody_else_wakes_a_sandbox(
    owner: Tenant, other: Tenant, stranger: httpx.Client, embedded: Instance
) -> None:
    """Where it does not run, control decides as its gate would."""
    sandbox = owner.sandbox
    opened = shown(other)
    holder_of_lock(embedded.data / "run" / "sandboxes" / sandbox.id / "lock").kill()
    sandbox.wait_for("stopped")
    generation = sandbox.record()["updatedAt"]
    for base in [*toolboxes(owner), sandbox.preview(PORT)[0]]:
        for fields, query in opened:
            for more in ({}, UPGRADE, NAVIGATION):
                answer = stranger.get(base + "/files", params=query, headers=fields | more)
                assert answer.status_code in {401, 404}, (base, fields, query, more)
    record = sandbox.record()
    assert (record["state"], record["updatedAt"]) == ("stopped", generation)
    # Whose it is wakes it by the same.
    assert sandbox.toolbox("GET", "/files").status_code == 200
