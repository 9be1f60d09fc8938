"""Records and stores for tests of control."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import sqlite3
import tempfile
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import create_engine

from control.model import Permission, Resources, Sandbox, Snapshot, Volume
from control.naming import new_sandbox_id
from control.store.migrate import upgrade
from control.store.opening import open_store
from control.vault import Vault

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from control.store.sql import SqlStore
    from tests.support.postgres import Postgres

NOW = datetime(2026, 1, 2, 3, 4, 5, 678000, tzinfo=UTC)
VAULT = Vault(bytes(32))
ALL = frozenset(Permission)


def a_sandbox(**fields: Any) -> Sandbox:
    """Make a record; ``minutes`` moves all its times."""
    moment = NOW + timedelta(minutes=fields.pop("minutes", 0))
    sandbox_id = fields.pop("id", None) or new_sandbox_id(int(moment.timestamp() * 1000))
    defaults: dict[str, Any] = {
        "name": f"name-{sandbox_id}",
        "snapshot": "default",
        "image_id": "0" * 64,
        "user": "daytona",
        "resources": Resources(1, 1, 3),
        "created_at": moment,
        "updated_at": moment,
        "changed_at": moment,
        "last_activity_at": moment,
    }
    return Sandbox(id=sandbox_id, **{**defaults, **fields})


def a_snapshot(name: str = "default", **fields: Any) -> Snapshot:
    defaults: dict[str, Any] = {
        "id": "5b1c1f1e-0000-4000-8000-000000000001",
        "image_id": "0" * 64,
        "user": "daytona",
        "resources": Resources(1, 1, 3),
        "size_bytes": 1 << 30,
        "created_at": NOW,
        "updated_at": NOW,
    }
    return Snapshot(name=name, **{**defaults, **fields})


def a_volume(**fields: Any) -> Volume:
    volume_id = fields.pop("id", None) or str(uuid.uuid4())
    defaults = {"name": f"name-{volume_id}", "size_gib": 2, "created_at": NOW, "updated_at": NOW}
    return Volume(id=volume_id, **{**defaults, **fields})


@functools.cache
def _template() -> bytes:
    """Make a database once for all tests: the migrations are the slow part."""
    with tempfile.TemporaryDirectory(prefix="yurt-store-") as directory:
        path = Path(directory) / "template.db"
        engine = create_engine(f"sqlite:///{path}")
        with engine.begin() as connection:
            upgrade(connection)
        engine.dispose()
        with contextlib.closing(sqlite3.connect(path)) as connection_:
            connection_.execute("PRAGMA journal_mode=WAL")
        return path.read_bytes()


@dataclass(frozen=True)
class Place:
    """One database: what opens it, the directory of its files, and what a server calls it."""

    where: str | Path
    files: Path
    name: str = ""

    def opened(self, vault: Vault = VAULT) -> AbstractAsyncContextManager[SqlStore]:
        return open_store(self.where, vault)

    def stored(self) -> bytes:
        """Read all that is on the disk."""
        return b"".join(path.read_bytes() for path in self.files.rglob("*") if path.is_file())


def in_sqlite(directory: Path) -> Place:
    path = directory / "yurt.db"
    if not path.exists():
        path.write_bytes(_template())
    return Place(path, directory)


@functools.cache
def _postgres_template(server: Postgres) -> str:
    """Make a database once for all tests of this server."""
    name = server.new_database()

    async def migrate() -> None:
        async with open_store(server.url(name), VAULT) as store:
            await store.ping()

    # In a thread, so that it can be used from where a loop is there already.
    with ThreadPoolExecutor(1) as threads:
        threads.submit(asyncio.run, migrate()).result()
    return name


def in_postgres(server: Postgres) -> Place:
    name = server.new_database(template=_postgres_template(server))
    return Place(server.url(name), server.data, name)


def a_store(directory: Path) -> AbstractAsyncContextManager[SqlStore]:
    return in_sqlite(directory).opened()
