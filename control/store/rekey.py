"""Seal every stored value anew that was sealed by an older master key.

In small transactions beside whoever else works with the database: a value that was changed
meanwhile is left as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import select, tuple_, update

from control.store.cluster import node_place
from control.store.repeats import repeat_place
from control.store.rows import sandbox_place
from control.store.tables import nodes, repeats, sandboxes

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sqlalchemy import Column, Row, Table
    from sqlalchemy.ext.asyncio import AsyncConnection

    from control.store.database import Database
    from control.vault import Vault

_AT_ONCE = 200


@dataclass(frozen=True, slots=True)
class _Sealed:
    """A table with sealed values, the columns that tell its rows apart, and a value's place."""

    table: Table
    key: tuple[Column[Any], ...]
    place: Callable[..., str]


SEALED = (
    _Sealed(nodes, (nodes.c.name,), node_place),
    _Sealed(repeats, (repeats.c.organization_id, repeats.c.key), repeat_place),
    _Sealed(sandboxes, (sandboxes.c.id,), sandbox_place),
)


async def rekey(database: Database, vault: Vault) -> int:
    """Seal anew what the vault's newest key did not seal; return how many values that were.

    What others store meanwhile by an older key may be left over: 0 means that none was met.

    Raises:
        VaultError: a value opens by none of the vault's keys.
    """
    return sum([await _rekey(database, vault, sealed) for sealed in SEALED])


async def _rekey(database: Database, vault: Vault, sealed: _Sealed) -> int:
    value, key = sealed.table.c.sealed, tuple_(*sealed.key)
    first = select(*sealed.key, value).where(value.is_not(None)).order_by(*sealed.key)
    count, page = 0, first.limit(_AT_ONCE)
    while rows := await database.rows(page):
        old = [row for row in rows if not vault.is_current(row[-1], sealed.place(*row[:-1]))]
        if old:
            count += await database.write(_resealing(vault, sealed, old))
        page = first.where(key > tuple(rows[-1][:-1])).limit(_AT_ONCE)
    return count


def _resealing(
    vault: Vault, sealed: _Sealed, old: Sequence[Row[Any]]
) -> Callable[[AsyncConnection], Any]:
    async def work(connection: AsyncConnection) -> int:
        value, count = sealed.table.c.sealed, 0
        for row in old:
            place = sealed.place(*row[:-1])
            same = [column == part for column, part in zip(sealed.key, row, strict=False)]
            new = vault.seal(vault.open(row[-1], place), place)
            statement = update(sealed.table).where(*same, value == row[-1]).values(sealed=new)
            count += (await connection.execute(statement)).rowcount
        return count

    return work
