"""Backups of both kinds of database: made while others write, and put back whole or not at all."""

from __future__ import annotations

import asyncio
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from control import listen
from control.backup import read_heading
from control.cli.backup import make, put_back
from control.cli.prepare import data_directory
from control.errors import ConflictError, InvalidError, NotFoundError, UnavailableError
from control.model import Secrets
from control.settings import Settings
from control.vault import Vault, fingerprint, load_keys
from jobs.runner import locks
from tests.support.records import a_sandbox, in_postgres, in_sqlite

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from control.model import Sandbox
    from tests.support.postgres import Postgres
    from tests.support.records import Place

pytestmark = pytest.mark.contract

MOST = 100
SECRET = "canary-in-the-environment"


class Installation:
    """A data directory with keys and a database, and no server."""

    def __init__(self, place: Place, directory: Path) -> None:
        self.place = place
        url = "" if isinstance(place.where, Path) else place.where
        self.settings = Settings(data=directory, database_url=url)
        data_directory(directory, expected=("yurt.db",))
        self.keys = load_keys(directory)
        self.file = directory.parent / "backup"

    @property
    def vault(self) -> Vault:
        return Vault(load_keys(self.settings.data).master_key)

    def add(self, **fields: Any) -> Sandbox:
        made = a_sandbox(secrets=Secrets(env={"KEY": SECRET}), **fields)

        async def insert() -> None:
            async with self.place.opened(self.vault) as store:
                await store.sandboxes.insert(made, most=MOST)

        asyncio.run(insert())
        return made

    def records(self) -> dict[str, Sandbox]:
        async def read() -> dict[str, Sandbox]:
            async with self.place.opened(self.vault) as store:
                found = [await store.sandboxes.get(o.id) for o in await store.sandboxes.survey()]
            return {one.id: one for one in found if one is not None}

        return asyncio.run(read())


@pytest.fixture
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "postgres":
        return in_postgres(request.getfixturevalue("postgres"))
    (tmp_path / "data").mkdir()
    return in_sqlite(tmp_path / "data")


both = pytest.mark.parametrize("place", ["sqlite", "postgres"], indirect=True)
in_a_file = pytest.mark.parametrize("place", ["sqlite"], indirect=True)


@pytest.fixture
def installation(place: Place, tmp_path: Path) -> Installation:
    return Installation(place, tmp_path / "data")


@both
def test_records_come_back_with_what_was_encrypted(installation: Installation) -> None:
    kept = installation.add()
    make(installation.settings, installation.file, None)
    later = installation.add()
    assert set(installation.records()) == {kept.id, later.id}
    put_back(installation.settings, installation.file, None)
    assert installation.records() == {kept.id: kept}
    assert installation.records()[kept.id].secrets.env == {"KEY": SECRET}


@both
def test_a_backup_is_of_one_moment_while_others_write(installation: Installation) -> None:
    """Of two columns that each transaction changes together, never one alone is in it."""
    first = installation.add()

    async def both_at_once() -> None:
        async with installation.place.opened(installation.vault) as store:
            await store.sandboxes.change(first.id, _next)
            making = asyncio.create_task(
                asyncio.to_thread(make, installation.settings, installation.file, None)
            )
            while not making.done():
                await store.sandboxes.change(first.id, _next)
            await making

    asyncio.run(both_at_once())
    put_back(installation.settings, installation.file, None)
    found = installation.records()[first.id]
    assert found.assignment_version > first.assignment_version
    assert found.labels == {"n": str(found.assignment_version)}


def _next(old: Sandbox) -> Sandbox:
    version = old.assignment_version + 1
    return replace(old, assignment_version=version, labels={"n": str(version)})


