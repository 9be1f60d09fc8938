"""Events reach a client through Traefik, as they do the newest SDKs."""

from __future__ import annotations

import json
from itertools import islice
from typing import TYPE_CHECKING

import pytest
from websockets.sync.client import connect

if TYPE_CHECKING:
    from tests.support.api import Api
    from tests.support.remote import Server

pytestmark = pytest.mark.e2e


def test_a_client_is_told_of_a_start(server: Server, api: Api) -> None:
    base = server.base_url.replace("http", "ws", 1)
    url = f"{base}/api/socket.io/?source=sdk-python&EIO=4&transport=websocket"
    with connect(url, proxy=None) as socket:
        assert str(socket.recv(10))[0] == "0"
        socket.send("40" + json.dumps({"token": server.key}))
        assert str(socket.recv(10)).startswith("40{")
        with api.sandbox() as sandbox:
            # Sandboxes of other tests may still be going.
            told = (json.loads(str(socket.recv(60 * server.slowness))[2:]) for _ in range(20))
            own = (
                (name, content.get("newState"))
                for name, content in told
                if content.get("sandbox", content)["id"] == sandbox.id
            )
            assert list(islice(own, 2)) == [
                ("sandbox.created", None),
                ("sandbox.state.updated", "started"),
            ]
