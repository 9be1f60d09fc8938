"""What a running sandbox may reach is changed while it runs, also for connections that are open."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.security.outside import PORT, PUBLIC, Outside
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from tests.support.api import Api, Sandbox

pytestmark = pytest.mark.security

TRY = (
    "python3 -c 'import socket; "
    f'print(socket.create_connection(("{PUBLIC}", {PORT}), 1).recv(9))\''
)


def reaches(sandbox: Sandbox) -> bool:
    code, text = sandbox.execute(TRY)
    return code == 0 and "HTTP/1.0" in text


def settle(sandbox: Sandbox, **settings: object) -> None:
    answer = sandbox.api.call("POST", f"/sandbox/{sandbox.id}/network-settings", json=settings)
    assert answer.status_code == 200, answer.text


def test_a_live_sandbox_is_closed_and_opened(api: Api, outside: Outside) -> None:
    with api.sandbox() as sandbox:
        assert reaches(sandbox)
        settle(sandbox, networkBlockAll=True)
        eventually(lambda: not reaches(sandbox), "nothing to be reached")
        settle(sandbox, networkAllowList=f"{PUBLIC}/32")
        eventually(lambda: reaches(sandbox), "the one that is allowed to be reached")
        settle(sandbox, networkAllowList="192.0.2.0/24")
        eventually(lambda: not reaches(sandbox), "only others to be allowed")
        settle(sandbox, networkBlockAll=False)
        eventually(lambda: reaches(sandbox), "everything to be reached again")
    assert outside.packets
