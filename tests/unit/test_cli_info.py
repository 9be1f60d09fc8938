"""``yurt info``: what it looks at, with and without a server."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import uvicorn

from control import listen
from control.cli.info import gather, lines
from control.model import State
from control.settings import Settings
from control.store.opening import open_store
from control.vault import Vault, fingerprint, load_keys
from tests.support.records import a_sandbox

if TYPE_CHECKING:
    from pathlib import Path

    from control.asgi import Receive, Scope, Send

pytestmark = [pytest.mark.unit, pytest.mark.asyncio]

DETAILS = b'{"details": {"database": {"status": "up"}, "routes": {"status": "down"}}}'


async def kept(data: Path) -> Settings:
    """A data directory with one started and two stopped sandboxes, and no server."""
    settings = Settings(data=data)
    vault = Vault(load_keys(settings.data).master_key)
    async with open_store(settings.store, vault) as store:
        for number, state in enumerate((State.STARTED, State.STOPPED, State.STOPPED)):
            one = replace(a_sandbox(), name=f"s{number}", state=state, node="here")
            await store.sandboxes.insert(one, most=10)
    return settings


async def test_it_tells_what_is_kept_without_a_server(tmp_path: Path) -> None:
    settings = await kept(tmp_path)
    facts = await gather(settings)
    assert facts["sandboxes"] == {"started": 1, "stopped": 2}
    assert facts["health"] == {"up": False, "pid": None, "parts": {}}
    assert facts["database"]["kind"] == "SQLite"
    key = fingerprint(load_keys(tmp_path).master_key)
    assert facts["masterKey"] == {"fingerprint": key, "rotates": False}
    assert 0 < facts["disk"]["free"] < facts["disk"]["total"]
    assert facts["disk"]["promised"] > 0
    assert 0 < facts["memory"]["available"] < facts["memory"]["total"]
    text = "\n".join(lines(facts))
    for word in ("1 started, 2 stopped", "http://localhost:9878/api", "not up", str(tmp_path)):
        assert word in text


async def test_it_asks_the_server_how_it_is(tmp_path: Path) -> None:
    settings = await kept(tmp_path)
    settings.socket_path.parent.mkdir()

    async def control(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": DETAILS})

    server = uvicorn.Server(uvicorn.Config(control, lifespan="off", log_config=None))
    serving = asyncio.create_task(server.serve([listen.on_path(settings.socket_path)]))
    facts = await gather(settings)
    server.should_exit = True
    await serving
    assert facts["health"]["parts"] == {"database": "up", "routes": "down"}
    assert "does not reach: routes" in "\n".join(lines(facts))


async def test_the_database_is_named_without_its_password(tmp_path: Path) -> None:
    load_keys(tmp_path)
    url = "postgresql://yurt:hidden-word@127.0.0.1:1/records"
    facts = await gather(Settings(data=tmp_path, database_url=url))
    assert facts["database"]["where"] == "127.0.0.1/records"
    assert "no connection" in facts["database"]["says"]
    assert "hidden-word" not in "\n".join(lines(facts)) + str(facts)
