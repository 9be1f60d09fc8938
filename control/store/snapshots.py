"""The store over SQL: snapshots, and what is said while they are built."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import and_, delete, func, insert, literal, not_, or_, select, update

from control.errors import NotFoundError
from control.listing import SnapshotPage, SnapshotQuery, SnapshotSort
from control.model import Snapshot, SnapshotState
from control.store.database import Database, Turn, take_turn
from control.store.rows import snapshot_from, snapshot_values, to_ms
from control.store.tables import build_logs, snapshots

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from datetime import datetime

    from sqlalchemy import ColumnElement
    from sqlalchemy.ext.asyncio import AsyncConnection

_LOG_ROWS = 200


class SqlSnapshots:
    """``SnapshotStore``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def get(self, organization_id: str, id_or_name: str) -> Snapshot | None:
        """See ``SnapshotStore.get``."""
        c = snapshots.c
        rows = await self._database.rows(
            select(snapshots)
            .where(_usable(organization_id), (c.id == id_or_name) | (c.name == id_or_name))
            .order_by((c.id == id_or_name).desc(), c.general)
        )
        return snapshot_from(rows[0]) if rows else None

    async def put(self, snapshot: Snapshot) -> None:
        """See ``SnapshotStore.put``."""
        c = snapshots.c
        same_name = and_(c.organization_id == snapshot.organization_id, c.name == snapshot.name)

        async def work(connection: AsyncConnection) -> None:
            await connection.run_sync(take_turn, Turn.PUT)
            await connection.execute(delete(snapshots).where((c.id == snapshot.id) | same_name))
            await connection.execute(insert(snapshots).values(snapshot_values(snapshot)))

        await self._database.write(work)

    async def insert(self, snapshot: Snapshot) -> None:
        """See ``SnapshotStore.insert``."""

        async def work(connection: AsyncConnection) -> None:
            await connection.execute(insert(snapshots).values(snapshot_values(snapshot)))

        await self._database.write(work)

    async def change(self, snapshot_id: str, mutate: Callable[[Snapshot], Snapshot]) -> Snapshot:
        """See ``SnapshotStore.change``."""
        found = snapshots.c.id == snapshot_id

        async def work(connection: AsyncConnection) -> Snapshot:
            statement = select(snapshots).where(found).with_for_update()
            row = (await connection.execute(statement)).one_or_none()
            if row is None:
                raise NotFoundError(f"Snapshot with ID or name {snapshot_id} not found")
            new = mutate(snapshot_from(row))
            values = snapshot_values(new)
            await connection.execute(update(snapshots).where(found).values(values))
            return new

        return await self._database.write(work)

    async def remove(self, snapshot_id: str) -> None:
        """See ``SnapshotStore.remove``."""

        async def work(connection: AsyncConnection) -> None:
            await connection.execute(delete(snapshots).where(snapshots.c.id == snapshot_id))

        await self._database.write(work)

    async def in_states(self, states: Collection[SnapshotState]) -> list[Snapshot]:
        """See ``SnapshotStore.in_states``."""
        c = snapshots.c
        among = c.state.in_([state.value for state in states])
        rows = await self._database.rows(select(snapshots).where(among).order_by(c.created_at))
        return [snapshot_from(row) for row in rows]

    async def outdated(self, before: datetime) -> list[Snapshot]:
        """See ``SnapshotStore.outdated``."""
        c = snapshots.c
        over = c.state.in_([SnapshotState.ACTIVE.value, SnapshotState.BUILD_FAILED.value])
        wanted = and_(c.hidden, over, c.updated_at < to_ms(before))
        rows = await self._database.rows(select(snapshots).where(wanted))
        return [snapshot_from(row) for row in rows]

    async def images(self) -> set[str]:
        """See ``SnapshotStore.images``."""
        c = snapshots.c
        rows = await self._database.rows(select(c.image_id).where(c.image_id != "").distinct())
        return {row.image_id for row in rows}

    async def page(self, organization_id: str, wanted: SnapshotQuery) -> SnapshotPage:
        """See ``SnapshotStore.page``."""
        c, name = snapshots.c, wanted.name
        # "contains", with no case ignored: what every database spells alike.
        contains = func.replace(c.name, name, "") != c.name if name else literal(value=True)
        is_shown = and_(c.state != SnapshotState.REMOVING.value, not_(c.hidden))
        fits = and_(_usable(organization_id), contains, is_shown)
        if wanted.source_sandbox_id:
            fits = and_(fits, c.source_sandbox_id == wanted.source_sandbox_id)
        keys = (_SORTED[wanted.by], c.created_at)
        order = [key.desc() if wanted.descending else key for key in keys]
        statement = select(snapshots).where(fits).order_by(*order, c.id)
        statement = statement.limit(wanted.limit).offset(wanted.offset)
        rows = await self._database.rows(statement)
        counted = await self._database.rows(select(func.count()).select_from(snapshots).where(fits))
        return SnapshotPage([snapshot_from(row) for row in rows], int(counted[0][0]))


class SqlBuildLogs:
    """``BuildLogStore``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def append(self, snapshot_id: str, number: int, text: str) -> None:
        """See ``BuildLogStore.append``."""
        row = {"snapshot_id": snapshot_id, "number": number, "text": text}

        async def work(connection: AsyncConnection) -> None:
            await connection.execute(insert(build_logs).values(row))

        await self._database.write(work)

    async def read(self, snapshot_id: str, after: int = -1) -> list[tuple[int, str]]:
        """See ``BuildLogStore.read``."""
        c = build_logs.c
        wanted = and_(c.snapshot_id == snapshot_id, c.number > after)
        rows = await self._database.rows(
            select(c.number, c.text).where(wanted).order_by(c.number).limit(_LOG_ROWS)
        )
        return [(row.number, row.text) for row in rows]

    async def clear(self, snapshot_id: str) -> None:
        """See ``BuildLogStore.clear``."""

        async def work(connection: AsyncConnection) -> None:
            await connection.execute(
                delete(build_logs).where(build_logs.c.snapshot_id == snapshot_id)
            )

        await self._database.write(work)


# Databases disagree where nothing stands: a snapshot that was never used counts as used long ago.
_SORTED = {
    SnapshotSort.NAME: snapshots.c.name,
    SnapshotSort.STATE: snapshots.c.state,
    SnapshotSort.LAST_USED: func.coalesce(snapshots.c.last_used_at, 0),
    SnapshotSort.CREATED: snapshots.c.created_at,
}


def _usable(organization_id: str) -> ColumnElement[bool]:
    return or_(snapshots.c.organization_id == organization_id, snapshots.c.general)
