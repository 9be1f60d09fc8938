"""What a store in PostgreSQL does while its database is away, cut off, frozen or waited for."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import text

from control.errors import UnavailableError
from control.store.postgres import open_postgres
from tests.support.records import VAULT, a_sandbox

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

    from control.model import Sandbox
    from tests.support.postgres import Postgres
    from tests.support.records import Place

pytestmark = pytest.mark.contract
MOST = 1000
SHORT_SECONDS = 0.4


def cut_off(postgres: Postgres, place: Place) -> None:
    """End every connection to one database, as an administrator or a fail-over does."""
    postgres.run(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
        f"WHERE datname = '{place.name}' AND pid <> pg_backend_pid()"
    )


async def test_waiting_for_another_ends(postgres: Postgres, shared: Place) -> None:
    stored = a_sandbox()
    async with (
        shared.opened() as other,
        open_postgres(str(shared.where), VAULT, statement_seconds=SHORT_SECONDS) as store,
    ):
        await store.sandboxes.insert(stored, most=MOST)
        async with other._database._writer.connect() as connection:
            await connection.execute(text("SELECT id FROM sandboxes FOR UPDATE"))
            with pytest.raises(UnavailableError):
                await store.sandboxes.change(stored.id, lambda s: replace(s, public=True))
        changed = await store.sandboxes.change(stored.id, lambda s: replace(s, public=True))
        assert await store.sandboxes.get(stored.id) == changed


async def test_a_database_that_went_away_is_found_again(postgres: Postgres, shared: Place) -> None:
    stored = a_sandbox()
    async with shared.opened() as store:
        await store.sandboxes.insert(stored, most=MOST)
        postgres.crash()
        try:
            for call in (
                lambda: store.sandboxes.get(stored.id),
                lambda: store.sandboxes.change(stored.id, lambda s: s),
                lambda: store.lease("reconcile", "a", 60),
                store.ping,
            ):
                with pytest.raises(UnavailableError, match="no connection to the database: "):
                    await call()
            with pytest.raises(UnavailableError, match="no connection to the database: "):
                async with shared.opened():
                    pass
        finally:
            postgres.start()
        assert await store.sandboxes.get(stored.id) == stored
        await store.sandboxes.change(stored.id, lambda s: replace(s, public=True))


async def test_a_restart_between_two_calls_is_not_noticed(
    postgres: Postgres, shared: Place
) -> None:
    stored = a_sandbox()
    async with shared.opened() as store:
        await store.sandboxes.insert(stored, most=MOST)
        await asyncio.gather(*(store.sandboxes.get(stored.id) for _ in range(10)))
        postgres.crash()
        postgres.start()
        # All at once: each connection of the pool is found to be closed.
        read = await asyncio.gather(*(store.sandboxes.get(stored.id) for _ in range(10)))
        assert read == [stored] * 10
        await store.sandboxes.change(stored.id, lambda s: replace(s, public=True))


async def test_a_write_that_is_cut_off_is_done_again(postgres: Postgres, shared: Place) -> None:
    stored = a_sandbox()
    calls = []

    def cut_once(sandbox: Sandbox) -> Sandbox:
        calls.append(1)
        if len(calls) == 1:
            cut_off(postgres, shared)
        return replace(sandbox, public=True)

    async with shared.opened() as store:
        await store.sandboxes.insert(stored, most=MOST)
        # Other connections wait in the pool, and are cut off as well.
        await asyncio.gather(*(store.sandboxes.get(stored.id) for _ in range(10)))
        changed = await store.sandboxes.change(stored.id, cut_once)
        assert len(calls) == 2
        assert await store.sandboxes.get(stored.id) == changed


async def test_a_write_that_may_have_been_kept_is_not_done_again(
    postgres: Postgres, shared: Place
) -> None:
    calls = []

    async def work(connection: AsyncConnection) -> None:
        calls.append(1)
        await connection.execute(text("DELETE FROM leases"))
        cut_off(postgres, shared)

    async with shared.opened() as store:
        with pytest.raises(UnavailableError):
            await store._database.write(work)
        assert len(calls) == 1
        await store.ping()


async def test_a_database_that_says_nothing_is_given_up(postgres: Postgres, shared: Place) -> None:
    stored = a_sandbox()
    async with open_postgres(str(shared.where), VAULT, statement_seconds=SHORT_SECONDS) as store:
        await store.sandboxes.insert(stored, most=MOST)
        with postgres.frozen():
            async with asyncio.timeout(10):
                with pytest.raises(UnavailableError):
                    await store.sandboxes.change(stored.id, lambda s: replace(s, public=True))
                with pytest.raises(UnavailableError):
                    await store.sandboxes.get(stored.id)
        assert await store.sandboxes.get(stored.id) == stored
        await store.sandboxes.change(stored.id, lambda s: replace(s, public=True))
