"""What unit tests share: one control over doubles, and how long properties are tried."""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio
from hypothesis import settings

from tests.support.control_rig import Rig, a_rig

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

MEMORY = Path("/dev/shm")


def pytest_configure(config: pytest.Config) -> None:
    """Try each property a few times; as often as Hypothesis does by itself with ``--all``."""
    settings.register_profile("few", max_examples=25, deadline=None)
    if not config.getoption("all_tiers", default=False):
        settings.load_profile("few")


@contextlib.contextmanager
def in_memory() -> Iterator[Path]:
    """A directory that no disk keeps: one that is busy would hold up each transaction."""
    base = MEMORY if MEMORY.is_dir() else None
    with tempfile.TemporaryDirectory(prefix="unit-tests-", dir=base) as directory:
        yield Path(directory)


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    with in_memory() as directory:
        yield directory


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def shared() -> AsyncIterator[Rig]:
    with in_memory() as directory:
        # What is seen each minute anyway would be seen in the midst of some test or other.
        async with a_rig(directory, domain="localhost,box.test", resync_seconds=3600) as rig:
            yield rig


@pytest_asyncio.fixture(loop_scope="session")
async def rig(shared: Rig) -> AsyncIterator[Rig]:
    """A control that knows nothing but its default snapshot and its first key."""
    yield shared
    await shared.wipe()