@both
def test_nothing_of_it_can_be_read_or_changed_without_the_key(
    installation: Installation, tmp_path: Path
) -> None:
    made = installation.add(name="canary-name")
    make(installation.settings, installation.file, None)
    written = installation.file.read_bytes()
    for word in ("canary-name", made.id, SECRET, installation.keys.master_key.hex()):
        assert word.encode() not in written
    assert installation.file.stat().st_mode & 0o077 == 0
    heading = read_heading(installation.file)
    assert heading.key == fingerprint(installation.keys.master_key)
    spoiled = tmp_path / "spoiled"
    line_end = written.index(b"\n")
    for at in (len(written) // 2, len(written) - 1):
        spoiled.write_bytes(written[:at] + bytes([written[at] ^ 1]) + written[at + 1 :])
        with pytest.raises(InvalidError, match="damaged"):
            put_back(installation.settings, spoiled, None)
    for cut in (line_end + 1, len(written) // 2, len(written) - 1):
        spoiled.write_bytes(written[:cut])
        with pytest.raises(InvalidError, match="damaged"):
            put_back(installation.settings, spoiled, None)
    forged = written[:line_end].replace(b'"0.', b'"9.') + written[line_end:]
    spoiled.write_bytes(forged)
    with pytest.raises(InvalidError, match="damaged"):
        put_back(installation.settings, spoiled, None)
    assert set(installation.records()) == {made.id}
    assert [p.name for p in installation.settings.data.glob(".yurt-backup-*")] == []


@in_a_file
def test_another_installation_s_key_is_refused_and_the_right_one_can_be_given(
    installation: Installation, tmp_path: Path
) -> None:
    made = installation.add()
    keys = tmp_path / "keys"
    make(installation.settings, installation.file, keys)
    assert keys.stat().st_mode & 0o077 == 0
    shutil.rmtree(installation.settings.data)
    with pytest.raises(NotFoundError, match="--keys"):
        put_back(installation.settings, installation.file, None)
    installation.settings.data.mkdir()
    other = load_keys(installation.settings.data)
    with pytest.raises(InvalidError, match=fingerprint(other.master_key)):
        put_back(installation.settings, installation.file, None)
    _, replaced = put_back(installation.settings, installation.file, keys)
    assert replaced is None
    assert installation.records() == {made.id: made}
    assert load_keys(installation.settings.data) == installation.keys
    assert (installation.settings.data / "secrets.json.replaced").exists()


@in_a_file
def test_what_is_replaced_is_kept(installation: Installation) -> None:
    make(installation.settings, installation.file, None)
    later = installation.add()
    made_at, replaced = put_back(installation.settings, installation.file, None)
    assert made_at == read_heading(installation.file).made_at
    assert installation.records() == {}
    assert replaced is not None
    replaced.replace(installation.settings.data / "yurt.db")
    assert set(installation.records()) == {later.id}


@in_a_file
def test_nothing_is_restored_under_a_server_or_a_sandbox(installation: Installation) -> None:
    kept = installation.add()
    make(installation.settings, installation.file, None)
    run = installation.settings.data / "run"
    lock = listen.only_one(run / "control.lock")
    with pytest.raises(ConflictError, match="another control"):
        put_back(installation.settings, installation.file, None)
    os.close(lock)
    sandbox = run / "sandboxes" / kept.id
    sandbox.mkdir(parents=True)
    held = locks.take(str(sandbox / "lock"))
    assert held is not None
    with pytest.raises(ConflictError, match="yurt down"):
        put_back(installation.settings, installation.file, None)
    os.close(held)
    (sandbox / "exit.json").write_text("{}")
    put_back(installation.settings, installation.file, None)
    assert not sandbox.exists()


@pytest.mark.parametrize("place", ["postgres"], indirect=True)
def test_nothing_is_restored_under_another_control(installation: Installation) -> None:
    kept = installation.add()
    make(installation.settings, installation.file, None)

    async def refused() -> None:
        async with installation.place.opened(installation.vault) as store:
            await store.ping()
            with pytest.raises(ConflictError, match="stop every control"):
                await asyncio.to_thread(put_back, installation.settings, installation.file, None)

    asyncio.run(refused())
    assert set(installation.records()) == {kept.id}


@pytest.mark.parametrize("place", ["postgres"], indirect=True)
def test_an_empty_database_takes_a_backup(
    installation: Installation, postgres: Postgres, tmp_path: Path
) -> None:
    kept = installation.add()
    make(installation.settings, installation.file, None)
    url = postgres.url(postgres.new_database())
    settings = Settings(data=installation.settings.data, database_url=url)
    put_back(settings, installation.file, None)
    installation.place = replace(installation.place, where=url)
    assert installation.records() == {kept.id: kept}


def saying(old: bytes, new: bytes) -> Callable[[Path], object]:
    """Have a backup say something else of itself."""
    return lambda path: path.write_bytes(path.read_bytes().replace(old, new))


@in_a_file
@pytest.mark.parametrize(
    ("spoil", "error", "says"),
    [
        (lambda path: path.write_bytes(b"something else\n"), InvalidError, "no backup"),
        (lambda path: path.unlink(), UnavailableError, "cannot be read"),
        (saying(b'"format": 1', b'"format": 9'), InvalidError, "later Yurt"),
        (saying(b'"sqlite"', b'"postgresql"'), InvalidError, "YURT_DATABASE_URL"),
    ],
)
def test_what_cannot_be_restored_is_refused_by_name(
    installation: Installation,
    spoil: Callable[[Path], object],
    error: type[Exception],
    says: str,
) -> None:
    kept = installation.add()
    make(installation.settings, installation.file, None)
    spoil(installation.file)
    with pytest.raises(error, match=says):
        put_back(installation.settings, installation.file, None)
    assert set(installation.records()) == {kept.id}


@in_a_file
def test_a_file_that_is_there_is_never_overwritten(installation: Installation) -> None:
    installation.file.write_text("mine")
    with pytest.raises(InvalidError, match="choose another name"):
        make(installation.settings, installation.file, None)
    assert installation.file.read_text() == "mine"
    with pytest.raises(UnavailableError, match="nothing can be written"):
        make(installation.settings, Path("/proc/nowhere/backup"), None)
