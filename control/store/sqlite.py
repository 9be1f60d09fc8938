"""The store in one SQLite file."""

from __future__ import annotations

import asyncio
import os
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from control.naming import SandboxId
from control.store.database import Database
from control.store.migrate import upgrade
from control.store.sql import SqlStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from sqlalchemy import Connection

    from control.vault import Vault

_READERS = 4
_BUSY_MS = 5000


@asynccontextmanager
async def open_sqlite(path: Path, vault: Vault) -> AsyncIterator[SqlStore]:
    """Open the store, made or brought up to date first; other processes may have it open, too.

    What a transaction wrote is on the disk when it returns.
    """
    _make_private(path)
    writer = _engine(path, begin="BEGIN IMMEDIATE", connections=1)
    reader = _engine(path, begin=None, connections=_READERS)
    database = Database(writer, reader, writers=1)
    try:
        async with writer.begin() as connection:
            await connection.run_sync(upgrade)
        yield SqlStore(database, vault, _no_changes)
    finally:
        await database.finish()
        await reader.dispose()
        await writer.dispose()


async def _no_changes() -> AsyncIterator[SandboxId]:
    """Wait for ever: one control has this file, and knows what it wrote."""
    await asyncio.get_running_loop().create_future()
    yield SandboxId("")


def _make_private(path: Path) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))


def _engine(path: Path, *, begin: str | None, connections: int) -> AsyncEngine:
    engine = create_async_engine(
        f"sqlite+aiosqlite:///{path}",
        pool_size=connections,
        max_overflow=0,
        pool_reset_on_return="rollback" if begin else None,
    )

    @event.listens_for(engine.sync_engine, "connect")
    def _connect(connection: Any, _: object) -> None:
        connection.isolation_level = None  # transactions are begun here, not by the driver
        cursor = connection.cursor()
        for pragma in (
            f"busy_timeout={_BUSY_MS}",
            "journal_mode=WAL",
            "synchronous=FULL",
            "foreign_keys=ON",
        ):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    if begin:

        @event.listens_for(engine.sync_engine, "begin")
        def _begin(connection: Connection) -> None:
            connection.exec_driver_sql(begin)

    return engine
