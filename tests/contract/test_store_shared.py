"""What a store promises to several controls: nodes, leases, changes, races and outages."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio
from sqlalchemy import text

from control.errors import ConflictError, InvalidError
from control.listing import Filter, SnapshotQuery
from control.model import ApiKey, Node, Snapshot, State
from control.store.migrate import HEAD
from control.store.postgres import open_postgres
from tests.support.records import ALL, NOW, VAULT, a_sandbox, a_snapshot, in_sqlite

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from sqlalchemy.ext.asyncio import AsyncConnection

    from control.model import Sandbox
    from control.naming import SandboxId
    from control.store.sql import SqlStore
    from tests.support.postgres import Postgres
    from tests.support.records import Place

pytestmark = pytest.mark.contract
MOST = 1000
LISTENERS = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'LISTEN%' AND datname = "
WAITING = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = "


@pytest_asyncio.fixture
async def two(place: Place) -> AsyncIterator[tuple[SqlStore, SqlStore]]:
    """Two controls' stores in one database of each kind."""
    async with place.opened() as one, place.opened() as other:
        yield one, other


async def soon(check: Callable[[], Awaitable[bool]], what: str) -> None:
    for _ in range(200):
        if await check():
            return
        await asyncio.sleep(0.02)
    raise AssertionError(f"not in time: {what}")


async def counted(postgres: Postgres, place: Place, query: str) -> int:
    return int(await asyncio.to_thread(postgres.run, f"{query}'{place.name}'"))


def outcomes(results: list[BaseException | None]) -> list[str]:
    return sorted(type(result).__name__ for result in results)


async def test_nodes_are_kept_replaced_and_removed(store: SqlStore) -> None:
    first, second = Node("n1", b"k" * 32, NOW), Node("n2", b"l" * 32, NOW)
    for node in (second, first):
        await store.nodes.put(node)
    assert await store.nodes.get("n1") == first
    assert await store.nodes.get("n") is None
    renewed = replace(first, key=b"m" * 32, joined_at=NOW + timedelta(minutes=1))
    await store.nodes.put(renewed)
    assert await store.nodes.all() == [renewed, second]
    for _ in range(2):
        await store.nodes.remove("n1")
    assert await store.nodes.all() == [second]


def test_a_node_shows_its_key_to_nobody_who_prints_it() -> None:
    assert "canary" not in repr(Node("n1", b"canary", NOW))


async def test_a_lease_has_one_holder(two: tuple[SqlStore, SqlStore]) -> None:
    one, other = two
    assert await one.lease("reconcile", "a", 60)
    assert not await other.lease("reconcile", "b", 60)
    assert await one.lease("reconcile", "a", 60)
    assert await other.lease("another", "b", 60)
    await other.release("reconcile", "b")
    assert not await other.lease("reconcile", "b", 60)
    for _ in range(2):
        await one.release("reconcile", "a")
    assert await other.lease("reconcile", "b", 60)


async def test_of_many_who_want_a_lease_one_gets_it(two: tuple[SqlStore, SqlStore]) -> None:
    for _ in range(5):
        taken = await asyncio.gather(
            *(two[n % 2].lease("reconcile", f"holder-{n}", 60) for n in range(10))
        )
        assert sum(taken) == 1
        winner = taken.index(True)
        await two[0].release("reconcile", f"holder-{winner}")


async def test_a_lease_that_expired_is_the_next_ones(two: tuple[SqlStore, SqlStore]) -> None:
    one, other = two
    assert await one.lease("reconcile", "a", 0.05)
    await soon(lambda: other.lease("reconcile", "b", 60), "the other takes it")
    assert not await one.lease("reconcile", "a", 60)
    await one.release("reconcile", "a")
    assert not await one.lease("reconcile", "a", 60)
    assert await other.lease("reconcile", "b", 60)


