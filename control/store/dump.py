"""Copies of whole databases, while others work with them, and back.

Knows the databases' own ways to do that, and nothing of what is in the tables.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

from control.errors import ConflictError, InvalidError, UnavailableError
from control.store.migrate import HEAD

if TYPE_CHECKING:
    from collections.abc import Sequence

_SAID_LINES = 5
_REVISION = "SELECT version_num FROM alembic_version"
_OTHERS = """
    SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND application_name = 'yurt' AND pid <> pg_backend_pid()
"""


def kind_of(where: str | Path) -> str:
    """Name the kind of the database at a URL or path."""
    return "sqlite" if isinstance(where, Path) else "postgresql"


def dump(where: str | Path, target: Path) -> str:
    """Copy a database to a new file, as it is at one moment; return the revision of its tables.

    Raises:
        UnavailableError: it cannot be copied; the text says why.
    """
    target.touch(mode=0o600)
    if isinstance(where, Path):
        return _dump_sqlite(where, target)
    revision = asyncio.run(_look(where))[0]
    if revision is None:
        raise UnavailableError("the database has none of our tables")
    _run(where, ["pg_dump", "--format=custom", "--no-owner", "--no-acl", f"--file={target}"])
    return revision


def restore(where: str | Path, source: Path, revision: str) -> Path | None:
    """Put a copy in the place of a database, whole or not at all.

    Returns:
        The file that the replaced database is kept in, if there was one in a file.

    Raises:
        ConflictError: somebody works with the database.
        InvalidError: the copy does not fit.
        UnavailableError: it cannot be done; nothing was changed.
    """
    if revision > HEAD:
        raise InvalidError(
            f"the backup has tables of a later Yurt (revision {revision}, this one knows {HEAD}): "
            "restore it with that version"
        )
    if isinstance(where, Path):
        return _restore_sqlite(where, source)
    found, others = asyncio.run(_look(where))
    if others:
        raise ConflictError(f"{others} connections of controls are open: stop every control first")
    if found not in {None, revision}:
        raise InvalidError(
            f"the database has tables of revision {found}, the backup of {revision}: give an empty "
            "database by YURT_DATABASE_URL"
        )
    options = ["--clean", "--if-exists", "--single-transaction", "--no-owner", "--no-acl"]
    _run(where, ["pg_restore", *options, "--exit-on-error", str(source)])
    return None


def controls_at(url: str) -> int:
    """Count the connections that controls have with a database of PostgreSQL.

    Raises:
        UnavailableError: it does not answer.
    """
    return asyncio.run(_look(url))[1]


def _dump_sqlite(path: Path, target: Path) -> str:
    if not path.exists():
        raise UnavailableError(f"there is no database in {path}: run `./yurt up`")
    try:
        with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(target)) as copy:
            source.backup(copy)
            copy.execute("PRAGMA journal_mode=DELETE")
            _check(copy, target)
            (found,) = copy.execute(_REVISION).fetchone()
            return str(found)
    except sqlite3.Error as error:
        raise UnavailableError(f"{path} cannot be copied: {error}") from error


def _restore_sqlite(path: Path, source: Path) -> Path | None:
    """Replace a file that nobody has open; what was in it is kept beside it."""
    try:
        with closing(sqlite3.connect(source)) as copy:
            _check(copy, source)
    except sqlite3.Error as error:
        raise InvalidError(f"what the backup holds is no sound database: {error}") from error
    kept = path.with_name(f"{path.name}.replaced") if path.exists() else None
    try:
        if kept is not None:
            _make_one_file(path)
            kept.unlink(missing_ok=True)
            os.link(path, kept)
        for beside in ("-wal", "-shm"):
            path.with_name(path.name + beside).unlink(missing_ok=True)
        source.replace(path)
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        os.fsync(directory)
        os.close(directory)
    except OSError as error:
        raise UnavailableError(f"{path} cannot be replaced: {error.strerror}") from error
    return kept


def _make_one_file(path: Path) -> None:
    """Bring what is in the write-ahead log into the database; a broken one stays as it is."""
    try:
        with closing(sqlite3.connect(path)) as old:
            old.execute("PRAGMA journal_mode=DELETE")
    except sqlite3.DatabaseError:
        return


def _check(database: sqlite3.Connection, path: Path) -> None:
    (verdict,) = database.execute("PRAGMA quick_check(1)").fetchone()
    if verdict != "ok":
        raise sqlite3.DatabaseError(f"{path}: {verdict}")


async def _look(url: str) -> tuple[str | None, int]:
    """Tell the revision of the tables, None if there are none, and how many controls are there."""
    import asyncpg  # type: ignore[import-untyped]

    try:
        connection = await asyncpg.connect(url, timeout=5)
        try:
            others = int(await connection.fetchval(_OTHERS))
            try:
                return str(await connection.fetchval(_REVISION)), others
            except asyncpg.UndefinedTableError:
                return None, others
        finally:
            await connection.close()
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise UnavailableError(f"no connection to the database: {error}") from error


def _run(url: str, command: Sequence[str]) -> None:
    """Run a program of PostgreSQL; the password is in no argument, which everybody can read."""
    parts = urlsplit(url)
    query = dict(parse_qsl(parts.query))
    password = unquote(parts.password or "") or query.pop("password", "")
    host = parts.netloc.rpartition("@")[2]
    user = f"{parts.username}@" if parts.username else ""
    safe = f"postgresql://{user}{host}{parts.path}?{urlencode(query)}"
    secret = {"PGPASSWORD": password} if password else {}
    try:
        done = subprocess.run(
            [*command, f"--dbname={safe}"],
            env={**os.environ, **secret},
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError as error:
        raise UnavailableError(
            f"there is no {command[0]} here: install PostgreSQL's client, as new as its server"
        ) from error
    if done.returncode:
        said = "; ".join(done.stderr.strip().splitlines()[:_SAID_LINES])
        raise UnavailableError(f"{command[0]} failed: {said}")
