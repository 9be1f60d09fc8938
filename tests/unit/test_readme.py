"""The README against the code."""

from __future__ import annotations

import importlib.metadata
import re
from pathlib import Path

import pytest

from control.settings import Settings

pytestmark = pytest.mark.unit

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


@pytest.mark.parametrize("name", sorted(Settings.model_fields))
def test_every_setting_is_in_the_readme_with_its_default(name: str) -> None:
    variable = f"YURT_{name.upper()}"
    (line,) = (
        line for line in README.splitlines() if line.startswith("|") and f"`{variable}`" in line
    )
    default = Settings.model_fields[name].default
    if default not in ("", None, False):
        assert f"`{default}`" in line


def test_the_readme_names_no_setting_that_does_not_exist() -> None:
    named = set(re.findall(r"YURT_([A-Z_]+)", README))
    assert named <= {name.upper() for name in Settings.model_fields}


def test_the_changelog_has_this_version() -> None:
    version = importlib.metadata.version("yurt-server")
    assert f"## [{version}]" in (ROOT / "CHANGELOG.md").read_text()
