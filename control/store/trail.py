"""The audit log over SQL: lines are added and, when they are old, removed; none is changed."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from sqlalchemy import delete, func, insert, select

from control.model import AuditLine
from control.naming import new_sandbox_id
from control.store.rows import from_ms, to_ms
from control.store.tables import audit_log

if TYPE_CHECKING:
    from datetime import datetime

    from sqlalchemy.ext.asyncio import AsyncConnection

    from control.store.database import Database


class SqlTrail:
    """``TrailStore``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, line: AuditLine) -> None:
        """See ``TrailStore.add``."""
        values = {**asdict(line), "created_at": to_ms(line.created_at)}

        async def work(connection: AsyncConnection) -> None:
            await connection.execute(insert(audit_log).values(values))

        await self._database.write(work)

    async def page(
        self, organization_id: str, *, limit: int, offset: int
    ) -> tuple[list[AuditLine], int]:
        """See ``TrailStore.page``."""
        c = audit_log.c
        own = c.organization_id == organization_id
        rows = await self._database.rows(
            select(audit_log).where(own).order_by(c.id.desc()).limit(limit).offset(offset)
        )
        counted = await self._database.rows(select(func.count()).select_from(audit_log).where(own))
        fields = [row._asdict() for row in rows]
        lines = [AuditLine(**{**of, "created_at": from_ms(of["created_at"])}) for of in fields]
        return lines, int(counted[0][0])

    async def forget(self, before: datetime) -> None:
        """See ``TrailStore.forget``."""
        # Ids sort by time, and are what can be searched fast.
        oldest = new_sandbox_id(to_ms(before))

        async def work(connection: AsyncConnection) -> None:
            await connection.execute(delete(audit_log).where(audit_log.c.id < oldest))

        await self._database.write(work)
