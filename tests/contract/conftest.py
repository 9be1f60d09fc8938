"""What contract tests share: stores, runners, and each kind of Nomad."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from tests.support import postgres as postgres_server
from tests.support.nomad_rig import KINDS, one_of
from tests.support.records import Place, in_postgres, in_sqlite
from tests.support.runner_rig import Rig
from tests.support.s3_server import S3Server

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from control.store.sql import SqlStore
    from tests.support.nomad_rig import Nomad
    from tests.support.postgres import Postgres


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    """A place where real runners hold sandboxes."""
    rig = Rig(tmp_path / "data")
    yield rig
    rig.close()


@pytest.fixture(scope="module", params=KINDS)
def every_nomad(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Nomad]:
    """A Nomad of each kind."""
    with one_of(request.param, tmp_path_factory.mktemp("nomad")) as every:
        yield every


@pytest.fixture
def nomad(every_nomad: Nomad) -> Iterator[Nomad]:
    """A Nomad of each kind, without jobs."""
    yield every_nomad
    every_nomad.purge()


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A server of the tests' own, started by the first test that wants it."""
    with postgres_server.running() as server:
        yield server


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A server that speaks S3, started by the first test that wants it."""
    with S3Server(tmp_path_factory.mktemp("s3") / "log") as server:
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
