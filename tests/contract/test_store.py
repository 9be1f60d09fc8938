"""What every store promises."""

from __future__ import annotations

import asyncio
import sqlite3
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import MetaData, create_engine, event

from control.errors import ConflictError, InvalidError, NotFoundError
from control.listing import (
    Filter,
    Order,
    Period,
    Position,
    SnapshotQuery,
    SortField,
    Span,
    decode_cursor,
    encode_cursor,
)
from control.model import (
    ApiKey,
    Archive,
    AuditLine,
    Build,
    DesiredState,
    Intervals,
    Mount,
    NetworkPolicy,
    Node,
    Organization,
    Repeat,
    Resources,
    Run,
    Secrets,
    Snapshot,
    SnapshotState,
    State,
    StoppedBy,
    Usage,
    VolumeState,
)
from control.naming import new_sandbox_id
from control.store.migrate import config
from control.store.rows import key_values, sandbox_values
from control.store.sqlite import open_sqlite
from control.store.tables import metadata
from control.vault import Vault, VaultError
from tests.support.records import ALL, NOW, VAULT, a_sandbox, a_snapshot, a_store, a_volume

if TYPE_CHECKING:
    from collections.abc import Coroutine, Sequence
    from pathlib import Path

    from sqlalchemy import Connection

    from control.model import Sandbox, Volume
    from control.store import Store
    from control.store.sql import SqlStore
    from tests.support.records import Place

pytestmark = pytest.mark.contract
MOST = 1000


def test_the_implementation_fits_the_interface(tmp_path: Path) -> None:
    def conforms(store: SqlStore) -> Store:
        return store

    assert callable(conforms)


async def test_a_record_comes_back_as_it_was_stored(store: SqlStore) -> None:
    stored = a_sandbox(
        name="mine",
        labels={"a b": 'c"d', "": "empty"},
        entrypoint=("/bin/sh", "-c", "x"),
        network=NetworkPolicy(block_all=True, allow=("1.2.3.0/24",)),
        private_ports=(5901,),
        node="n1",
        stopped_by=StoppedBy.COLLECTOR,
        stopped_at=datetime(2026, 1, 2, tzinfo=UTC),
        destroy_at=datetime(2027, 1, 2, tzinfo=UTC),
        intervals=Intervals(1, 2, 3, 4),
        run=Run(3, "f" * 32, 7, 8, 9, "the disk is full", "attached"),
        secrets=Secrets(env={"K": "v"}, revoked={"abc": 5}),
        error_reason="why",
        recoverable=True,
        archive=Archive("a/1-0", "0" * 64, 123, is_stale=True),
    )
    await store.sandboxes.insert(stored, most=MOST)
    assert await store.sandboxes.get(stored.id) == stored
    assert await store.sandboxes.named("default", "mine") == stored
    assert await store.sandboxes.named("default", "other") is None


async def test_a_name_can_be_taken_only_once(store: SqlStore) -> None:
    first, second = a_sandbox(name="same"), a_sandbox(name="same", labels={"a": "b"})
    await store.sandboxes.insert(first, most=MOST)
    with pytest.raises(ConflictError):
        await store.sandboxes.insert(second, most=MOST)
    assert await store.sandboxes.get(second.id) is None
    other = a_sandbox(name="other")
    await store.sandboxes.insert(other, most=MOST)
    with pytest.raises(ConflictError):
        await store.sandboxes.change(other.id, lambda s: replace(s, name="same"))


async def test_parallel_inserts_never_exceed_the_most(store: SqlStore) -> None:
    results = await asyncio.gather(
        *(store.sandboxes.insert(a_sandbox(), most=3) for _ in range(8)), return_exceptions=True
    )
    assert sum(result is None for result in results) == 3
    assert sum(isinstance(result, InvalidError) for result in results) == 5


async def test_destroyed_sandboxes_take_no_room(store: SqlStore) -> None:
    await store.sandboxes.insert(a_sandbox(state=State.DESTROYED), most=1)
    await store.sandboxes.insert(a_sandbox(), most=1)


