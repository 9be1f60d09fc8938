"""The master key of a running server, rotated: its users notice nothing."""

from __future__ import annotations

import json
import secrets
from typing import TYPE_CHECKING

import pytest

from tests.support.waiting import eventually

if TYPE_CHECKING:
    from tests.support.api import Api
    from tests.support.instance import Instance

pytestmark = pytest.mark.e2e


def test_sandboxes_go_on_over_a_rotation_and_a_restart(embedded: Instance, api: Api) -> None:
    mark = secrets.token_hex(8)
    before = json.loads((embedded.data / "secrets.json").read_text())
    with api.sandbox(env={"CANARY": mark}) as old:
        said = embedded.run("keys", "rotate").stdout
        assert "keep your copy of those" in said
        after = json.loads((embedded.data / "secrets.json").read_text())
        assert after == {**before, "master_key": after["master_key"]}
        assert after["master_key"] != before["master_key"]
        assert old.check("echo $CANARY").strip() == mark
        with api.sandbox(env={"CANARY": mark[::-1]}) as new:
            embedded.down()
            embedded.up()
            eventually(api.answers, "the server to answer", seconds=30)
            for sandbox, expected in ((old, mark), (new, mark[::-1])):
                sandbox.start()
                assert sandbox.check("echo $CANARY").strip() == expected
