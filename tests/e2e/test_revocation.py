"""What was called back is refused by the gate of a live sandbox, and what it had opened closes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from tests.support.api import Api, Sandbox
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from tests.support.remote import Server

pytestmark = pytest.mark.e2e
PAGE = Path(__file__).parent / "inside" / "page.py"
PORT = 8766


def is_open(terminal: ClientConnection) -> bool:
    try:
        terminal.recv(0.01)
    except TimeoutError:
        return True
    except ConnectionClosed:
        return False
    return True  # the shell said something


def open_terminal(sandbox: Sandbox, key: str, name: str) -> ClientConnection:
    path = f"/toolbox/{sandbox.id}/process/pty"
    base = sandbox.api.base_url
    authorization = {"Authorization": f"Bearer {key}"}
    answer = httpx.post(
        f"{base}{path}", json={"id": name}, headers=authorization, trust_env=False, timeout=20
    )
    assert answer.status_code == 201, answer.text
    url = f"{base.replace('http', 'ws', 1)}{path}/{name}/connect"
    return connect(url, additional_headers=authorization, proxy=None)


def test_a_revoked_key_is_refused_and_its_terminal_closes(server: Server, api: Api) -> None:
    body = {"name": "revocation-test", "permissions": ["write:sandboxes"]}
    with api.sandbox() as sandbox:
        answer = api.call("POST", "/api-keys", json=body)
        assert answer.status_code == 201, answer.text
        key = answer.json()["value"]
        other = Api(server, key)
        try:
            theirs = Sandbox(other, sandbox.id)
            eventually(
                lambda: theirs.toolbox("GET", "/project-dir").status_code == 200,
                "entry with the new key",
            )
            with (
                open_terminal(sandbox, key, "theirs") as terminal,
                open_terminal(sandbox, server.key, "ours") as ours,
            ):
                assert is_open(terminal)
                assert api.call("DELETE", "/api-keys/revocation-test").status_code == 204
                eventually(lambda: not is_open(terminal), "the end of the terminal")
                assert theirs.toolbox("GET", "/project-dir").status_code == 401
                assert is_open(ours)
        finally:
            other.close()
            api.call("DELETE", "/api-keys/revocation-test")


def test_what_was_public_is_refused_and_closed_once_it_is_private(api: Api) -> None:
    with api.sandbox(public=True) as sandbox:
        sandbox.upload(PAGE.read_bytes(), "/tmp/page.py")
        sandbox.background(f"python3 /tmp/page.py {PORT} hello")
        url, headers = sandbox.preview(PORT)
        socket = f"{url.replace('http', 'ws', 1)}/socket"

        def status(**fields: str) -> int:
            return httpx.get(url, headers=fields, trust_env=False).status_code

        eventually(lambda: status() == 200, "the public page", seconds=15)
        with (
            connect(socket, proxy=None) as public,
            connect(socket, additional_headers=headers, proxy=None) as private,
        ):
            assert public.recv(30) == private.recv(30) == "hello"
            answer = api.call("POST", f"/sandbox/{sandbox.id}/public/false")
            assert answer.status_code == 200, answer.text
            eventually(lambda: status() == 401, "a refusal")
            eventually(lambda: not is_open(public), "the end of what was open to all")
            assert is_open(private)
        assert status(**headers) == 200
