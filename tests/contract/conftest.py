"""What contract tests share: a store in each database that there is an implementation for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from tests.support import postgres as postgres_server
from tests.support.records import Place, in_postgres, in_sqlite

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from control.store.sql import SqlStore
    from tests.support.postgres import Postgres


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A server of the tests' own, started by the first test that wants it."""
    with postgres_server.running() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgres"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """Where a store can be opened, more than once: an empty database of each kind."""
    if request.param == "sqlite":
        return in_sqlite(tmp_path)
    return in_postgres(request.getfixturevalue("postgres"))


@pytest.fixture
def shared(postgres: Postgres) -> Place:
    """An empty database that several controls can use."""
    return in_postgres(postgres)


@pytest_asyncio.fixture
async def store(place: Place) -> AsyncIterator[SqlStore]:
    """A store in each kind of database."""
    async with place.opened() as store:
        yield store