async def test_a_renewed_lease_lasts_from_the_renewal(two: tuple[SqlStore, SqlStore]) -> None:
    one, other = two
    assert await one.lease("reconcile", "a", 0.05)
    assert await one.lease("reconcile", "a", 60)
    await asyncio.sleep(0.1)  # past the end of the first
    assert not await other.lease("reconcile", "b", 60)


async def test_of_creates_that_race_for_a_name_one_wins(two: tuple[SqlStore, SqlStore]) -> None:
    results = await asyncio.gather(
        *(two[n % 2].sandboxes.insert(a_sandbox(name="same"), most=MOST) for n in range(10)),
        return_exceptions=True,
    )
    assert outcomes(results) == ["ConflictError"] * 9 + ["NoneType"]


async def test_creates_by_two_controls_never_exceed_the_most(
    two: tuple[SqlStore, SqlStore],
) -> None:
    results = await asyncio.gather(
        *(two[n % 2].sandboxes.insert(a_sandbox(), most=3) for n in range(16)),
        return_exceptions=True,
    )
    assert outcomes(results) == ["InvalidError"] * 13 + ["NoneType"] * 3
    assert await two[0].sandboxes.count(Filter()) == 3


async def test_changes_by_two_controls_are_atomic(two: tuple[SqlStore, SqlStore]) -> None:
    stored = a_sandbox()
    await two[0].sandboxes.insert(stored, most=MOST)

    def one_more(sandbox: Sandbox) -> Sandbox:
        return replace(sandbox, assignment_version=sandbox.assignment_version + 1)

    await asyncio.gather(*(two[n % 2].sandboxes.change(stored.id, one_more) for n in range(30)))
    read = await two[1].sandboxes.get(stored.id)
    assert read is not None
    assert read.assignment_version == 31


async def test_snapshots_put_at_once_replace_each_other(two: tuple[SqlStore, SqlStore]) -> None:
    made: list[Snapshot] = [a_snapshot(id=f"id-{n}", image_id=f"{n}" * 64) for n in range(8)]
    await asyncio.gather(*(two[n % 2].snapshots.put(made[n]) for n in range(8)))
    page = await two[0].snapshots.page("default", SnapshotQuery(name="", limit=10))
    assert page.total == 1
    assert page.snapshots[0] in made


async def test_a_store_of_one_control_tells_no_changes(tmp_path: Path) -> None:
    async with in_sqlite(tmp_path).opened() as store:
        heard = asyncio.ensure_future(anext(store.changes()))
        await store.sandboxes.insert(a_sandbox(), most=MOST)
        await asyncio.wait([heard], timeout=0.1)
        assert not heard.done()
        heard.cancel()
        with pytest.raises(asyncio.CancelledError):
            await heard


@contextlib.asynccontextmanager
async def hearing(
    postgres: Postgres, place: Place, store: SqlStore
) -> AsyncIterator[asyncio.Queue[SandboxId]]:
    """What a store tells, from now on."""
    heard: asyncio.Queue[SandboxId] = asyncio.Queue()

    async def hear() -> None:
        async for sandbox_id in store.changes():
            heard.put_nowait(sandbox_id)

    async def listens() -> bool:
        return await counted(postgres, place, LISTENERS) == 1

    task = asyncio.create_task(hear())
    try:
        await soon(listens, "it listens")
        yield heard
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_changes_by_others_are_told_once_they_are_kept(
    postgres: Postgres, shared: Place
) -> None:
    first, second = a_sandbox(state=State.STOPPED), a_sandbox(state=State.STARTED)

    def refuse(sandbox: Sandbox) -> Sandbox:
        raise ConflictError("no")

    async with (
        shared.opened() as one,
        shared.opened() as other,
        hearing(postgres, shared, one) as heard,
        asyncio.timeout(20),
    ):
        await other.sandboxes.insert(first, most=MOST)
        assert await heard.get() == first.id
        await one.sandboxes.insert(second, most=MOST)
        await one.sandboxes.change(second.id, lambda s: replace(s, public=True))
        with pytest.raises(ConflictError):
            await other.sandboxes.change(first.id, refuse)
        await other.sandboxes.change(first.id, lambda s: s)
        key = ApiKey(name="k", prefix="k", hash="0" * 64, permissions=ALL, created_at=NOW)
        await other.keys.insert(key)
        assert await heard.get() == second.id
        await other.sandboxes.change(first.id, lambda s: replace(s, public=True))
        assert await heard.get() == first.id
        await other.sandboxes.remove(first.id)
        assert await heard.get() == first.id
        assert heard.empty()


