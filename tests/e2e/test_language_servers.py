"""The default snapshot's language servers, as users of a stock SDK have them."""

from __future__ import annotations

import json
import secrets
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.e2e.sdk.environments import python_of
from tests.support.instance import REPOSITORY

if TYPE_CHECKING:
    from tests.support.remote import Server

pytestmark = pytest.mark.e2e

ALL = {"completions": True, "document": True, "workspace": True, "sandbox": True}


@pytest.mark.parametrize("environment", ["newest", "v0_21"])
def test_a_stock_sdk_asks_the_servers_of_both_languages(server: Server, environment: str) -> None:
    ran = subprocess.run(
        [python_of(environment), "-m", "tests.e2e.sdk.lsp", f"Greeter{secrets.token_hex(4)}"],
        cwd=REPOSITORY,
        env={"PATH": "/usr/bin:/bin", **server.variables},
        capture_output=True,
        text=True,
        check=False,
        timeout=110,
    )
    assert ran.returncode == 0, ran.stderr[-4000:]
    assert json.loads(ran.stdout.splitlines()[-1]) == {"python": ALL, "typescript": ALL}
