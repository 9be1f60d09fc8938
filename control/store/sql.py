"""The store over SQL: sandboxes, snapshots, and all of it together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import (
    bindparam,
    delete,
    func,
    insert,
    select,
    text,
    union_all,
    update,
)

from control import quotas
from control.errors import InvalidError, NotFoundError
from control.listing import Filter, Order, Page
from control.model import (
    BUILDING_STATES,
    Sandbox,
    State,
    Usage,
    VolumeState,
)
from control.naming import SandboxId
from control.store import cluster
from control.store.database import Database, Turn, take_turn
from control.store.owners import SqlKeys, SqlOrganizations, require_room
from control.store.queries import matching, ordered, position, usage_of
from control.store.rekey import rekey
from control.store.repeats import SqlRepeats
from control.store.rows import (
    from_ms,
    outline_from,
    sandbox_from,
    sandbox_values,
    to_ms,
)
from control.store.snapshots import SqlBuildLogs, SqlSnapshots
from control.store.tables import labels, sandboxes, volumes
from control.store.trail import SqlTrail
from control.store.volumes import SqlVolumes, write_mounts

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping
    from datetime import datetime

    from sqlalchemy.ext.asyncio import AsyncConnection

    from control.store import Outline
    from control.vault import Vault

_NO_ROOM = "Sandbox count limit exceeded. Maximum allowed: {most}."


# Built once: to build a statement costs as much as to carry it out.
_BY_ID = select(sandboxes).where(sandboxes.c.id == bindparam("key"))
_BY_ID_TO_CHANGE = _BY_ID.with_for_update()
_BY_NAME = select(sandboxes).where(
    sandboxes.c.organization_id == bindparam("owner"), sandboxes.c.name == bindparam("key")
)
_INSERT = insert(sandboxes)
_REPLACE = (
    update(sandboxes)
    .where(sandboxes.c.id == bindparam("key"))
    .values({column: bindparam(column.name) for column in sandboxes.columns})
)


class SqlSandboxes:
    """``SandboxStore``."""

    def __init__(self, database: Database, vault: Vault) -> None:
        self._database, self._vault = database, vault

    async def insert(self, sandbox: Sandbox, *, most: int) -> None:
        """See ``SandboxStore.insert``."""
        values = sandbox_values(sandbox, self._vault)

        async def work(connection: AsyncConnection) -> None:
            await connection.run_sync(take_turn, Turn.COUNT)
            there = await connection.scalar(
                select(func.count())
                .select_from(sandboxes)
                .where(matching(Filter(with_hidden=True)))
            )
            if there is not None and there >= most:
                raise InvalidError(_NO_ROOM.format(most=most))
            await require_room(connection, sandbox.organization_id, quotas.demand(sandbox))
            await connection.execute(_INSERT, values)
            await _write_labels(connection, sandbox.id, sandbox.labels)
            await write_mounts(connection, sandbox)

        await self._database.write(work)

    async def get(self, sandbox_id: str) -> Sandbox | None:
        """See ``SandboxStore.get``."""
        rows = await self._database.rows(_BY_ID, {"key": sandbox_id})
        return sandbox_from(rows[0], self._vault) if rows else None

    async def named(self, organization_id: str, name: str) -> Sandbox | None:
        """See ``SandboxStore.named``."""
        rows = await self._database.rows(_BY_NAME, {"owner": organization_id, "key": name})
        return sandbox_from(rows[0], self._vault) if rows else None

    async def change(self, sandbox_id: SandboxId, mutate: Callable[[Sandbox], Sandbox]) -> Sandbox:
        """See ``SandboxStore.change``."""
        key = {"key": sandbox_id}

        async def work(connection: AsyncConnection) -> Sandbox:
            row = (await connection.execute(_BY_ID_TO_CHANGE, key)).one_or_none()
            if row is None:
                raise NotFoundError(f"Sandbox with ID or name {sandbox_id} not found")
            old = sandbox_from(row, self._vault)
            new = mutate(old)
            if quotas.rises(old, new):
                await connection.run_sync(take_turn, Turn.COUNT)
                # It is counted among those that are there.
                more = _more(quotas.demand(old), quotas.demand(new))
                await require_room(connection, new.organization_id, more)
            if new != old:
                await connection.execute(_REPLACE, {**sandbox_values(new, self._vault), **key})
            if new.labels != old.labels:
                await connection.execute(delete(labels).where(labels.c.sandbox_id == sandbox_id))
                await _write_labels(connection, sandbox_id, new.labels)
            return new

        return await self._database.write(work)

    async def remove(self, sandbox_id: SandboxId) -> None:
        """See ``SandboxStore.remove``."""

        async def work(connection: AsyncConnection) -> None:
            # Its labels and mounts go with it.
            await connection.execute(delete(sandboxes).where(sandboxes.c.id == sandbox_id))

        await self._database.write(work)

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

    async def states(self) -> dict[str, int]:
        """See ``SandboxStore.states``."""
        state = sandboxes.c.state
        rows = await self._database.rows(
            select(state, func.count().label("number")).group_by(state)
        )
        return {str(row.state): int(row.number) for row in rows}

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
                c.archive.is_not(None).label("has_archive"),
            )
        )
        return [outline_from(row) for row in rows]

    async def due(self, now: datetime, *, running: bool) -> dict[SandboxId, datetime]:
        """See ``SandboxStore.due``."""
        c = sandboxes.c
        wanted = c.due_at <= to_ms(now)
        if running:
            wanted = wanted | (c.state == State.STARTED.value)
        known = select(c.id, c.due_at).where(wanted, c.due_at.is_not(None)).order_by(c.due_at)
        rows = await self._database.rows(known)
        return {SandboxId(row.id): from_ms(row.due_at) for row in rows}

    async def images(self) -> set[str]:
        """See ``SandboxStore.images``."""
        c = sandboxes.c
        rows = await self._database.rows(
            select(c.image_id).where(c.state != State.DESTROYED.value).distinct()
        )
        return {row.image_id for row in rows}

    async def awaiting(self) -> list[Sandbox]:
        """See ``SandboxStore.awaiting``."""
        c = sandboxes.c
        waits = c.state.in_([state.value for state in BUILDING_STATES])
        rows = await self._database.rows(select(sandboxes).where(waits | (c.snapshotting > "")))
        return [sandbox_from(row, self._vault) for row in rows]

    async def disks(self) -> dict[str, int]:
        """See ``SandboxStore.disks``."""
        c, v = sandboxes.c, volumes.c
        own = select(c.node, c.disk_gib.label("gib")).where(c.state != State.DESTROYED.value)
        shared = select(v.node, v.size_gib).where(v.state != VolumeState.DELETED.value)
        disk = union_all(own, shared).subquery().c
        rows = await self._database.rows(
            select(disk.node, func.sum(disk.gib).label("total"))
            .where(disk.node != "")
            .group_by(disk.node)
        )
        return {row.node: int(row.total) for row in rows}

    async def usage(self, organization_id: str) -> Usage:
        """See ``SandboxStore.usage``."""
        rows = await self._database.rows(usage_of(organization_id))
        return Usage(*rows[0])


def _more(old: Usage, new: Usage) -> Usage:
    return Usage(0, new.cpu - old.cpu, new.memory_gib - old.memory_gib, new.disk_gib - old.disk_gib)


async def _write_labels(
    connection: AsyncConnection, sandbox_id: SandboxId, pairs: Mapping[str, str]
) -> None:
    if pairs:
        rows = [{"sandbox_id": sandbox_id, "key": k, "value": v} for k, v in pairs.items()]
        await connection.execute(insert(labels), rows)


class SqlStore:
    """``Store``."""

    def __init__(
        self, database: Database, vault: Vault, changes: Callable[[], AsyncIterator[SandboxId]]
    ) -> None:
        self._database, self._changes, self._vault = database, changes, vault
        self.sandboxes = SqlSandboxes(database, vault)
        self.volumes = SqlVolumes(database)
        self.snapshots = SqlSnapshots(database)
        self.build_logs = SqlBuildLogs(database)
        self.organizations = SqlOrganizations(database)
        self.keys = SqlKeys(database)
        self.trail = SqlTrail(database)
        self.repeats = SqlRepeats(database, vault)
        self.nodes = cluster.SqlNodes(database, vault)

    async def lease(self, name: str, holder: str, seconds: float) -> bool:
        """See ``Store.lease``."""
        return await cluster.lease(self._database, name, holder, seconds)

    async def release(self, name: str, holder: str) -> None:
        """See ``Store.release``."""
        await cluster.release(self._database, name, holder)

    async def rekey(self) -> int:
        """See ``Store.rekey``."""
        return await rekey(self._database, self._vault)

    def changes(self) -> AsyncIterator[SandboxId]:
        """See ``Store.changes``."""
        return self._changes()

    async def ping(self) -> None:
        """See ``Store.ping``."""
        await self._database.rows(text("SELECT 1"))