async def test_what_changed_while_nobody_could_listen_is_told_later(
    postgres: Postgres, shared: Place
) -> None:
    kept, changed = a_sandbox(), a_sandbox()
    async with (
        shared.opened() as one,
        shared.opened() as other,
        hearing(postgres, shared, one) as heard,
        asyncio.timeout(30),
    ):
        for sandbox in (kept, changed):
            await other.sandboxes.insert(sandbox, most=MOST)
            assert await heard.get() == sandbox.id
        postgres.crash()
        postgres.start()
        await other.sandboxes.change(changed.id, lambda s: replace(s, public=True))
        assert {await heard.get(), await heard.get()} == {kept.id, changed.id}


async def test_a_sandbox_that_starts_while_a_key_is_made_is_told_of_it(
    postgres: Postgres, shared: Place
) -> None:
    stored = a_sandbox(state=State.STOPPED)
    key = ApiKey(name="k", prefix="k", hash="0" * 64, permissions=ALL, created_at=NOW)

    async def waits() -> bool:
        return await counted(postgres, shared, WAITING) == 1

    async with shared.opened() as one, shared.opened() as other:
        await one.sandboxes.insert(stored, most=MOST)
        async with other._database._writer.connect() as connection:
            await connection.execute(text("UPDATE sandboxes SET state = 'started'"))
            inserting = asyncio.create_task(one.keys.insert(key))
            await soon(waits, "the key waits for the start")
            await connection.commit()
        assert await inserting == [stored.id]


async def test_who_is_undone_for_anothers_sake_tries_again(shared: Place) -> None:
    first, second = a_sandbox(), a_sandbox()
    met = asyncio.Barrier(2)
    attempts: list[str] = []

    def lock_both(sandboxes: tuple[Sandbox, ...]) -> Callable[[AsyncConnection], Awaitable[None]]:
        tried = []

        async def work(connection: AsyncConnection) -> None:
            tried.append(1)
            for sandbox in sandboxes:
                statement = text("UPDATE sandboxes SET public = true WHERE id = :id")
                await connection.execute(statement, {"id": sandbox.id})
                attempts.append(sandbox.id)
                if len(tried) == 1 and sandbox is sandboxes[0]:
                    await met.wait()

        return work

    async with shared.opened() as one, shared.opened() as other:
        for sandbox in (first, second):
            await one.sandboxes.insert(sandbox, most=MOST)
        async with asyncio.timeout(20):
            await asyncio.gather(
                one._database.write(lock_both((first, second))),
                other._database.write(lock_both((second, first))),
            )
    assert len(attempts) == 5


async def test_controls_that_start_at_once_make_the_tables_once(postgres: Postgres) -> None:
    url = postgres.url(postgres.new_database())
    async with contextlib.AsyncExitStack() as opened:
        stores = await asyncio.gather(
            *(opened.enter_async_context(open_postgres(url, VAULT)) for _ in range(4))
        )
        rows = await stores[0]._database.rows(text("SELECT version_num FROM alembic_version"))
        assert [row.version_num for row in rows] == [HEAD]


async def test_what_postgresql_cannot_keep_is_refused(shared: Place) -> None:
    async with shared.opened() as store:
        with pytest.raises(InvalidError, match="NUL"):
            await store.sandboxes.insert(a_sandbox(labels={"a": "\0"}), most=MOST)
        assert await store.sandboxes.count(Filter()) == 0
