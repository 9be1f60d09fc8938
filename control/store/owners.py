"""The store over SQL: organisations and their keys."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import and_, bindparam, delete, func, insert, select, text, update

from control import quotas
from control.errors import ConflictError, NotFoundError
from control.model import LIVE_STATES, ApiKey, Organization, State, Usage, VolumeState
from control.naming import SandboxId
from control.store.database import POSTGRESQL, Database
from control.store.queries import usage_of
from control.store.rows import (
    key_from,
    key_values,
    organization_from,
    organization_values,
    to_ms,
)
from control.store.tables import api_keys, organizations, sandboxes, snapshots, volumes

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from sqlalchemy.ext.asyncio import AsyncConnection

ORGANIZATION_BY_ID = select(organizations).where(organizations.c.id == bindparam("key"))


class SqlOrganizations:
    """``OrganizationStore``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def all(self) -> list[Organization]:
        """See ``OrganizationStore.all``."""
        c = organizations.c
        rows = await self._database.rows(select(organizations).order_by(c.created_at, c.id))
        return [organization_from(row) for row in rows]

    async def get(self, organization_id: str) -> Organization | None:
        """See ``OrganizationStore.get``."""
        rows = await self._database.rows(ORGANIZATION_BY_ID, {"key": organization_id})
        return organization_from(rows[0]) if rows else None

    async def insert(self, organization: Organization, key: ApiKey) -> None:
        """See ``OrganizationStore.insert``."""

        async def work(connection: AsyncConnection) -> None:
            values = organization_values(organization)
            await connection.execute(insert(organizations).values(values))
            await connection.execute(insert(api_keys).values(key_values(key)))

        await self._database.write(work)

    async def change(
        self, organization_id: str, mutate: Callable[[Organization], Organization]
    ) -> Organization:
        """See ``OrganizationStore.change``."""
        key = {"key": organization_id}

        async def work(connection: AsyncConnection) -> Organization:
            row = (
                await connection.execute(ORGANIZATION_BY_ID.with_for_update(), key)
            ).one_or_none()
            if row is None:
                raise NotFoundError(f"Organization with ID {organization_id} not found")
            new = mutate(organization_from(row))
            await connection.execute(
                update(organizations)
                .where(organizations.c.id == organization_id)
                .values(organization_values(new))
            )
            return new

        return await self._database.write(work)

    async def remove(self, organization_id: str) -> None:
        """See ``OrganizationStore.remove``."""

        async def work(connection: AsyncConnection) -> None:
            await _hold_still(connection)
            c = sandboxes.c
            there = await connection.scalar(
                select(func.count())
                .select_from(sandboxes)
                .where(c.organization_id == organization_id, c.state != State.DESTROYED.value)
            )
            if there:
                raise ConflictError(f"The organization has {there} sandboxes: delete them first")
            v = volumes.c
            kept = await connection.scalar(
                select(func.count())
                .select_from(volumes)
                .where(v.organization_id == organization_id, v.state != VolumeState.DELETED.value)
            )
            if kept:
                raise ConflictError(f"The organization has {kept} volumes: delete them first")
            for table in (api_keys, snapshots, volumes):
                await connection.execute(
                    delete(table).where(table.c.organization_id == organization_id)
                )
            await connection.execute(
                delete(organizations).where(organizations.c.id == organization_id)
            )

        await self._database.write(work)


async def require_room(connection: AsyncConnection, organization_id: str, more: Usage) -> None:
    """Require that an organisation may use more; nobody else may change its use meanwhile.

    Raises:
        NotFoundError: there is no such organisation.
        InvalidError: its limits do not allow that.
    """
    key = {"key": organization_id}
    row = (await connection.execute(ORGANIZATION_BY_ID, key)).one_or_none()
    if row is None:
        raise NotFoundError(f"Organization with ID {organization_id} not found")
    organization = organization_from(row)
    if quotas.limits(organization):
        used = Usage(*(await connection.execute(usage_of(organization_id))).one())
        quotas.require_room(organization, used, more)


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

        async def work(connection: AsyncConnection) -> list[SandboxId]:
            await _hold_still(connection)
            await connection.execute(insert(api_keys).values(key_values(key)))
            return await _raise_versions(connection, key.organization_id)

        return await self._database.write(work)

    async def remove(self, organization_id: str, name: str) -> list[SandboxId]:
        """See ``KeyStore.remove``."""

        async def work(connection: AsyncConnection) -> list[SandboxId]:
            await _hold_still(connection)
            c = api_keys.c
            gone = await connection.execute(
                delete(api_keys).where(c.organization_id == organization_id, c.name == name)
            )
            if gone.rowcount == 0:
                raise NotFoundError(f"API key {name} not found")
            return await _raise_versions(connection, organization_id)

        return await self._database.write(work)

    async def used(self, times: Sequence[tuple[str, datetime]]) -> None:
        """See ``KeyStore.used``."""

        async def work(connection: AsyncConnection) -> None:
            for prefix, moment in sorted(times):  # all in one order: nobody waits in a circle
                await connection.execute(
                    update(api_keys)
                    .where(api_keys.c.prefix == prefix)
                    .values(last_used_at=to_ms(moment))
                )

        await self._database.write(work)


async def _hold_still(connection: AsyncConnection) -> None:
    """Let no sandbox change until the transaction is over: none may come alive past a new key."""
    if connection.dialect.name == POSTGRESQL:
        await connection.execute(text("LOCK TABLE sandboxes IN EXCLUSIVE MODE"))


async def _raise_versions(connection: AsyncConnection, organization_id: str) -> list[SandboxId]:
    c = sandboxes.c
    live = and_(
        c.organization_id == organization_id,
        c.state.in_([state.value for state in LIVE_STATES]),
    )
    await connection.execute(
        update(sandboxes).where(live).values(assignment_version=c.assignment_version + 1)
    )
    rows = await connection.execute(select(c.id).where(live))
    return [SandboxId(row.id) for row in rows]
