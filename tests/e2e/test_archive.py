"""A sandbox that was archived comes back whole: its record, its files, its id."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.e2e.test_persistence import changes, inventory

if TYPE_CHECKING:
    from tests.support.api import Api

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
