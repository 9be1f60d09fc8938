"""Nodes and leases over SQL. A node's key is sealed for this node."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import BigInteger, TextClause, bindparam, delete, insert, select, text

from control.model import Node
from control.store.database import POSTGRESQL, Database, Turn, take_turn
from control.store.rows import from_ms, to_ms
from control.store.tables import leases, nodes

if TYPE_CHECKING:
    from sqlalchemy import Row
    from sqlalchemy.ext.asyncio import AsyncConnection

    from control.vault import Vault


class SqlNodes:
    """``NodeStore``."""

    def __init__(self, database: Database, vault: Vault) -> None:
        self._database, self._vault = database, vault

    async def put(self, node: Node) -> None:
        """See ``NodeStore.put``."""
        values = {
            "name": node.name,
            "sealed": self._vault.seal(node.key, node_place(node.name)),
            "joined_at": to_ms(node.joined_at),
        }

        async def work(connection: AsyncConnection) -> None:
            await connection.run_sync(take_turn, Turn.PUT)
            await connection.execute(delete(nodes).where(nodes.c.name == node.name))
            await connection.execute(insert(nodes).values(values))

        await self._database.write(work)

    async def get(self, name: str) -> Node | None:
        """See ``NodeStore.get``."""
        rows = await self._database.rows(select(nodes).where(nodes.c.name == name))
        return self._node(rows[0]) if rows else None

    async def all(self) -> list[Node]:
        """See ``NodeStore.all``."""
        rows = await self._database.rows(select(nodes).order_by(nodes.c.name))
        return [self._node(row) for row in rows]

    async def remove(self, name: str) -> None:
        """See ``NodeStore.remove``."""

        async def work(connection: AsyncConnection) -> None:
            await connection.execute(delete(nodes).where(nodes.c.name == name))

        await self._database.write(work)

    def _node(self, row: Row[Any]) -> Node:
        return Node(
            row.name, self._vault.open(row.sealed, node_place(row.name)), from_ms(row.joined_at)
        )


def node_place(name: str) -> str:
    """Name where a value was sealed for."""
    return f"the key of node {name}"


def _taking(now: str) -> TextClause:
    # One statement, which the database carries out whole; `now` is one of the two below.
    return text(
        f"""
        INSERT INTO leases (name, holder, expires_at) VALUES (:name, :holder, {now} + :ms)
        ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, expires_at = excluded.expires_at
        WHERE leases.holder = excluded.holder OR leases.expires_at <= {now}
        RETURNING holder
        """
    ).bindparams(bindparam("ms", type_=BigInteger))


# The database's clock: those of the machines that ask may differ.
_TAKE = {
    POSTGRESQL: _taking("CAST(extract(epoch FROM clock_timestamp()) * 1000 AS BIGINT)"),
    "sqlite": _taking("CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)"),
}


async def lease(database: Database, name: str, holder: str, seconds: float) -> bool:
    """See ``Store.lease``."""
    values = {"name": name, "holder": holder, "ms": round(seconds * 1000)}

    async def work(connection: AsyncConnection) -> bool:
        taken = await connection.execute(_TAKE[connection.dialect.name], values)
        return taken.one_or_none() is not None

    return await database.write(work)


async def release(database: Database, name: str, holder: str) -> None:
    """See ``Store.release``."""
    c = leases.c

    async def work(connection: AsyncConnection) -> None:
        await connection.execute(delete(leases).where(c.name == name, c.holder == holder))

    await database.write(work)