async def test_a_change_is_atomic_under_concurrency(store: SqlStore) -> None:
    stored = a_sandbox()
    await store.sandboxes.insert(stored, most=MOST)

    def one_more(sandbox: Sandbox) -> Sandbox:
        return replace(sandbox, assignment_version=sandbox.assignment_version + 1)

    await asyncio.gather(*(store.sandboxes.change(stored.id, one_more) for _ in range(20)))
    read = await store.sandboxes.get(stored.id)
    assert read is not None
    assert read.assignment_version == 21


async def test_a_change_that_raises_changes_nothing(store: SqlStore) -> None:
    stored = a_sandbox()
    await store.sandboxes.insert(stored, most=MOST)

    def refuse(sandbox: Sandbox) -> Sandbox:
        raise ConflictError("no")

    with pytest.raises(ConflictError):
        await store.sandboxes.change(stored.id, refuse)
    assert await store.sandboxes.get(stored.id) == stored
    with pytest.raises(NotFoundError):
        await store.sandboxes.change(a_sandbox().id, lambda s: s)


async def test_a_removed_record_is_gone_and_removing_it_again_succeeds(store: SqlStore) -> None:
    stored = a_sandbox(labels={"a": "b"})
    await store.sandboxes.insert(stored, most=MOST)
    for _ in range(2):
        await store.sandboxes.remove(stored.id)
    assert await store.sandboxes.get(stored.id) is None
    assert await store.sandboxes.count(Filter(labels={"a": "b"})) == 0


async def test_what_was_written_is_there_after_reopening(place: Place) -> None:
    stored = a_sandbox()
    async with place.opened() as store:
        await store.sandboxes.insert(stored, most=MOST)
    async with place.opened() as store:
        assert await store.sandboxes.get(stored.id) == stored


async def names(store: SqlStore, wanted: Filter, order: Order | None = None) -> list[str]:
    page = await store.sandboxes.page(wanted, order or Order(by=SortField.NAME, descending=False))
    return [sandbox.name for sandbox in page.sandboxes]


async def test_filters_select(store: SqlStore) -> None:
    for sandbox in (
        a_sandbox(name="a", labels={"x": "1", "y": "2"}, public=True, minutes=0),
        a_sandbox(name="b", labels={"x": "1", 'q"%': "_"}, state=State.STARTED, minutes=1),
        a_sandbox(name="a%b", snapshot="other", target="eu", minutes=2),
        a_sandbox(name="gone", labels={"x": "1"}, state=State.DESTROYED),
        a_sandbox(name="broken", state=State.ERROR, desired_state=DesiredState.DESTROYED),
    ):
        await store.sandboxes.insert(sandbox, most=MOST)
    assert await names(store, Filter()) == ["a", "a%b", "b"]
    assert await names(store, Filter(with_errored_deleted=True)) == ["a", "a%b", "b", "broken"]
    assert await names(store, Filter(labels={"x": "1"})) == ["a", "b"]
    assert await names(store, Filter(labels={"x": "1", "y": "2"})) == ["a"]
    assert await names(store, Filter(labels={'q"%': "_"})) == ["b"]
    assert await names(store, Filter(labels={"x": "2"})) == []
    assert await names(store, Filter(name_prefix="a%")) == ["a%b"]
    assert await names(store, Filter(name_prefix="A")) == []
    assert await names(store, Filter(states=(State.STARTED, State.ERROR))) == ["b"]
    assert await names(store, Filter(snapshots=("other",))) == ["a%b"]
    assert await names(store, Filter(targets=("eu",))) == ["a%b"]
    assert await names(store, Filter(public=True)) == ["a"]
    assert await names(store, Filter(recoverable=True)) == []
    assert await names(store, Filter(cpu=Span(2, None))) == []
    assert await names(store, Filter(disk_gib=Span(3, 3))) == ["a", "a%b", "b"]
    late = Period(after=NOW, before=NOW + timedelta(minutes=2))
    assert await names(store, Filter(created=late)) == ["b"]
    assert await names(store, Filter(active=late)) == ["b"]


async def test_names_are_sorted_by_their_bytes(store: SqlStore) -> None:
    for name in ("ab", "a-c", "B", "é", "a"):
        await store.sandboxes.insert(a_sandbox(name=name), most=MOST)
    assert await names(store, Filter()) == ["B", "a", "a-c", "ab", "é"]


