"""A sandbox that was archived comes back whole: its record, its files, its id."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.e2e.test_persistence import changes, inventory

if TYPE_CHECKING:
    from tests.support.api import Api
    from tests.support.instance import Instance

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
