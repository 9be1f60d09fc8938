"""A real sandbox gets more: memory and cores at once, disk at its next start."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.support.api import Api, Sandbox

pytestmark = pytest.mark.e2e
FILL = "python3 -c 'print(len(b\"x\" * (1400 << 20)) >> 20)'"


def resize(sandbox: Sandbox, **size: int) -> None:
    answer = sandbox.api.call("POST", f"/sandbox/{sandbox.id}/resize", json=size)
    assert answer.status_code == 200, answer.text


def test_a_sandbox_grows_and_keeps_everything(api: Api) -> None:
    with api.sandbox(cpu=1, memory=1, disk=3) as sandbox:
        sandbox.check("echo kept > kept")
        room = int(sandbox.check("df --output=size -m / | tail -n 1"))
        code, _ = sandbox.execute(FILL)
        assert code != 0
        resize(sandbox, cpu=2, memory=2)
        assert sandbox.check(FILL).strip() == "1400"
        sandbox.stop()
        resize(sandbox, disk=5)
        sandbox.start()
        assert int(sandbox.check("df --output=size -m / | tail -n 1")) > room + 1900
        assert sandbox.check("cat kept").strip() == "kept"
        shown = sandbox.record()
        assert (shown["cpu"], shown["memory"], shown["disk"]) == (2, 2, 5)
