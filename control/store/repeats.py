"""Answers of calls with an idempotency key, over SQL. They may hold secrets, so they are sealed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import delete, insert, select, update

from control.model import Repeat
from control.store.database import Turn, take_turn
from control.store.rows import to_ms
from control.store.tables import repeats

if TYPE_CHECKING:
    from datetime import datetime

    from sqlalchemy import ColumnElement
    from sqlalchemy.ext.asyncio import AsyncConnection

    from control.store.database import Database
    from control.vault import Vault


class SqlRepeats:
    """``RepeatStore``."""

    def __init__(self, database: Database, vault: Vault) -> None:
        self._database, self._vault = database, vault

    async def claim(
        self, organization_id: str, key: str, request: str, now: datetime, stale: datetime
    ) -> Repeat | None:
        """See ``RepeatStore.claim``."""
        c = repeats.c
        values = {
            "organization_id": organization_id,
            "key": key,
            "request": request,
            "created_at": to_ms(now),
        }

        async def work(connection: AsyncConnection) -> Repeat | None:
            await connection.run_sync(take_turn, Turn.REPEAT)
            await connection.execute(
                delete(repeats).where(
                    _one(organization_id, key), c.status.is_(None), c.created_at < to_ms(stale)
                )
            )
            found = select(repeats).where(_one(organization_id, key))
            row = (await connection.execute(found)).one_or_none()
            if row is None:
                await connection.execute(insert(repeats).values(values))
                return None
            place = repeat_place(organization_id, key)
            body = b"" if row.sealed is None else self._vault.open(row.sealed, place)
            return Repeat(row.request, row.status, body)

        return await self._database.write(work)

    async def finish(self, organization_id: str, key: str, status: int, body: bytes) -> None:
        """See ``RepeatStore.finish``."""
        sealed = self._vault.seal(body, repeat_place(organization_id, key))

        async def work(connection: AsyncConnection) -> None:
            await connection.execute(
                update(repeats)
                .where(_one(organization_id, key))
                .values(status=status, sealed=sealed)
            )

        await self._database.write(work)

    async def drop(self, organization_id: str, key: str) -> None:
        """See ``RepeatStore.drop``."""

        async def work(connection: AsyncConnection) -> None:
            await connection.execute(delete(repeats).where(_one(organization_id, key)))

        await self._database.write(work)

    async def forget(self, before: datetime) -> None:
        """See ``RepeatStore.forget``."""

        async def work(connection: AsyncConnection) -> None:
            await connection.execute(delete(repeats).where(repeats.c.created_at < to_ms(before)))

        await self._database.write(work)


def _one(organization_id: str, key: str) -> ColumnElement[bool]:
    return (repeats.c.organization_id == organization_id) & (repeats.c.key == key)


def repeat_place(organization_id: str, key: str) -> str:
    """Name where a value was sealed for."""
    return f"the answer for {key} of {organization_id}"
