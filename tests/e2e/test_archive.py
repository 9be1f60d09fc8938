"""A sandbox that was archived comes back whole: its record, its files, its id."""

from __future__ import annotations

import secrets
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.e2e.sdk.environments import python_of
from tests.e2e.test_persistence import changes, inventory
from tests.support.instance import REPOSITORY

if TYPE_CHECKING:
    from tests.support.api import Api
    from tests.support.instance import Instance
    from tests.support.remote import Server

pytestmark = pytest.mark.e2e


def test_a_whole_tree_survives_archive_and_start(api: Api) -> None:
    with api.sandbox() as sandbox:
        sandbox.root("mkdir /opt/kept && echo kept > /opt/kept/file && rm /etc/issue && sync")
        before = inventory(sandbox)
        sandbox.stop()
        assert sandbox.act("archive").status_code == 200
        sandbox.wait_for("archived", 60)
        sandbox.start()
        assert changes(before, inventory(sandbox)) == {}
        assert sandbox.check("cat /opt/kept/file").strip() == "kept"


def test_without_its_archive_a_start_says_why_and_loses_nothing(
    api: Api, embedded: Instance
) -> None:
    with api.sandbox() as sandbox:
        sandbox.check("echo kept > kept")
        sandbox.stop()
        sandbox.act("archive")
        sandbox.wait_for("archived", 60)
        kept = embedded.data / "archive" / sandbox.id
        away = kept.rename(kept.with_name("away"))
        for _ in range(2):
            failed = sandbox.act("start").json()
            assert failed["state"] == "error"
            assert f"the archive store file://{kept.parent} cannot be used" in failed["errorReason"]
            assert failed["recoverable"]
        away.rename(kept)
        sandbox.start()
        assert sandbox.check("cat kept").strip() == "kept"
        sandbox.stop()
        assert not any(kept.glob("*"))


def test_a_stock_sdk_resizes_archives_and_starts(server: Server) -> None:
    mark = secrets.token_hex(8)
    ran = subprocess.run(
        [python_of("newest"), "-m", "tests.e2e.sdk.life", mark],
        cwd=REPOSITORY,
        env={"PATH": "/usr/bin:/bin", **server.variables},
        capture_output=True,
        text=True,
        check=False,
        timeout=180,
    )
    assert (ran.returncode, ran.stdout.strip()) == (0, mark), ran.stderr[-4000:]
