"""What unit tests share: one control over doubles, and how long properties are tried."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest_asyncio
from hypothesis import settings

from tests.support.control_rig import Rig, a_rig

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import pytest


def pytest_configure(config: pytest.Config) -> None:
    """Try each property a few times; as often as Hypothesis does by itself with ``--all``."""
    settings.register_profile("few", max_examples=25, deadline=None)
    if not config.getoption("all_tiers", default=False):
        settings.load_profile("few")


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def shared(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Rig]:
    directory = tmp_path_factory.mktemp("control")
    async with a_rig(directory, domain="localhost,box.test") as rig:
        yield rig


@pytest_asyncio.fixture(loop_scope="session")
async def rig(shared: Rig) -> AsyncIterator[Rig]:
    """A control that knows nothing but its default snapshot and its first key."""
    yield shared
    await shared.wipe()
