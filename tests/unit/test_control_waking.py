"""Sandboxes that stopped by themselves are started by whoever comes to use them, and once."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from control import lifecycle, previews, waking
from control.app import now
from tests.support.control_rig import Rig, complaint, eventually

if TYPE_CHECKING:
    from control.asgi import Receive, Scope, Send
    from control.model import Sandbox
    from tests.support.control_rig import Runner

pytestmark = [pytest.mark.unit, pytest.mark.asyncio(loop_scope="session")]

PHRASE = "no IP address found. Is the Sandbox started?"
NAVIGATION = {"sec-fetch-site": "none", "sec-fetch-mode": "navigate", "accept": "text/html"}
BACKGROUND = {"sec-fetch-site": "same-origin", "sec-fetch-mode": "cors"}


class Gate:
    """Answers for every gate; notes what reached it."""

    def __init__(self) -> None:
        self.paths: list[bytes] = []

    async def pass_on(
        self, scope: Scope, receive: Receive, send: Send, address: tuple[str, int]
    ) -> None:
        self.paths.append(scope["raw_path"])
        await send({"type": "http.response.start", "status": 299, "headers": []})
        await send({"type": "http.response.body", "body": b"from the gate"})


class Sleeper:
    """A sandbox that a timer stopped, and how to reach it."""

    def __init__(self, rig: Rig, gate: Gate, sandbox_id: str) -> None:
        self.rig, self.gate, self.id = rig, gate, sandbox_id

    async def record(self) -> Sandbox:
        sandbox = await self.rig.store.sandboxes.get(self.id)
        assert sandbox is not None
        return sandbox

    async def starts(self) -> int:
        return (await self.record()).run.generation - 1

    async def toolbox(self, **more: Any) -> httpx.Response:
        return await self.ask(f"http://localhost/toolbox/{self.id}/files", **more)

    async def preview(self, *, port: str = "8080", **headers: str) -> httpx.Response:
        return await self.ask(f"http://{port}-{self.id}.localhost:9878/page", **headers)

    async def ask(self, url: str, **headers: str) -> httpx.Response:
        transport = httpx.ASGITransport(self.rig.control.app)
        async with httpx.AsyncClient(transport=transport, trust_env=False) as client:
            return await client.get(url, headers=headers)

    @property
    def key(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.rig.secrets.api_key}"}


async def sleeper(rig: Rig, gate: Gate, **body: Any) -> Sleeper:
    made = await rig.create(**body)
    record = await rig.store.sandboxes.get(made["id"])
    assert record is not None
    await rig.control.records.change(record.id, lambda s: lifecycle.collect(s, s, now()))
    rig.control.wake(record.id)
    await rig.until(record.id, "stopped")
    return Sleeper(rig, gate, record.id)


@pytest.fixture
def gate(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> Gate:
    gate = Gate()
    monkeypatch.setattr(rig.control.app._edge, "_forwarder", gate)
    return gate


async def test_fifty_at_once_are_one_start_and_all_are_served(rig: Rig, gate: Gate) -> None:
    asleep = await sleeper(rig, gate, public=True)
    half = [asleep.toolbox(**asleep.key) for _ in range(25)]
    pages = [asleep.preview(**NAVIGATION) for _ in range(25)]
    answers = await asyncio.gather(*half, *pages)
    assert {answer.status_code for answer in answers} == {299}
    assert len(gate.paths) == 50
    assert await asleep.starts() == 1
    assert (await rig.show(asleep.id))["state"] == "started"


async def test_one_that_crashed_wakes_too(rig: Rig, gate: Gate) -> None:
    made = await rig.create()
    rig.scheduler.end(made["id"], "killed", code=1)
    rig.control.wake(made["id"])
    await rig.until(made["id"], "stopped")
    asleep = Sleeper(rig, gate, made["id"])
    assert (await asleep.toolbox(**asleep.key)).status_code == 299
    assert await asleep.starts() == 1


async def test_one_that_its_user_stopped_sleeps_on(rig: Rig, gate: Gate) -> None:
    made = await rig.create(public=True)
    await rig.call("POST", f"/sandbox/{made['id']}/stop")
    asleep = Sleeper(rig, gate, made["id"])
    answer = await asleep.toolbox(**asleep.key)
    assert answer.status_code == 400
    assert PHRASE in complaint(answer)
    page = await asleep.preview(**NAVIGATION)
    assert page.status_code == 503
    assert PHRASE in page.text
    assert "refresh" not in page.headers
    assert await asleep.starts() == 0


async def test_one_that_is_being_stopped_by_its_timer_is_started_after_that(
    rig: Rig, gate: Gate
) -> None:
    made = await rig.create()
    record = await rig.store.sandboxes.get(made["id"])
    assert record is not None
    await rig.control.records.change(record.id, lambda s: lifecycle.collect(s, s, now()))
    asleep = Sleeper(rig, gate, made["id"])
    asking = asyncio.ensure_future(asleep.toolbox(**asleep.key))
    await asyncio.sleep(0.02)
    assert not asking.done()
    assert (await asleep.record()).state == "stopping"
    rig.control.wake(record.id)
    assert (await asking).status_code == 299
    assert await asleep.starts() == 1


async def test_the_background_of_an_open_page_wakes_nothing(rig: Rig, gate: Gate) -> None:
    asleep = await sleeper(rig, gate, public=True)
    for headers in (BACKGROUND, BACKGROUND | asleep.key, {}):
        answer = await asleep.preview(**headers)
        assert answer.status_code == 503
        assert PHRASE in complaint(answer)
    assert await asleep.starts() == 0


async def test_a_page_elsewhere_can_read_that_a_public_sandbox_sleeps(rig: Rig, gate: Gate) -> None:
    asleep = await sleeper(rig, gate, public=True)
    origin = {"origin": "https://app.example"}
    answer = await asleep.preview(**BACKGROUND, **origin)
    assert answer.headers["access-control-allow-origin"] == "*"
    asked = {"access-control-request-method": "PUT", "access-control-request-headers": "x-a"}
    transport = httpx.ASGITransport(rig.control.app)
    async with httpx.AsyncClient(transport=transport, trust_env=False) as client:
        url = f"http://8080-{asleep.id}.localhost:9878/"
        allowed = await client.options(url, headers={**origin, **asked})
    assert allowed.status_code == 204
    assert allowed.headers["access-control-allow-methods"] == "PUT"
    assert allowed.headers["access-control-allow-headers"] == "x-a"
    assert await asleep.starts() == 0


async def test_nobody_wakes_what_is_private_without_what_its_gate_would_take(
    rig: Rig, gate: Gate
) -> None:
    asleep = await sleeper(rig, gate)
    other = await rig.tenant("other")
    theirs = {"authorization": f"Bearer {other.key}"}
    for headers in (NAVIGATION, NAVIGATION | theirs, {}):
        assert (await asleep.preview(**headers)).status_code == 401
    assert (await asleep.toolbox()).status_code == 401
    assert (await asleep.toolbox(**theirs)).status_code == 404
    assert await asleep.starts() == 0
    label = previews.sign(await asleep.record(), 8080, int(now().timestamp()) + 60)
    assert (await asleep.preview(port="8081", **NAVIGATION)).status_code == 401
    signed = await asleep.ask(f"http://8080-{asleep.id}-{label}.localhost:9878/")
    assert signed.status_code == 299


async def test_a_port_that_is_never_public_is_not_woken_by_strangers(rig: Rig, gate: Gate) -> None:
    asleep = await sleeper(rig, gate, public=True)
    assert (await asleep.preview(port="2280", **NAVIGATION)).status_code == 401
    assert await asleep.starts() == 0


async def test_a_start_that_fails_is_told_to_all_who_wait(rig: Rig, gate: Gate) -> None:
    asleep = await sleeper(rig, gate)

    async def fail(runner: Runner) -> None:
        await runner.claim()
        rig.scheduler.end(runner.job.sandbox_id, "no such layer", code=1, phase="assign")
        rig.control.wake((await asleep.record()).id)

    rig.boots = fail
    asked = [asleep.toolbox(**asleep.key) for _ in range(5)]
    for answer in await asyncio.gather(*asked):
        assert answer.status_code == 400
        assert "no such layer" in complaint(answer)
    assert await asleep.starts() == 1
    page = await asleep.preview(**NAVIGATION, **asleep.key)
    assert page.status_code == 503
    assert "no such layer" not in page.text  # it may be read by anybody


async def test_what_an_organization_may_not_use_is_not_woken(rig: Rig, gate: Gate) -> None:
    asleep = await sleeper(rig, gate)
    path = "/organizations/default/quota/us"
    assert (await rig.call("PATCH", path, json={"totalCpuQuota": 0})).status_code == 204
    answer = await asleep.toolbox(**asleep.key)
    assert (await rig.call("PATCH", path, json={"totalCpuQuota": None})).status_code == 204
    assert answer.status_code == 400
    assert "CPU limit exceeded" in complaint(answer)
    assert await asleep.starts() == 0


async def test_only_so_many_wait(rig: Rig, gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waking, "MOST_WAITING_FOR_ONE", 3)
    asleep = await sleeper(rig, gate)
    rig.boots = None
    waiting = [asyncio.ensure_future(asleep.toolbox(**asleep.key)) for _ in range(3)]

    async def is_starting() -> bool:
        await asyncio.sleep(0)
        return bool(rig.runners[asleep.id].job.generation == 2)

    await eventually(is_starting)
    answer = await asleep.toolbox(**asleep.key)
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "1"
    assert "too many" in complaint(answer)
    await rig.runners[asleep.id].boot()
    assert [(await one).status_code for one in waiting] == [299] * 3
    assert (await asleep.toolbox(**asleep.key)).status_code == 299


async def test_whoever_opens_a_page_is_shown_that_it_takes_long(
    rig: Rig, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    asleep = await sleeper(rig, gate, public=True)
    rig.boots = None
    with monkeypatch.context() as patience:
        patience.setattr("control.edge.PAGE_SECONDS", 0.05)
        page = await asleep.preview(**NAVIGATION)
    assert page.status_code == 503
    assert "starting" in page.text
    assert page.headers["refresh"] == "1"
    again = asyncio.ensure_future(asleep.preview(**NAVIGATION))
    await rig.runners[asleep.id].boot()
    assert (await again).status_code == 299
    assert await asleep.starts() == 1
