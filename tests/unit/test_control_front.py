"""The first look at a request: whose is it? And what the edge answers."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from control.errors import UnavailableError
from control.naming import new_sandbox_id
from tests.support.control_rig import Rig, a_rig, complaint

if TYPE_CHECKING:
    from pathlib import Path

    from control.asgi import Receive, Scope, Send

pytestmark = [pytest.mark.unit, pytest.mark.asyncio(loop_scope="session")]

PHRASE = "no IP address found. Is the Sandbox started?"


class Forwarder:
    """Notes what would have been passed on."""

    def __init__(self) -> None:
        self.passed: list[tuple[bytes, tuple[str, int]]] = []
        self.is_away = False

    async def pass_on(
        self, scope: Scope, receive: Receive, send: Send, address: tuple[str, int]
    ) -> None:
        if self.is_away:
            raise UnavailableError("the sandbox does not answer; try again")
        self.passed.append((scope["raw_path"], address))
        await send({"type": "http.response.start", "status": 299, "headers": []})
        await send({"type": "http.response.body", "body": b"from the gate"})


@pytest.fixture
def forwarder(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> Forwarder:
    forwarder = Forwarder()
    monkeypatch.setattr(rig.control.app._edge, "_forwarder", forwarder)
    return forwarder


async def ask(rig: Rig, url: str, **headers: str) -> httpx.Response:
    """Ask without a key, unless one is given."""
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(rig.control.app), trust_env=False
    ) as client:
        return await client.get(url, headers={k.replace("_", "-"): v for k, v in headers.items()})


def key(rig: Rig) -> dict[str, str]:
    return {"authorization": f"Bearer {rig.secrets.api_key}"}


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:9878", "127.0.0.1:1", "[::1]:80", "box.test"]
)
async def test_the_api_answers_to_its_own_names(rig: Rig, host: str) -> None:
    assert (await ask(rig, "http://x/api/health", host=host)).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "localhost.evil.example", "x.localhost", "169.254.169.254", "127.1"]
)
async def test_the_api_answers_to_no_other_name(rig: Rig, host: str) -> None:
    answer = await ask(rig, "http://x/api/sandbox", host=host, **key(rig))
    assert answer.status_code == 421
    assert complaint(answer)


@pytest.mark.parametrize("method", ["GET", "OPTIONS"])
async def test_no_page_of_another_origin_may_read_the_api(rig: Rig, method: str) -> None:
    headers = {
        "origin": "https://elsewhere.example",
        "access-control-request-method": "GET",
        "access-control-request-headers": "authorization",
    }
    for path in ("/config", "/sandbox", "/nothing"):
        answer = await rig.call(method, path, headers=headers)
        assert not [name for name in answer.headers if name.startswith("access-control-")]


@pytest.mark.parametrize(
    "target", ["/api/sandbox/", "/api", "/api//evil.example/", "//evil.example/..", "/"]
)
async def test_nobody_is_redirected(rig: Rig, target: str) -> None:
    for forwarded in ({}, {"x-forwarded-host": "evil.example", "x-forwarded-proto": "https"}):
        answer = await rig.http.get(f"http://localhost{target}", headers=forwarded)
        assert answer.status_code == 404
        assert "location" not in answer.headers


async def test_a_preview_host_never_reaches_the_api(rig: Rig) -> None:
    host = f"80-{new_sandbox_id()}.localhost"
    answer = await ask(rig, "http://x/api/sandbox", host=host, **key(rig))
    assert answer.status_code == 404
    assert "Sandbox not found" in complaint(answer)


async def test_a_request_without_one_host_is_refused(rig: Rig) -> None:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        await asyncio.sleep(0)
        sent.append(message)

    two = [(b"host", b"localhost"), (b"host", b"80-x.localhost")]
    for headers in ([], two):
        scope = {
            "type": "http",
            "method": "GET",
            "path": "/api/health",
            "raw_path": b"/api/health",
            "query_string": b"",
            "headers": headers,
        }
        await rig.control.app(scope, asyncio.Event().wait, send)  # type: ignore[arg-type]
    assert [message["status"] for message in sent if "status" in message] == [400, 400]


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/index.html",
        "/internal",
        "/internal/report/",
        "/%69nternal/report",
        "//internal/report",
        "/api/%2e%2e/internal/report",
        "/toolbox/nope",
        "/docs",
        "/openapi.json",
        "/api/docs",
    ],
)
async def test_there_is_nothing_else(rig: Rig, path: str) -> None:
    answer = await ask(rig, f"http://localhost{path}", **key(rig))
    assert answer.status_code == 404
    assert complaint(answer).startswith("Cannot GET ")


@pytest.mark.parametrize("path", ["/toolbox/{}/files", "/api/toolbox/{}/toolbox/files"])
async def test_a_toolbox_that_sleeps_says_so_to_those_who_may_know(rig: Rig, path: str) -> None:
    made = await rig.create()
    await rig.call("POST", f"/sandbox/{made['id']}/stop")
    url = "http://localhost" + path.format(made["id"])
    assert (await ask(rig, url)).status_code == 401
    token = rig.runners[made["id"]].assignment["preview_token"]
    for headers in (key(rig), {"x-daytona-preview-token": token}):
        answer = await ask(rig, url, **headers)
        assert answer.status_code == 400
        assert PHRASE in complaint(answer)
    assert (await ask(rig, f"{url}?DAYTONA_SANDBOX_AUTH_KEY={token}")).status_code == 400
    assert (await ask(rig, f"{url}?DAYTONA_SANDBOX_AUTH_KEY=")).status_code == 401


async def test_an_unknown_toolbox_is_unknown_only_to_those_with_a_key(rig: Rig) -> None:
    url = f"http://localhost/toolbox/{new_sandbox_id()}/files"
    assert (await ask(rig, url)).status_code == 401
    answer = await ask(rig, url, **key(rig))
    assert answer.status_code == 404
    assert "not found" in complaint(answer)


async def test_a_key_that_may_not_write_does_not_enter(rig: Rig) -> None:
    body = {"name": "reader", "permissions": []}
    reader = (await rig.call("POST", "/api-keys", json=body)).json()["value"]
    url = f"http://localhost/toolbox/{new_sandbox_id()}/files"
    answer = await ask(rig, url, authorization=f"Bearer {reader}")
    assert answer.status_code == 401


async def test_a_preview_that_sleeps_is_503_with_the_phrase(rig: Rig) -> None:
    made = await rig.create(public=True)
    await rig.call("POST", f"/sandbox/{made['id']}/stop")
    host = f"8080-{made['id']}.localhost:9878"
    answer = await ask(rig, "http://x/", host=host, accept="application/json")
    assert answer.status_code == 503
    assert PHRASE in complaint(answer)
    assert "retry-after" not in answer.headers
    page = await ask(rig, "http://x/", host=host, accept="text/html,*/*")
    assert page.status_code == 503
    assert page.headers["content-type"].startswith("text/html")
    assert PHRASE in page.text


async def test_a_deleted_sandbox_s_preview_is_not_found(rig: Rig) -> None:
    made = await rig.create()
    await rig.call("DELETE", f"/sandbox/{made['id']}")
    await rig.until(made["id"], "destroyed")
    answer = await ask(rig, "http://x/", host=f"80-{made['id']}.localhost")
    assert answer.status_code == 404


async def test_what_is_up_is_passed_on_to_its_gate_unread(rig: Rig, forwarder: Forwarder) -> None:
    made = await rig.create()
    (route,) = await rig.registry.routes()
    address = (route.address, route.port)
    paths = (f"/toolbox/{made['id']}/files", f"/api/toolbox/{made['id']}/toolbox/a%2Fb")
    for path in paths:
        assert (await ask(rig, f"http://localhost{path}?x")).text == "from the gate"
    host = f"80-{made['id']}.box.test"
    assert (await ask(rig, "http://x/api/sandbox", host=host)).status_code == 299
    expected = [(path.encode(), address) for path in (*paths, "/api/sandbox")]
    assert forwarder.passed == expected


async def test_a_sandbox_that_is_starting_is_waited_for(rig: Rig, forwarder: Forwarder) -> None:
    runner = await rig.submitted()
    url = f"http://localhost/toolbox/{runner.job.sandbox_id}/files"
    asking = asyncio.ensure_future(ask(rig, url, **key(rig)))
    await asyncio.sleep(0.02)
    assert not asking.done()
    await runner.boot()
    assert (await asking).text == "from the gate"
    assert len(forwarder.passed) == 1


async def test_a_wait_has_an_end(tmp_path: Path) -> None:
    async with a_rig(tmp_path, hold_seconds=0.05) as rig:
        runner = await rig.submitted()
        url = f"http://localhost/toolbox/{runner.job.sandbox_id}/files"
        preview = {"host": f"80-{runner.job.sandbox_id}.localhost"}
        for asked, headers in ((url, {}), ("http://x/", preview)):
            answer = await ask(rig, asked, **key(rig), **headers)
            assert answer.status_code == 503
            assert "starting" in complaint(answer)
            assert answer.headers["retry-after"] == "1"


async def test_who_may_not_enter_waits_for_nothing(rig: Rig) -> None:
    runner = await rig.submitted()
    assert (await ask(rig, f"http://localhost/toolbox/{runner.job.sandbox_id}/")).status_code == 401
    host = f"80-{runner.job.sandbox_id}.localhost"
    assert (await ask(rig, "http://x/", host=host)).status_code == 401


async def test_a_gate_that_does_not_answer_is_a_503_to_try_again(
    rig: Rig, forwarder: Forwarder
) -> None:
    made = await rig.create()
    forwarder.is_away = True
    answer = await ask(rig, f"http://localhost/toolbox/{made['id']}/files", **key(rig))
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "1"


async def test_a_page_shows_nothing_that_a_visitor_wrote(rig: Rig) -> None:
    answer = await ask(
        rig, "http://x/<script>", host=f"80-{new_sandbox_id()}.localhost", accept="text/html"
    )
    assert answer.status_code == 404
    assert "<script>" not in answer.text
