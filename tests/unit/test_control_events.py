"""Events over Socket.IO, on a real WebSocket: who hears what."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio
import uvicorn
from websockets.asyncio.client import ClientConnection, connect

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.support.control_rig import Rig

pytestmark = [pytest.mark.unit, pytest.mark.asyncio(loop_scope="session")]


class Listener:
    """What a newest SDK does: no polling, the key in the first packet."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket

    async def say_hello(self, key: object) -> str:
        assert (await self.socket.recv())[0] == "0"
        await self.socket.send("40" + json.dumps({"token": key}))
        return str(await self.socket.recv())

    async def heard(self) -> tuple[str, dict[str, Any]]:
        async with asyncio.timeout(10):
            text = str(await self.socket.recv())
        assert text.startswith("42")
        name, content = json.loads(text[2:])
        return name, content


@pytest_asyncio.fixture(loop_scope="session")
async def url(rig: Rig) -> AsyncIterator[str]:
    config = uvicorn.Config(
        rig.control.app, port=0, ws="websockets-sansio", lifespan="off", log_level="warning"
    )
    server = uvicorn.Server(config)
    config.load()
    server.lifespan = config.lifespan_class(config)
    await server.startup()
    port = server.servers[0].sockets[0].getsockname()[1]
    yield f"ws://localhost:{port}/api/socket.io/?source=sdk-python&EIO=4&transport=websocket"
    server.should_exit = True
    await server.shutdown()


@contextlib.asynccontextmanager
async def listening(url: str, key: str) -> AsyncIterator[Listener]:
    async with connect(url, proxy=None) as socket:
        listener = Listener(socket)
        assert (await listener.say_hello(key)).startswith("40{")
        yield listener


async def test_an_organization_hears_of_its_own_sandboxes(rig: Rig, url: str) -> None:
    one, two = await rig.tenant("one"), await rig.tenant("two")
    async with listening(url, one.key) as ours, listening(url, two.key) as theirs:
        made = (await one.call("POST", "/sandbox", json={"env": {"A": "a secret"}})).json()
        name, content = await ours.heard()
        assert (name, content["id"], content["state"]) == (
            "sandbox.created",
            made["id"],
            "creating",
        )
        name, content = await ours.heard()
        assert name == "sandbox.state.updated"
        assert (content["oldState"], content["newState"]) == ("creating", "started")
        assert content["sandbox"]["id"] == made["id"]
        await one.call("POST", f"/sandbox/{made['id']}/stop")
        names = [(await ours.heard())[0] for _ in range(3)]
        assert sorted(names) == [
            "sandbox.desired-state.updated",
            "sandbox.state.updated",
            "sandbox.state.updated",
        ]
        other = (await two.call("POST", "/sandbox", json={})).json()
        name, content = await theirs.heard()  # the first that it hears of at all
        assert (name, content["id"]) == ("sandbox.created", other["id"])


@pytest.mark.parametrize("key", ["", "nonsense", None, {"a": 1}, f"yurt_00000000_{'0' * 64}"])
async def test_who_has_no_key_is_not_let_in(url: str, key: object) -> None:
    async with connect(url, proxy=None) as socket:
        said = await Listener(socket).say_hello(key)
        assert said.startswith("44")
        assert "Invalid credentials" in said


async def test_a_key_that_was_called_back_hears_nothing_more(rig: Rig, url: str) -> None:
    body = {"name": "ci", "permissions": []}
    key = (await rig.call("POST", "/api-keys", json=body)).json()["value"]
    async with listening(url, key) as listener:
        assert (await rig.call("DELETE", "/api-keys/ci")).status_code == 204
        await rig.create()
        async with asyncio.timeout(10):
            assert str(await listener.socket.recv()) == "41"


async def test_without_a_websocket_there_is_nothing(rig: Rig) -> None:
    answer = await rig.call("GET", "/socket.io/?EIO=4&transport=polling")
    assert answer.status_code == 404
