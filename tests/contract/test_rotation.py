"""A new master key: everything is encrypted by it in the end, however often that is cut off."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import LargeBinary, select

from control import listen
from control.cli.keys import rotate
from control.cli.prepare import data_directory
from control.errors import ConflictError
from control.model import Node, Secrets
from control.settings import Settings
from control.store.rekey import SEALED
from control.store.tables import metadata
from control.vault import FileVault, Keys, Vault, VaultError, fingerprint, load_keys
from tests.support.records import NOW, a_sandbox, in_postgres, in_sqlite
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from control.model import Sandbox
    from control.store.sql import SqlStore
    from tests.support.records import Place

pytestmark = pytest.mark.contract

MANY = 500
ANSWER = b'{"answered": "once"}'
ROTATE = """
import sys
from pathlib import Path
from control.cli.keys import rotate
from control.settings import Settings
rotate(Settings(data=Path(sys.argv[1]), database_url=sys.argv[2]), settle_seconds=0)
"""


@pytest.fixture
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "postgres":
        return in_postgres(request.getfixturevalue("postgres"))
    (tmp_path / "data").mkdir()
    return in_sqlite(tmp_path / "data")


both = pytest.mark.parametrize("place", ["sqlite", "postgres"], indirect=True)


@pytest.fixture
def settings(place: Place, tmp_path: Path) -> Settings:
    url = "" if isinstance(place.where, Path) else place.where
    data_directory(tmp_path / "data", expected=("yurt.db",))
    load_keys(tmp_path / "data")
    return Settings(data=tmp_path / "data", database_url=url)


async def fill(place: Place, settings: Settings, count: int) -> dict[str, Sandbox]:
    """Store something of every kind that is sealed."""
    made = [a_sandbox(secrets=Secrets(env={"N": str(number)})) for number in range(count)]
    async with place.opened(FileVault(settings.data)) as store:
        for one in made:
            await store.sandboxes.insert(one, most=count)
        await store.nodes.put(Node("node", bytes(range(32)), NOW))
        await store.repeats.claim("default", "a-key", "digest", NOW, NOW)
        await store.repeats.finish("default", "a-key", 200, ANSWER)
        await store.repeats.claim("default", "unanswered", "digest", NOW, NOW)
    return {one.id: one for one in made}


async def everything(store: SqlStore) -> tuple[dict[str, Sandbox], bytes, bytes]:
    found = [await store.sandboxes.get(o.id) for o in await store.sandboxes.survey()]
    node = await store.nodes.get("node")
    answered = await store.repeats.claim("default", "a-key", "digest", NOW, NOW)
    assert node is not None
    assert answered is not None
    return {one.id: one for one in found if one is not None}, node.key, answered.body


async def check(place: Place, keys: Keys, made: dict[str, Sandbox]) -> None:
    """Read everything with these keys."""
    async with place.opened(Vault(keys.master_key, *keys.older_keys)) as store:
        assert await everything(store) == (made, bytes(range(32)), ANSWER)


async def left_over(place: Place, keys: Keys) -> int:
    """Count the values that the newest key does not open."""
    vault, count = Vault(keys.master_key), 0
    async with place.opened(vault) as store:
        for sealed in SEALED:
            value = sealed.table.c.sealed
            rows = await store._database.rows(select(*sealed.key, value))
            for row in rows:
                is_old = row[-1] and not vault.is_current(row[-1], sealed.place(*row[:-1]))
                count += bool(is_old)
    return count


def test_every_column_with_sealed_values_is_rotated() -> None:
    sealed = {
        table.name
        for table in metadata.tables.values()
        for column in table.columns
        if isinstance(column.type, LargeBinary)
    }
    assert {one.table.name for one in SEALED} == sealed


@both
def test_everything_is_readable_by_the_new_key_and_nothing_by_the_old(
    place: Place, settings: Settings
) -> None:
    made = asyncio.run(fill(place, settings, 3))
    old = load_keys(settings.data)
    done = rotate(settings, settle_seconds=0)
    new = load_keys(settings.data)
    assert (done.old, done.new) == (fingerprint(old.master_key), fingerprint(new.master_key))
    assert (done.values, done.went_on) == (5, False)
    assert new == replace(old, master_key=new.master_key)
    assert new.master_key != old.master_key
    assert (settings.data / "secrets.json").stat().st_mode & 0o777 == 0o600
    asyncio.run(check(place, new, made))
    with pytest.raises(VaultError):
        asyncio.run(check(place, old, made))


@both
def test_a_rotation_that_is_killed_anywhere_goes_on(place: Place, settings: Settings) -> None:
    made = asyncio.run(fill(place, settings, MANY))
    old = load_keys(settings.data)
    url = settings.database_url
    with subprocess.Popen([sys.executable, "-c", ROTATE, settings.data, url]) as rotating:
        # Half of it is done: the new key is known, and opens the first values.
        eventually(lambda: bool(load_keys(settings.data).older_keys), "the new key", seconds=60)
        seen = load_keys(settings.data)
        eventually(
            lambda: asyncio.run(left_over(place, seen)) < MANY + 2, "some values", seconds=60
        )
        rotating.kill()
    half = load_keys(settings.data)
    if half.older_keys:  # else it was faster than we
        assert half.older_keys == (old.master_key,)
        asyncio.run(check(place, half, made))
        done = rotate(settings, settle_seconds=0)
        assert done.went_on
        assert done.new == fingerprint(half.master_key)
    new = load_keys(settings.data)
    assert new.older_keys == ()
    assert asyncio.run(left_over(place, new)) == 0
    asyncio.run(check(place, new, made))


@both
def test_each_cut_between_two_transactions_can_be_gone_on_from(
    place: Place, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = asyncio.run(fill(place, settings, 3))
    monkeypatch.setattr("control.store.rekey._AT_ONCE", 1)
    seal, sealed, most = Vault.seal, 0, 0

    class Cut(BaseException):
        """The process ends here."""

    def cut(vault: Vault, text: bytes, where: str) -> bytes:
        nonlocal sealed
        sealed += 1
        if sealed > most:
            raise Cut
        return seal(vault, text, where)

    monkeypatch.setattr(Vault, "seal", cut)
    for number in range(3):
        sealed, most = 0, number
        with pytest.raises(Cut):
            rotate(settings, settle_seconds=0)
        asyncio.run(check(place, load_keys(settings.data), made))
    monkeypatch.setattr(Vault, "seal", seal)
    done = rotate(settings, settle_seconds=0)
    assert done.values == 5 - (0 + 1 + 2)
    asyncio.run(check(place, load_keys(settings.data), made))


def _with_env(env: dict[str, str], old: Sandbox) -> Sandbox:
    return replace(old, secrets=Secrets(env))


@pytest.mark.parametrize("place", ["sqlite"], indirect=True)
def test_a_running_control_goes_on_by_the_new_key(place: Place, settings: Settings) -> None:
    (settings.data / "run").mkdir()
    lock = listen.only_one(settings.data / "run" / "control.lock")

    async def serve() -> dict[str, Sandbox]:
        made = await fill(place, settings, 20)
        async with place.opened(FileVault(settings.data)) as store:
            rotating = asyncio.create_task(asyncio.to_thread(rotate, settings, settle_seconds=0.5))
            number = 0
            while not rotating.done():
                for sandbox_id in made:
                    number += 1
                    given = partial(_with_env, {"N": str(number)})
                    made[sandbox_id] = await store.sandboxes.change(made[sandbox_id].id, given)
            await rotating
            new = a_sandbox(secrets=Secrets(env={"N": "new"}))
            await store.sandboxes.insert(new, most=100)
            assert await everything(store) == (made | {new.id: new}, bytes(range(32)), ANSWER)
        return made | {new.id: new}

    made = asyncio.run(serve())
    os.close(lock)
    keys = load_keys(settings.data)
    assert keys.older_keys == ()
    assert asyncio.run(left_over(place, keys)) == 0
    asyncio.run(check(place, keys, made))


@pytest.mark.parametrize("place", ["postgres"], indirect=True)
def test_controls_of_other_machines_must_be_stopped(place: Place, settings: Settings) -> None:
    old = load_keys(settings.data)

    async def refused() -> None:
        async with place.opened(FileVault(settings.data)) as store:
            await store.ping()
            with pytest.raises(ConflictError, match="stop every control"):
                await asyncio.to_thread(rotate, settings, settle_seconds=0)

    asyncio.run(refused())
    assert load_keys(settings.data) == old


@pytest.mark.parametrize("place", ["sqlite"], indirect=True)
def test_what_no_key_opens_keeps_the_old_key(place: Place, settings: Settings) -> None:
    asyncio.run(fill(place, settings, 2))
    old = load_keys(settings.data)

    async def spoil() -> None:
        async with place.opened(Vault(bytes(32))) as store:
            await store.nodes.put(Node("stranger", bytes(32), NOW))

    asyncio.run(spoil())
    with pytest.raises(VaultError, match="the key of node stranger"):
        rotate(settings, settle_seconds=0)
    assert load_keys(settings.data).older_keys == (old.master_key,)
