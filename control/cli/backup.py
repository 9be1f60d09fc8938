"""``yurt backup`` and ``yurt restore``: the records, in one encrypted file."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from control.cli.output import Output, failures_told, read_settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from control.settings import Settings
    from control.vault import Keys

_KEYS = "secrets.json"
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


def backup(
    file: Annotated[Path, typer.Argument(help="The file to make.")],
    keys: Annotated[
        Path | None,
        typer.Option(help="Copy the keys to this file, too; keep it apart from the backup."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Back up the records while the server runs; the master key is not in it."""
    output = Output(as_json=as_json)
    with failures_told():
        settings = _as_root()
        with output.step("backing up the records"):
            size = make(settings, file, keys)
    text = (
        f"{file} ({size} bytes) holds the records, encrypted: sandboxes, volumes, snapshots, keys' "
        f"hashes, organizations, the audit log.\nNot in it: the master key, without which it opens "
        f"nothing: {_where_keys(settings, keys)}\nNor disks, volumes' files, images and archives, "
        "which stay where they are, nor settings (YURT_*)."
    )
    output.result({"file": str(file), "bytes": size, "keys": str(keys) if keys else None}, text)


def restore(
    file: Annotated[Path, typer.Argument(help="A file that `backup` made.")],
    keys: Annotated[
        Path | None, typer.Option(help="The keys of that time, if they are not here any more.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Put the records of a backup in the place of those that are here; the server must be down."""
    output = Output(as_json=as_json)
    with failures_told():
        settings = _as_root()
        with output.step("restoring the records"):
            made_at, replaced = put_back(settings, file, keys)
    kept = f"\nThe records of before are kept in {replaced}." if replaced else ""
    text = (
        f"The records are those of {made_at}; `./yurt up` starts the server.{kept}\nDisks, files "
        "of volumes, images and archives are as they were: sandboxes made since have files and no "
        "record, those deleted since a record and no files."
    )
    fields = {"madeAt": made_at, "replaced": str(replaced) if replaced else None}
    output.result(fields, text)


def make(settings: Settings, file: Path, keys: Path | None) -> int:
    """Make a backup, and a copy of the keys; return the size of the first in bytes.

    Raises:
        YurtError: it is not possible; nothing is left behind.
    """
    from datetime import UTC, datetime
    from importlib.metadata import version

    from control.backup import Heading, write
    from control.errors import InvalidError
    from control.store.dump import dump, kind_of
    from control.vault import fingerprint

    master_key = _keys_of(settings, None).master_key
    if keys is not None and keys.exists():
        raise InvalidError(f"{keys} is there already: choose another name")
    with _workshop(file.absolute().parent) as workshop:
        revision = dump(settings.store, workshop / "dump")
        heading = Heading(
            made_at=datetime.now(UTC).isoformat(timespec="seconds"),
            version=version("yurt-server"),
            database=kind_of(settings.store),
            revision=revision,
            key=fingerprint(master_key),
        )
        size = write(file, heading, workshop / "dump", master_key)
    if keys is not None:
        _copy_private(settings.data / _KEYS, keys)
    return size


def put_back(settings: Settings, file: Path, keys: Path | None) -> tuple[str, Path | None]:
    """Restore a backup; return when it was made, and the file with the records of before.

    Raises:
        ConflictError: the server or a sandbox runs.
        YurtError: it is not possible, and nothing was changed.
    """
    from control import listen
    from control.backup import extract, read_heading
    from control.cli import prepare
    from control.errors import InvalidError
    from control.store.dump import kind_of, restore as restore_store

    heading = read_heading(file)
    if heading.database != kind_of(settings.store):
        raise InvalidError(
            f"{file} is of a {heading.database} database, and this server uses "
            f"{kind_of(settings.store)}: set or unset YURT_DATABASE_URL"
        )
    given = _keys_of(settings, keys)
    prepare.data_directory(settings.data, expected=(_KEYS,))
    _require_rest(settings)
    lock = listen.only_one(settings.data / "run" / "control.lock")
    try:
        with _workshop(settings.data) as workshop:
            extract(file, given.master_key, workshop / "dump")
            replaced = restore_store(settings.store, workshop / "dump", heading.revision)
        _put_keys(settings, keys, given)
        for left in (settings.data / "run" / "sandboxes").glob("*"):
            shutil.rmtree(left)  # tells of starts that the records may know nothing of
        asyncio.run(_look(settings, given))
    finally:
        os.close(lock)
    return heading.made_at, replaced


def _as_root() -> Settings:
    from control.cli import checks
    from control.errors import UnavailableError

    if os.geteuid() != 0:
        raise UnavailableError(checks.root(os.geteuid()).advice)
    return read_settings()


def _keys_of(settings: Settings, given: Path | None) -> Keys:
    """Read the keys, the given ones or this installation's; none are made."""
    from control.errors import NotFoundError
    from control.vault import read_keys

    path = given or settings.data / _KEYS
    try:
        return read_keys(path)
    except FileNotFoundError as error:
        remedy = "" if given else ": set YURT_DATA, copy the file back, or give it by --keys"
        raise NotFoundError(f"there is no {path}{remedy}") from error


def _require_rest(settings: Settings) -> None:
    """Refuse while anything works with the records.

    Raises:
        ConflictError: the server is up, or a sandbox runs.
    """
    from control.cli import supervisor
    from control.errors import ConflictError
    from jobs.local import run_directories
    from jobs.runner import locks

    pid = supervisor.running(settings.data)
    if pid is not None:
        raise ConflictError(f"the server is up (pid {pid}): `./yurt down` first")
    running = [d.name for d in run_directories(settings.data) if locks.is_held(str(d / "lock"))]
    if running:
        raise ConflictError(f"{len(running)} sandboxes still run: `./yurt down` stops them")


def _put_keys(settings: Settings, given: Path | None, keys: Keys) -> None:
    """Make the given keys the installation's; others are kept beside them."""
    from control.vault import read_keys

    path = settings.data / _KEYS
    if given is None or (path.exists() and read_keys(path) == keys):
        return
    if path.exists():
        path.replace(path.with_name(f"{_KEYS}.replaced"))
    _copy_private(given, path)


async def _look(settings: Settings, keys: Keys) -> None:
    """Bring the records up to date, and see that they can be read.

    Raises:
        VaultError: they were sealed by another key.
    """
    from control.store.opening import open_store
    from control.vault import Vault

    async with open_store(settings.store, Vault(keys.master_key, *keys.older_keys)) as store:
        await store.nodes.all()
        for outline in await store.sandboxes.survey():
            await store.sandboxes.get(outline.id)


@contextlib.contextmanager
def _workshop(beside: Path) -> Iterator[Path]:
    """Make a directory for what is half made, on the volume that it will be on."""
    from control.errors import UnavailableError

    try:
        made = tempfile.TemporaryDirectory(prefix=".yurt-backup-", dir=beside)
    except OSError as error:
        raise UnavailableError(f"nothing can be written to {beside}: {error.strerror}") from error
    with made as name:
        yield Path(name)


def _copy_private(source: Path, target: Path) -> None:
    """Copy a small file, for root's eyes only, whole or not at all."""
    from control.errors import UnavailableError

    new = target.with_name(f".{target.name}.{os.getpid()}.new")
    try:
        fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "wb") as file:
            file.write(source.read_bytes())
            file.flush()
            os.fsync(fd)
        new.rename(target)
    except OSError as error:
        raise UnavailableError(f"{target} cannot be written: {error.strerror}") from error
    finally:
        new.unlink(missing_ok=True)


def _where_keys(settings: Settings, keys: Path | None) -> str:
    kept = f"{keys} is a copy" if keys else f"keep a copy of {settings.data / _KEYS}"
    return f"{kept}; not in the same place."
