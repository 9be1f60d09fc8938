"""Open the store that is configured, whichever it is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from control.store.sqlite import open_sqlite

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from control.store.sql import SqlStore
    from control.vault import Vault

_POSTGRESQL = ("postgresql://", "postgres://")


def open_store(where: str | Path, vault: Vault) -> AbstractAsyncContextManager[SqlStore]:
    """Open the store at a URL of PostgreSQL, else in a file of SQLite.

    Raises:
        UnavailableError: no connection to the database; the text says why.
    """
    if isinstance(where, str) and where.startswith(_POSTGRESQL):
        from control.store.postgres import open_postgres  # one machine needs none of it

        return open_postgres(where, vault)
    return open_sqlite(Path(where), vault)
