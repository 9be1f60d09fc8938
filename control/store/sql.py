"""The store over SQL.

Writes go through one connection, one after the other: SQLite has one writer anyway, and a queue in
the process is fairer than its busy time-out. Reads have connections of their own.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from sqlalchemy import bindparam, delete, func, insert, literal, select, text, update
from sqlalchemy.exc import DBAPIError, IntegrityError, TimeoutError as PoolTimeoutError

from control.errors import ConflictError, InvalidError, NotFoundError, UnavailableError
from control.listing import Filter, Order, Page, SnapshotPage
from control.model import LIVE_STATES, ApiKey, Sandbox, Snapshot
from control.naming import SandboxId, is_sandbox_id
from control.store.queries import matching, ordered, position
from control.store.rows import (
    key_from,
    key_values,
    outline_from,
    sandbox_from,
    sandbox_values,
    snapshot_from,
    snapshot_values,
    to_ms,
)
from control.store.tables import api_keys, labels, sandboxes, snapshots

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence
    from datetime import datetime

    from sqlalchemy import Executable, Row
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

    from control.store import Outline
    from control.vault import Vault

_NO_ROOM = "Sandbox count limit exceeded. Maximum allowed: {most}."


# Built once: to build a statement costs as much as to carry it out.
_BY_ID = select(sandboxes).where(sandboxes.c.id == bindparam("key"))
_BY_ID_TO_CHANGE = _BY_ID.with_for_update()
_BY_NAME = select(sandboxes).where(sandboxes.c.name == bindparam("key"))
_INSERT = insert(sandboxes)
_REPLACE = (
    update(sandboxes)
    .where(sandboxes.c.id == bindparam("key"))
    .values({column: bindparam(column.name) for column in sandboxes.columns})
)


class Database:
    """Two engines over one database: one connection that writes, several that read."""

    def __init__(self, writer: AsyncEngine, reader: AsyncEngine) -> None:
        self._writer, self._reader = writer, reader
        self._writing = asyncio.Lock()

    @asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncConnection]:
        """Open a transaction that is committed at the end, or undone by an exception."""
        async with self._writing:
            with _errors():
                async with self._writer.begin() as connection:
                    yield connection

    async def rows(
        self, statement: Executable, parameters: Mapping[str, Any] | None = None
    ) -> Sequence[Row[Any]]:
        """Read."""
        with _errors():
            async with self._reader.connect() as connection:
                return (await connection.execute(statement, parameters)).all()


class _errors:  # noqa: N801 - used as a function; a generator would cost a frame per statement
    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, IntegrityError):
            raise ConflictError("the name is taken") from error
        if isinstance(error, DBAPIError | PoolTimeoutError):
            raise UnavailableError("the database does not answer; try again") from error


class SqlSandboxes:
    """``SandboxStore``."""

    def __init__(self, database: Database, vault: Vault) -> None:
        self._database, self._vault = database, vault

    async def insert(self, sandbox: Sandbox, *, most: int) -> None:
        """See ``SandboxStore.insert``."""
        values = sandbox_values(sandbox, self._vault)
        async with self._database.write() as connection:
            there = await connection.scalar(
                select(func.count()).select_from(sandboxes).where(matching(Filter()))
            )
            if there is not None and there >= most:
                raise InvalidError(_NO_ROOM.format(most=most))
            await connection.execute(_INSERT, values)
            await _write_labels(connection, sandbox.id, sandbox.labels)

    async def get(self, id_or_name: str) -> Sandbox | None:
        """See ``SandboxStore.get``."""
        statement = _BY_ID if is_sandbox_id(id_or_name) else _BY_NAME
        rows = await self._database.rows(statement, {"key": id_or_name})
        return sandbox_from(rows[0], self._vault) if rows else None

    async def change(self, sandbox_id: SandboxId, mutate: Callable[[Sandbox], Sandbox]) -> Sandbox:
        """See ``SandboxStore.change``."""
        key = {"key": sandbox_id}
        async with self._database.write() as connection:
            row = (await connection.execute(_BY_ID_TO_CHANGE, key)).one_or_none()
            if row is None:
                raise NotFoundError(f"Sandbox with ID or name {sandbox_id} not found")
            old = sandbox_from(row, self._vault)
            new = mutate(old)
            if new != old:
                await connection.execute(_REPLACE, {**sandbox_values(new, self._vault), **key})
            if new.labels != old.labels:
                await connection.execute(delete(labels).where(labels.c.sandbox_id == sandbox_id))
                await _write_labels(connection, sandbox_id, new.labels)
            return new

    async def remove(self, sandbox_id: SandboxId) -> None:
        """See ``SandboxStore.remove``."""
        async with self._database.write() as connection:
            await connection.execute(delete(labels).where(labels.c.sandbox_id == sandbox_id))
            await connection.execute(delete(sandboxes).where(sandboxes.c.id == sandbox_id))

    async def page(self, wanted: Filter, order: Order) -> Page:
        """See ``SandboxStore.page``."""
        statement = ordered(select(sandboxes).where(matching(wanted)), order)
        rows = await self._database.rows(statement)
        more = order.limit is not None and len(rows) > order.limit
        found = [sandbox_from(row, self._vault) for row in rows[: order.limit]]
        return Page(found, position(order, found[-1]) if more and found else None)

    async def count(self, wanted: Filter) -> int:
        """See ``SandboxStore.count``."""
        rows = await self._database.rows(
            select(func.count()).select_from(sandboxes).where(matching(wanted))
        )
        return int(rows[0][0])

    async def survey(self) -> list[Outline]:
        """See ``SandboxStore.survey``."""
        c = sandboxes.c
        rows = await self._database.rows(
            select(
                c.id,
                c.state,
                c.desired_state,
                c.generation,
                c.pushed_version,
                c.assignment_version,
                c.changed_at,
            )
        )
        return [outline_from(row) for row in rows]


async def _write_labels(
    connection: AsyncConnection, sandbox_id: SandboxId, pairs: Mapping[str, str]
) -> None:
    if pairs:
        rows = [{"sandbox_id": sandbox_id, "key": k, "value": v} for k, v in pairs.items()]
        await connection.execute(insert(labels), rows)


class SqlSnapshots:
    """``SnapshotStore``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def get(self, id_or_name: str) -> Snapshot | None:
        """See ``SnapshotStore.get``."""
        c = snapshots.c
        rows = await self._database.rows(
            select(snapshots)
            .where((c.id == id_or_name) | (c.name == id_or_name))
            .order_by((c.id == id_or_name).desc())
        )
        return snapshot_from(rows[0]) if rows else None

    async def put(self, snapshot: Snapshot) -> None:
        """See ``SnapshotStore.put``."""
        c = snapshots.c
        async with self._database.write() as connection:
            await connection.execute(
                delete(snapshots).where((c.id == snapshot.id) | (c.name == snapshot.name))
            )
            await connection.execute(insert(snapshots).values(snapshot_values(snapshot)))

    async def page(self, *, name: str, limit: int, offset: int) -> SnapshotPage:
        """See ``SnapshotStore.page``."""
        fits = func.instr(snapshots.c.name, name) > 0 if name else literal(value=True)
        order = (snapshots.c.created_at.desc(), snapshots.c.id)
        statement = select(snapshots).where(fits).order_by(*order).limit(limit).offset(offset)
        rows = await self._database.rows(statement)
        counted = await self._database.rows(select(func.count()).select_from(snapshots).where(fits))
        return SnapshotPage([snapshot_from(row) for row in rows], int(counted[0][0]))


