"""On Debian 12's own kernel, with systemd and cgroup v2, a sandbox does what it does here."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.vm.prepared import HOME, checkout, prepared
from tests.vm.run import run

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.vm, pytest.mark.timeout(3600)]

SCRIPT = f"""#!/bin/bash
set -eux
update-ca-certificates
cd {HOME}
.venv/bin/python -m tests.vm.inside
"""


def test_a_sandbox_lives_on_debians_own_kernel(tmp_path: Path) -> None:
    tree = checkout(tmp_path / "tree")
    result = run(SCRIPT, prepared().copies(tree), timeout_seconds=2400)
    print(result.output)
    assert result.code == 0, f"{result.output[-4000:]}\n{result.dmesg[-2000:]}"
    assert "kernel 6.1." in result.output
    assert "nothing was left" in result.output
