"""The language servers of the default snapshot: that all they need is copied, and pinned."""

from __future__ import annotations

import importlib.metadata
import json
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from jobs.language_servers import DISTRIBUTIONS

pytestmark = pytest.mark.unit

NODE = Path(__file__).parents[2] / "image/slim/node"
SNAPSHOT = {"python_version": "3.11", "python_full_version": "3.11.2", "extra": ""}


def needed(name: str) -> set[str]:
    """Return a package and all that it needs on the snapshot's Python."""
    found, waiting = set[str](), [name]
    while waiting:
        one = canonicalize_name(waiting.pop())
        if one not in found:
            found.add(one)
            for line in importlib.metadata.requires(one) or ():
                requirement = Requirement(line)
                if requirement.marker is None or requirement.marker.evaluate(SNAPSHOT):
                    waiting.append(requirement.name)
    return found


def test_all_that_the_python_server_needs_is_copied() -> None:
    assert needed("jedi-language-server") == set(DISTRIBUTIONS)


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_what_is_copied_runs_on_any_processor(name: str) -> None:
    files = importlib.metadata.files(name) or []
    assert files
    assert [file for file in files if file.suffix == ".so"] == []


def test_what_npm_installs_is_pinned_by_digests_and_names_no_registry() -> None:
    text = (NODE / "package-lock.json").read_text()
    wanted = json.loads((NODE / "package.json").read_text())["dependencies"]
    locked = json.loads(text)["packages"]
    assert "://" not in text
    assert {name: locked[f"node_modules/{name}"]["version"] for name in wanted} == wanted
    for name, package in locked.items():
        assert name == "" or package["integrity"].startswith("sha512-")