class SqlKeys:
    """``KeyStore``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def all(self) -> list[ApiKey]:
        """See ``KeyStore.all``."""
        rows = await self._database.rows(
            select(api_keys).order_by(api_keys.c.created_at, api_keys.c.name)
        )
        return [key_from(row) for row in rows]

    async def insert(self, key: ApiKey) -> list[SandboxId]:
        """See ``KeyStore.insert``."""
        async with self._database.write() as connection:
            await connection.execute(insert(api_keys).values(key_values(key)))
            return await _raise_versions(connection)

    async def remove(self, name: str) -> list[SandboxId]:
        """See ``KeyStore.remove``."""
        async with self._database.write() as connection:
            gone = await connection.execute(delete(api_keys).where(api_keys.c.name == name))
            if gone.rowcount == 0:
                raise NotFoundError(f"API key {name} not found")
            return await _raise_versions(connection)

    async def used(self, times: Sequence[tuple[str, datetime]]) -> None:
        """See ``KeyStore.used``."""
        async with self._database.write() as connection:
            for name, moment in times:
                await connection.execute(
                    update(api_keys)
                    .where(api_keys.c.name == name)
                    .values(last_used_at=to_ms(moment))
                )


async def _raise_versions(connection: AsyncConnection) -> list[SandboxId]:
    c = sandboxes.c
    live = c.state.in_([state.value for state in LIVE_STATES])
    await connection.execute(
        update(sandboxes).where(live).values(assignment_version=c.assignment_version + 1)
    )
    rows = await connection.execute(select(c.id).where(live))
    return [SandboxId(row.id) for row in rows]


class SqlStore:
    """``Store``."""

    def __init__(self, database: Database, vault: Vault) -> None:
        self._database = database
        self.sandboxes = SqlSandboxes(database, vault)
        self.snapshots = SqlSnapshots(database)
        self.keys = SqlKeys(database)

    async def ping(self) -> None:
        """See ``Store.ping``."""
        await self._database.rows(text("SELECT 1"))
