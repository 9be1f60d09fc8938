"""The store in PostgreSQL, which several controls share.

Knows how to connect, how long to wait, and how to hear of others' changes; the statements are those
of every store.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import asyncpg  # type: ignore[import-untyped]
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from control.errors import UnavailableError
from control.store.changes import changes
from control.store.database import Database, errors
from control.store.migrate import upgrade
from control.store.sql import SqlStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from control.vault import Vault

_CONNECTIONS = 10
_WRITERS = 8
_CONNECT_SECONDS = 5.0
_MIGRATE_SECONDS = 600.0
_STATEMENT_SECONDS = 8.0
_OVER_STATEMENT = 1.25  # the server is the first to give up: its word is clearer


@asynccontextmanager
async def open_postgres(
    url: str, vault: Vault, *, statement_seconds: float = _STATEMENT_SECONDS
) -> AsyncIterator[SqlStore]:
    """Open the store, made or brought up to date first, by one process of all that try.

    ``url`` is as libpq takes it. A database that goes away later is found again when it is back.

    Raises:
        UnavailableError: no connection; the text says why.
    """
    await _migrate(url)
    own: set[int] = set()
    connect = partial(_connect, url, statement_seconds, own)
    engine = create_async_engine(
        "postgresql+asyncpg://",
        async_creator=connect,
        isolation_level="READ COMMITTED",  # what locks and then counts must see what came before
        pool_size=_CONNECTIONS,
        max_overflow=0,
        pool_timeout=statement_seconds,
    )
    # A statement of its own needs no transaction, which would be two more messages.
    reader = engine.execution_options(isolation_level="AUTOCOMMIT")
    database = Database(engine, reader, writers=_WRITERS)
    try:
        yield SqlStore(database, vault, partial(changes, connect, own))
    finally:
        await database.finish()
        await engine.dispose()


async def _migrate(url: str) -> None:
    engine = create_async_engine(
        "postgresql+asyncpg://",
        async_creator=partial(_connect, url, _MIGRATE_SECONDS, set()),
        isolation_level="READ COMMITTED",
        poolclass=NullPool,
    )
    with errors():
        async with engine.begin() as connection:
            await connection.run_sync(upgrade)


async def _connect(url: str, statement_seconds: float, own: set[int]) -> Any:
    """Connect with time-outs of the server's and of our own.

    ``own`` has the id of the server's process that works for us, as long as it does.

    Raises:
        UnavailableError: it cannot be reached, or lets nobody in.
    """
    statement_ms = round(statement_seconds * 1000)
    try:
        connection = await asyncpg.connect(
            url,
            timeout=_CONNECT_SECONDS,
            command_timeout=statement_seconds * _OVER_STATEMENT,
            server_settings={
                "application_name": "yurt",
                "statement_timeout": str(statement_ms),
                "idle_in_transaction_session_timeout": str(2 * statement_ms),
                "jit": "off",  # costs more than it saves in statements as small as ours
            },
        )
        # Asked, not taken from the handshake: that may have been with a pooler before the server.
        pid = await connection.fetchval("SELECT pg_backend_pid()")
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        why = str(error) or "it does not answer"
        raise UnavailableError(f"no connection to the database: {why}") from error
    own.add(pid)
    connection.add_termination_listener(lambda _: own.discard(pid))
    return connection
