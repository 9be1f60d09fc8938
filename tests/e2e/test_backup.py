"""A server's records lost and restored: its sandboxes are usable as before."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

import pytest

from tests.conftest import leaving_nothing
from tests.support.instance import Instance

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]


def test_after_a_loss_of_all_records_sandboxes_are_usable_again(tmp_path: Path) -> None:
    mark = secrets.token_hex(8)
    with Instance.temporary() as instance:
        instance.up()
        with leaving_nothing(instance, seconds=30) as api:
            sandbox = api.create(name="kept", env={"CANARY": mark})
            sandbox.check(f"echo {mark} > ~/file && sync ~/file")
            backup, keys = tmp_path / "backup", tmp_path / "keys"
            said = instance.run("backup", str(backup), "--keys", str(keys)).stdout
            assert "the master key" in said
            assert "stay where they are" in said
            assert mark.encode() not in backup.read_bytes()
            # Starts that the backup knows nothing of.
            sandbox.stop()
            sandbox.start()
            refused = instance.run("restore", str(backup), check=False)
            assert refused.returncode == 1
            assert "./yurt down" in refused.stdout
            instance.down()
            for lost in (*instance.data.glob("yurt.db*"), instance.data / "secrets.json"):
                lost.unlink()
            refused = instance.run("restore", str(backup), check=False)
            assert refused.returncode == 1
            assert "--keys" in refused.stdout
            instance.run("restore", str(backup), "--keys", str(keys))
            instance.up()
            sandbox.wait_for("stopped", seconds=30)
            sandbox.start()
            assert sandbox.check("cat ~/file; echo $CANARY").split() == [mark, mark]
            sandbox.delete()