@pytest.mark.parametrize("by", SortField)
@pytest.mark.parametrize("descending", [False, True], ids=["up", "down"])
async def test_pages_by_cursor_show_each_sandbox_once(
    store: SqlStore, by: SortField, descending: bool
) -> None:
    for number in range(7):
        await store.sandboxes.insert(
            a_sandbox(name=f"n{number % 2}{number}", minutes=number // 2), most=MOST
        )
    everything = await names(store, Filter(), Order(by=by, descending=descending))
    seen: list[str] = []
    order = Order(by=by, descending=descending, limit=2)
    pages = 0
    while order.limit:
        page = await store.sandboxes.page(Filter(), order)
        seen += [sandbox.name for sandbox in page.sandboxes]
        pages += 1
        if page.next is None:
            break
        cursor = encode_cursor(order, page.next)
        order = replace(order, after=decode_cursor(order, cursor))
    assert pages == 4
    assert seen == everything
    assert len(set(seen)) == 7


@pytest.mark.parametrize(
    "cursor",
    ["", "!", "AAAA", "W10", encode_cursor(Order(), Position(1 << 70, "x")), "W" * 2000],
)
def test_a_strange_cursor_is_refused(cursor: str) -> None:
    with pytest.raises(InvalidError):
        decode_cursor(Order(), cursor)


def test_a_cursor_of_another_order_is_refused() -> None:
    cursor = encode_cursor(Order(by=SortField.NAME), Position("a", "b"))
    with pytest.raises(InvalidError):
        decode_cursor(Order(by=SortField.CREATED), cursor)
    with pytest.raises(InvalidError):
        decode_cursor(Order(by=SortField.NAME, descending=False), cursor)


async def test_pages_by_number_and_count(store: SqlStore) -> None:
    for number in range(5):
        await store.sandboxes.insert(a_sandbox(name=f"n{number}"), most=MOST)
    order = Order(by=SortField.NAME, descending=False, limit=2, offset=4)
    assert await names(store, Filter(), order) == ["n4"]
    assert await store.sandboxes.count(Filter()) == 5


async def test_the_survey_shows_destroyed_ones_too(store: SqlStore) -> None:
    stored = a_sandbox(state=State.DESTROYED, run=Run(2, None, 0, 0, 3))
    await store.sandboxes.insert(stored, most=MOST)
    (outline,) = await store.sandboxes.survey()
    assert (outline.id, outline.state, outline.generation) == (stored.id, State.DESTROYED, 2)
    assert (outline.pushed_version, outline.changed_at) == (3, stored.changed_at)


async def test_snapshots_are_found_by_id_and_name_and_replaced(store: SqlStore) -> None:
    first = a_snapshot()
    await store.snapshots.put(first)
    assert await store.snapshots.get("default", "default") == first
    assert await store.snapshots.get("default", first.id) == first
    renewed = replace(first, id="other-id", image_id="1" * 64)
    await store.snapshots.put(renewed)
    assert await store.snapshots.get("default", "default") == renewed
    assert await store.snapshots.get("default", first.id) is None
    page = await store.snapshots.page("default", SnapshotQuery(name="efa", limit=10))
    assert (page.snapshots, page.total) == ([renewed], 1)
    page = await store.snapshots.page("default", SnapshotQuery(name="%", limit=10))
    assert (page.snapshots, page.total) == ([], 0)


def of_id(number: int, **fields: Any) -> Snapshot:
    return a_snapshot(f"s{number}", id=f"5b1c1f1e-0000-4000-8000-00000000000{number}", **fields)


async def test_snapshots_that_are_built_or_made_of_sandboxes_come_back(store: SqlStore) -> None:
    build = Build("FROM a\nENV B=\u00e9\n", ("hash",))
    one = of_id(1, build=build, hidden=True, state=SnapshotState.BUILDING, image_id="")
    two = of_id(2, source_sandbox_id=new_sandbox_id(), image_name="node:22", image_id="2" * 64)
    for snapshot in (one, two):
        await store.snapshots.insert(snapshot)
    assert await store.snapshots.get("default", "s1") == one
    assert await store.snapshots.in_states({SnapshotState.BUILDING}) == [one]
    assert await store.snapshots.images() == {two.image_id}
    page = await store.snapshots.page("default", SnapshotQuery())
    assert page.snapshots == [two]  # the other one is hidden
    with pytest.raises(ConflictError):
        await store.snapshots.insert(replace(two, id=of_id(3).id))
    changed = await store.snapshots.change(
        one.id, lambda known: replace(known, state=SnapshotState.ACTIVE, image_id="1" * 64)
    )
    assert await store.snapshots.get("default", one.id) == changed
    assert await store.snapshots.outdated(NOW) == []
    assert await store.snapshots.outdated(NOW + timedelta(seconds=1)) == [changed]
    await store.snapshots.remove(one.id)
    with pytest.raises(NotFoundError):
        await store.snapshots.change(one.id, lambda known: known)


async def test_what_a_build_says_is_read_in_order_and_goes_with_it(store: SqlStore) -> None:
    one, two = of_id(1), of_id(2)
    for snapshot in (one, two):
        await store.snapshots.insert(snapshot)
        for number, text in enumerate(("first\n", "zw\u00f6lf", "third\n")):
            await store.build_logs.append(snapshot.id, number, text)
    assert [text for _, text in await store.build_logs.read(one.id)] == [
        *("first\n", "zw\u00f6lf", "third\n"),
    ]
    assert await store.build_logs.read(one.id, 1) == [(2, "third\n")]
    assert await store.build_logs.read(one.id, 2) == []
    await store.build_logs.clear(two.id)
    assert await store.build_logs.read(two.id) == []
    await store.snapshots.remove(one.id)
    assert await store.build_logs.read(one.id) == []


async def test_sandboxes_that_wait_for_images_are_found_and_ours_are_hidden(
    store: SqlStore,
) -> None:
    build = Build("FROM a")
    built = a_sandbox(state=State.PENDING_BUILD, build=build, image_id="")
    source = a_sandbox(state=State.STARTED, snapshotting=of_id(1).id, image_id="1" * 64)
    ours = a_sandbox(hidden=True, labels={"a": "b"}, image_id="2" * 64)
    for sandbox in (built, source, ours):
        await store.sandboxes.insert(sandbox, most=MOST)
    found = {sandbox.id: sandbox for sandbox in await store.sandboxes.awaiting()}
    assert found == {built.id: built, source.id: source}
    shown = (await store.sandboxes.page(Filter(), Order())).sandboxes
    assert {sandbox.id for sandbox in shown} == {built.id, source.id}
    every = Filter(labels={"a": "b"}, with_hidden=True)
    assert (await store.sandboxes.page(every, Order())).sandboxes == [ours]
    assert await store.sandboxes.images() >= {"1" * 64, "2" * 64}


def a_key(name: str) -> ApiKey:
    return ApiKey(name=name, prefix=name, hash="0" * 64, permissions=ALL, created_at=NOW)


async def test_a_change_of_keys_concerns_every_live_sandbox(store: SqlStore) -> None:
    live, over = a_sandbox(state=State.STARTED), a_sandbox(state=State.STOPPED)
    await store.sandboxes.insert(live, most=MOST)
    await store.sandboxes.insert(over, most=MOST)
    assert await store.keys.insert(a_key("one")) == [live.id]
    assert await store.keys.remove("default", "one") == [live.id]
    read = await store.sandboxes.get(live.id)
    assert read is not None
    assert read.assignment_version == live.assignment_version + 2
    assert await store.sandboxes.get(over.id) == over


async def test_keys_come_back_and_note_their_use(store: SqlStore) -> None:
    key = a_key("one")
    await store.keys.insert(key)
    with pytest.raises(ConflictError):
        await store.keys.insert(key)
    await store.keys.used([("one", NOW), ("unknown", NOW)])
    assert await store.keys.all() == [replace(key, last_used_at=NOW)]
    await store.keys.remove("default", "one")
    with pytest.raises(NotFoundError):
        await store.keys.remove("default", "one")


OTHER = Organization(id="other-id", name="other", created_at=NOW)


async def test_what_an_organization_has_is_its_own(store: SqlStore) -> None:
    ours, theirs = (
        a_sandbox(name="same", organization_id=owner, state=State.STARTED)
        for owner in ("default", OTHER.id)
    )
    await store.organizations.insert(OTHER, replace(a_key("first"), organization_id=OTHER.id))
    for sandbox in (ours, theirs):
        await store.sandboxes.insert(sandbox, most=MOST)
        assert await store.sandboxes.named(sandbox.organization_id, "same") == sandbox
        found = await store.sandboxes.page(Filter(organization_id=sandbox.organization_id), Order())
        assert found.sandboxes == [sandbox]
        assert await store.sandboxes.usage(sandbox.organization_id) == Usage(1, 1, 1, 3, 0)
    assert await store.keys.insert(replace(a_key("one"), organization_id=OTHER.id)) == [theirs.id]
    with pytest.raises(NotFoundError):
        await store.keys.remove("default", "one")
    private = a_snapshot("mine", id="private", organization_id=OTHER.id)
    general = a_snapshot("all", id="general", general=True)
    for snapshot in (private, general):
        await store.snapshots.put(snapshot)
        assert await store.snapshots.get(OTHER.id, snapshot.name) == snapshot
    assert await store.snapshots.get("default", "mine") is None
    assert await store.snapshots.get("default", "private") is None
    assert (await store.snapshots.page("default", SnapshotQuery(name="", limit=9))).total == 1


async def test_an_organization_goes_when_it_is_empty(store: SqlStore) -> None:
    key = replace(a_key("first"), organization_id=OTHER.id)
    await store.organizations.insert(OTHER, key)
    with pytest.raises(ConflictError):
        await store.organizations.insert(
            replace(OTHER, id="third"), replace(key, organization_id="third", prefix="third")
        )
    changed = await store.organizations.change(OTHER.id, lambda one: replace(one, max_cpu=3))
    assert await store.organizations.get(OTHER.id) == changed == replace(OTHER, max_cpu=3)
    stored = a_sandbox(organization_id=OTHER.id)
    await store.sandboxes.insert(stored, most=MOST)
    with pytest.raises(ConflictError, match="1 sandboxes"):
        await store.organizations.remove(OTHER.id)
    assert await store.keys.all() == [key]
    await store.sandboxes.remove(stored.id)
    await store.organizations.remove(OTHER.id)
    assert await store.keys.all() == []
    assert await store.organizations.get(OTHER.id) is None


async def test_nothing_secret_is_readable_in_the_file(place: Place) -> None:
    secrets = Secrets(env={"TOKEN": "canary-in-env"})
    node = Node("canary-node", b"canary-of-a-node's-key-32-bytes.", NOW)
    async with place.opened() as store:
        await store.sandboxes.insert(a_sandbox(name="canary-name", secrets=secrets), most=MOST)
        await store.nodes.put(node)
    kept = place.stored()
    assert b"canary-name" in kept
    assert b"canary-node" in kept
    for canary in ("canary-in-env", secrets.preview_token, secrets.signing_key):
        assert canary.encode() not in kept
    for form in (node.key, node.key.hex().encode()):
        assert form not in kept


async def test_another_master_key_cannot_read(place: Place) -> None:
    stored = a_sandbox()
    async with place.opened() as store:
        await store.sandboxes.insert(stored, most=MOST)
        await store.nodes.put(Node("n1", bytes(32), NOW))
    async with place.opened(Vault(bytes([1] * 32))) as other:
        with pytest.raises(VaultError):
            await other.sandboxes.get(stored.id)
        with pytest.raises(VaultError):
            await other.nodes.get("n1")


async def test_a_new_database_is_private(tmp_path: Path) -> None:
    path = tmp_path / "new" / "yurt.db"
    async with open_sqlite(path, VAULT) as store:
        await store.ping()
    assert path.stat().st_mode & 0o077 == 0


def differences(connection: Connection) -> list[Any]:
    return list(compare_metadata(MigrationContext.configure(connection), metadata))


async def test_a_database_has_the_tables_of_the_code(place: Place) -> None:
    for _ in range(2):
        async with place.opened() as store, store._database._writer.connect() as connection:
            assert await connection.run_sync(differences) == []


async def test_the_disks_of_each_node_are_summed_up(store: SqlStore) -> None:
    assert await store.sandboxes.disks() == {}
    for node, gib, state in (
        ("a", 3, State.STARTED),
        ("a", 5, State.STOPPED),
        ("a", 7, State.DESTROYED),
        ("b", 11, State.DESTROYING),
        ("", 13, State.CREATING),
    ):
        made = a_sandbox(node=node, state=state, resources=Resources(1, 1, gib))
        await store.sandboxes.insert(made, most=MOST)
    assert await store.sandboxes.disks() == {"a": 8, "b": 11}
    for node, kept in (
        ("a", VolumeState.READY),
        ("a", VolumeState.DELETED),
        ("c", VolumeState.PENDING_DELETE),
        ("", VolumeState.READY),
    ):
        await store.volumes.insert(a_volume(node=node, state=kept), most=MOST)
    assert await store.sandboxes.disks() == {"a": 10, "b": 11, "c": 2}


def of_the_first_version(connection: Connection, stored: Sandbox) -> None:
    """Make a database as the first version did, with one record, its label and a key."""
    configuration = config()
    configuration.attributes["connection"] = connection
    command.upgrade(configuration, "0001")
    known = MetaData()
    known.reflect(connection)
    tables = known.tables
    values = sandbox_values(stored, VAULT)
    columns = tables["sandboxes"].columns.keys()
    connection.execute(tables["sandboxes"].insert(), {name: values[name] for name in columns})
    labels = [{"sandbox_id": stored.id, "key": k, "value": v} for k, v in stored.labels.items()]
    connection.execute(tables["labels"].insert(), labels)
    key = {k: v for k, v in key_values(a_key("one")).items() if k != "organization_id"}
    connection.execute(tables["api_keys"].insert(), key)


async def test_volumes_come_back_and_names_are_an_organisation_s(store: SqlStore) -> None:
    made = a_volume(name="v", node="n1", is_made=True, error_reason="why", last_used_at=NOW)
    await store.volumes.insert(made, most=MOST)
    assert await store.volumes.get(made.id) == made
    assert await store.volumes.named(made.organization_id, "v") == made
    for other in (store.volumes.get("v"), store.volumes.named(OTHER.id, "v")):
        assert await other is None
    with pytest.raises(ConflictError):
        await store.volumes.insert(a_volume(name="v"), most=MOST)
    await store.organizations.insert(OTHER, replace(a_key("first"), organization_id=OTHER.id))
    later = NOW + timedelta(minutes=1)
    theirs = a_volume(name="v", organization_id=OTHER.id, created_at=later)
    await store.volumes.insert(theirs, most=MOST)
    assert await store.volumes.all(frozenset(VolumeState)) == [made, theirs]
    assert await store.volumes.all([VolumeState.PENDING_CREATE], OTHER.id) == [theirs]
    assert await store.volumes.all([VolumeState.READY]) == []
    await store.volumes.remove(made.id)
    await store.volumes.remove(made.id)
    assert await store.volumes.get(made.id) is None


async def test_parallel_inserts_never_make_too_many_volumes(store: SqlStore) -> None:
    await store.volumes.insert(a_volume(state=VolumeState.DELETED), most=1)
    results = await asyncio.gather(
        *(store.volumes.insert(a_volume(), most=2) for _ in range(6)), return_exceptions=True
    )
    assert sum(result is None for result in results) == 2
    assert sum(isinstance(result, InvalidError) for result in results) == 4


async def test_volumes_count_as_disks_of_their_organisation(store: SqlStore) -> None:
    limited = replace(OTHER, max_disk_gib=6)
    await store.organizations.insert(limited, replace(a_key("first"), organization_id=OTHER.id))
    await store.volumes.insert(a_volume(), most=1)
    theirs = a_volume(organization_id=OTHER.id)
    await store.volumes.insert(theirs, most=1)  # others' do not count
    await store.sandboxes.insert(a_sandbox(organization_id=OTHER.id), most=MOST)
    assert await store.sandboxes.usage(OTHER.id) == Usage(1, 1, 1, 5, 0, 1)
    with pytest.raises(InvalidError, match="Disk limit exceeded"):
        await store.volumes.insert(a_volume(organization_id=OTHER.id), most=MOST)
    with pytest.raises(InvalidError, match="Disk limit exceeded"):
        await store.sandboxes.insert(a_sandbox(organization_id=OTHER.id), most=MOST)
    gone = VolumeState.DELETED
    await store.volumes.change(theirs.id, lambda record, _: replace(record, state=gone))
    await store.volumes.insert(a_volume(organization_id=OTHER.id), most=1)
    assert await store.sandboxes.usage(OTHER.id) == Usage(1, 1, 1, 5, 0, 1)


async def test_a_volume_knows_who_uses_it(store: SqlStore) -> None:
    volume, other = a_volume(), a_volume()
    for each in (volume, other):
        await store.volumes.insert(each, most=MOST)
    mounts = (Mount(volume.id, "/a"), Mount(volume.id, "/b", "part"), Mount(other.id, "/c"))
    user = a_sandbox(name="user", volumes=mounts)
    await store.sandboxes.insert(user, most=MOST)
    read = await store.sandboxes.get(user.id)
    assert read == user

    async def users() -> list[str]:
        found: list[str] = []

        def look(record: Volume, names: Sequence[str]) -> Volume:
            found[:] = names
            return replace(record, node="n1")

        assert (await store.volumes.change(volume.id, look)).node == "n1"
        return found

    assert await users() == ["user"]
    assert not await store.volumes.is_free(volume.id)

    def going(sandbox: Sandbox) -> Sandbox:
        ended = DesiredState.DESTROYED
        return replace(sandbox, state=State.DESTROYING, desired_state=ended)

    await store.sandboxes.change(user.id, going)
    assert await users() == []
    assert not await store.volumes.is_free(volume.id)
    await store.sandboxes.change(user.id, lambda s: replace(s, state=State.DESTROYED))
    assert await store.volumes.is_free(volume.id)
    await store.sandboxes.remove(user.id)
    assert await store.volumes.is_free(volume.id)
    with pytest.raises(NotFoundError):
        await store.volumes.change("nobody", lambda record, _: record)


async def test_a_volume_is_either_deleted_or_comes_to_be_used(store: SqlStore) -> None:
    for _ in range(5):
        volume = a_volume(state=VolumeState.READY)
        await store.volumes.insert(volume, most=MOST)
        user = a_sandbox(volumes=(Mount(volume.id, "/a"),))

        def retire(record: Volume, users: Sequence[str]) -> Volume:
            if users:
                raise ConflictError("in use")
            return replace(record, state=VolumeState.PENDING_DELETE)

        results = await asyncio.gather(
            store.sandboxes.insert(user, most=MOST),
            store.volumes.change(volume.id, retire),
            return_exceptions=True,
        )
        assert sum(isinstance(result, Exception) for result in results) == 1, results
        there = await store.sandboxes.get(user.id)
        after = await store.volumes.get(volume.id)
        assert after is not None
        assert (there is None) == (after.state is VolumeState.PENDING_DELETE)


async def test_nobody_gets_a_volume_of_another_organisation(store: SqlStore) -> None:
    await store.organizations.insert(OTHER, replace(a_key("first"), organization_id=OTHER.id))
    theirs = a_volume(organization_id=OTHER.id, state=VolumeState.READY)
    await store.volumes.insert(theirs, most=MOST)
    sandbox = a_sandbox(volumes=(Mount(theirs.id, "/a"),))
    with pytest.raises(InvalidError):
        await store.sandboxes.insert(sandbox, most=MOST)
    assert await store.sandboxes.get(sandbox.id) is None


async def test_records_of_the_first_version_are_read(tmp_path: Path) -> None:
    stored = a_sandbox(labels={"a": "b"}, run=Run(2, "f" * 32, 7, 8, 9))
    path = tmp_path / "yurt.db"
    engine = create_engine(f"sqlite:///{path}")
    event.listen(engine, "connect", lambda made, _: made.execute("PRAGMA foreign_keys=ON"))
    with engine.begin() as connection:
        of_the_first_version(connection, stored)
    engine.dispose()
    async with open_sqlite(path, VAULT) as store, store._database._writer.connect() as connection_:
        assert await connection_.run_sync(differences) == []
        assert await store.sandboxes.get(stored.id) == replace(stored, node="local")
        assert await store.sandboxes.count(Filter(labels={"a": "b"})) == 1
        assert await store.keys.all() == [a_key("one")]
        assert [one.id for one in await store.organizations.all()] == ["default"]


# What later migrations add, and would add again.
_SINCE_ARCHIVES = """
DROP TABLE build_logs;
DROP INDEX ix_sandboxes_snapshotting;
ALTER TABLE sandboxes DROP COLUMN build;
ALTER TABLE sandboxes DROP COLUMN snapshotting;
ALTER TABLE sandboxes DROP COLUMN hidden;
ALTER TABLE snapshots DROP COLUMN build;
ALTER TABLE snapshots DROP COLUMN hidden;
ALTER TABLE snapshots DROP COLUMN image_name;
ALTER TABLE snapshots DROP COLUMN source_sandbox_id;
"""


async def test_what_was_stopped_before_there_were_archives_becomes_due(tmp_path: Path) -> None:
    stopped = a_sandbox(
        state=State.STOPPED,
        desired_state=DesiredState.STOPPED,
        stopped_at=NOW,
        intervals=Intervals(archive=10),
    )
    sooner = replace(
        stopped, id=new_sandbox_id(1), name="s", intervals=Intervals(archive=9, delete=5)
    )
    async with a_store(tmp_path) as store:
        for one in (stopped, sooner):
            await store.sandboxes.insert(one, most=MOST)
    with sqlite3.connect(tmp_path / "yurt.db") as before:
        before.execute("UPDATE alembic_version SET version_num = '0009'")
        before.execute("UPDATE sandboxes SET due_at = NULL WHERE name != 's'")
        before.executescript(_SINCE_ARCHIVES)
    before.close()
    async with a_store(tmp_path) as store:
        due = store.sandboxes.due
        assert list(await due(NOW + timedelta(minutes=4), running=False)) == []
        assert list(await due(NOW + timedelta(minutes=9), running=False)) == [sooner.id]
        later = await due(NOW + timedelta(minutes=10), running=False)
        assert list(later) == [sooner.id, stopped.id]


async def test_writes_are_synchronous_and_wait_for_other_processes(tmp_path: Path) -> None:
    async with a_store(tmp_path) as store:
        other = sqlite3.connect(tmp_path / "yurt.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        writing = asyncio.create_task(store.sandboxes.insert(a_sandbox(), most=MOST))
        await asyncio.sleep(0.05)
        assert not writing.done()
        other.execute("COMMIT")
        other.close()
        await writing
        async with store._database._writer.connect() as connection:
            mode = await connection.exec_driver_sql("PRAGMA synchronous")
            assert mode.scalar() == 2


async def test_writes_whose_waiters_are_cancelled_lock_nobody_out(store: SqlStore) -> None:
    for part in range(60):
        given_up = asyncio.create_task(store.sandboxes.insert(a_sandbox(), most=MOST))
        await asyncio.sleep(part / 10_000)  # in the midst of one statement or another
        given_up.cancel()
        await store.sandboxes.insert(a_sandbox(), most=MOST)
        await asyncio.gather(given_up, return_exceptions=True)


async def test_lines_of_the_audit_log_come_newest_first_and_old_ones_go(store: SqlStore) -> None:
    lines = [
        AuditLine(
            id=new_sandbox_id(int(moment.timestamp() * 1000)),
            organization_id="default",
            created_at=moment,
            actor="first",
            actor_prefix="0" * 8,
            action="create",
            target_type="sandbox",
            target_id="",
            status=200,
            source="",
        )
        for moment in (NOW, NOW + timedelta(days=1), NOW + timedelta(days=2))
    ]
    for line in lines:
        await store.trail.add(line)
    assert await store.trail.page("default", limit=2, offset=0) == (lines[:0:-1], 3)
    assert await store.trail.page("other", limit=2, offset=0) == ([], 0)
    await store.trail.forget(NOW + timedelta(hours=30))
    assert await store.trail.page("default", limit=9, offset=0) == (lines[2:], 1)


async def test_of_many_who_claim_a_key_one_gets_it(store: SqlStore) -> None:
    def claim() -> Coroutine[Any, Any, Repeat | None]:
        return store.repeats.claim("default", "key", "request", NOW, NOW)

    claimed = await asyncio.gather(*(claim() for _ in range(8)))
    assert claimed.count(None) == 1
    assert claimed.count(Repeat("request", None)) == 7
    await store.repeats.finish("default", "key", 200, b"an answer")
    assert await claim() == Repeat("request", 200, b"an answer")
    assert await store.repeats.claim("other", "key", "request", NOW, NOW) is None
    await store.repeats.drop("default", "key")
    assert await claim() is None
