"""Volumes over SQL, and who uses them.

Whoever adds a user and whoever takes a volume away wait for one another (``Turn.COUNT``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import and_, delete, func, insert, literal, select, update

from control.errors import InvalidError, NotFoundError
from control.model import USABLE_VOLUMES, DesiredState, State, Usage, VolumeState
from control.store.database import Database, Turn, take_turn
from control.store.owners import require_room
from control.store.rows import volume_from, volume_values
from control.store.tables import mounts, sandboxes, volumes

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from sqlalchemy.ext.asyncio import AsyncConnection

    from control.model import Sandbox, Volume

_NO_ROOM = "Volume count limit exceeded. Maximum allowed: {most}."
_FOR_GOOD = (VolumeState.PENDING_DELETE, VolumeState.DELETING, VolumeState.DELETED)


class SqlVolumes:
    """``VolumeStore``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def insert(self, volume: Volume, *, most: int) -> None:
        """See ``VolumeStore.insert``."""
        c, owner = volumes.c, volume.organization_id
        going = [state.value for state in _FOR_GOOD]
        kept = and_(c.organization_id == owner, c.state.not_in(going))

        async def work(connection: AsyncConnection) -> None:
            await connection.run_sync(take_turn, Turn.COUNT)
            there = await connection.scalar(select(func.count()).select_from(volumes).where(kept))
            if there is not None and there >= most:
                raise InvalidError(_NO_ROOM.format(most=most))
            await require_room(connection, owner, Usage(disk_gib=volume.size_gib))
            await connection.execute(insert(volumes), volume_values(volume))

        await self._database.write(work)

    async def get(self, volume_id: str) -> Volume | None:
        """See ``VolumeStore.get``."""
        rows = await self._database.rows(select(volumes).where(volumes.c.id == volume_id))
        return volume_from(rows[0]) if rows else None

    async def named(self, organization_id: str, name: str) -> Volume | None:
        """See ``VolumeStore.named``."""
        c = volumes.c
        this = and_(c.organization_id == organization_id, c.name == name)
        rows = await self._database.rows(select(volumes).where(this))
        return volume_from(rows[0]) if rows else None

    async def all(
        self, states: Collection[VolumeState], organization_id: str | None = None
    ) -> list[Volume]:
        """See ``VolumeStore.all``."""
        c = volumes.c
        fits = c.state.in_([state.value for state in states])
        owned = (
            literal(value=True)
            if organization_id is None
            else (c.organization_id == organization_id)
        )
        rows = await self._database.rows(
            select(volumes).where(fits, owned).order_by(c.created_at, c.id)
        )
        return [volume_from(row) for row in rows]

    async def change(
        self, volume_id: str, mutate: Callable[[Volume, Sequence[str]], Volume]
    ) -> Volume:
        """See ``VolumeStore.change``."""
        this = volumes.c.id == volume_id

        async def work(connection: AsyncConnection) -> Volume:
            await connection.run_sync(take_turn, Turn.COUNT)
            row = (await connection.execute(select(volumes).where(this))).one_or_none()
            if row is None:
                raise NotFoundError(f"Volume with ID {volume_id} not found")
            old = volume_from(row)
            users = await connection.scalars(
                select(sandboxes.c.name)
                .join(mounts, mounts.c.sandbox_id == sandboxes.c.id)
                .where(
                    mounts.c.volume_id == volume_id,
                    sandboxes.c.desired_state != DesiredState.DESTROYED.value,
                )
                .order_by(sandboxes.c.id)
            )
            new = mutate(old, users.all())
            if new != old:
                await connection.execute(update(volumes).where(this).values(volume_values(new)))
            return new

        return await self._database.write(work)

    async def is_free(self, volume_id: str) -> bool:
        """See ``VolumeStore.is_free``."""
        rows = await self._database.rows(
            select(mounts.c.sandbox_id)
            .join(sandboxes, mounts.c.sandbox_id == sandboxes.c.id)
            .where(mounts.c.volume_id == volume_id, sandboxes.c.state != State.DESTROYED.value)
            .limit(1)
        )
        return not rows

    async def remove(self, volume_id: str) -> None:
        """See ``VolumeStore.remove``."""

        async def work(connection: AsyncConnection) -> None:
            await connection.execute(delete(volumes).where(volumes.c.id == volume_id))

        await self._database.write(work)


async def write_mounts(connection: AsyncConnection, sandbox: Sandbox) -> None:
    """Note the volumes of a new sandbox.

    Raises:
        InvalidError: one was deleted meanwhile.
    """
    wanted = {mount.volume_id for mount in sandbox.volumes}
    if not wanted:
        return
    usable = [state.value for state in USABLE_VOLUMES]
    c = volumes.c
    there = await connection.scalars(
        select(c.id).where(
            c.id.in_(wanted),
            c.state.in_(usable),
            c.organization_id == sandbox.organization_id,
        )
    )
    for gone in sorted(wanted - set(there)):
        raise InvalidError(f"Volume '{gone}' was deleted meanwhile")
    rows = [{"sandbox_id": sandbox.id, "volume_id": volume_id} for volume_id in sorted(wanted)]
    await connection.execute(insert(mounts), rows)
