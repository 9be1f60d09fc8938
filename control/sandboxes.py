"""What users do with sandboxes. Each call changes the record; reconciling does the rest."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

from control import lifecycle, previews, snapshot_states
from control.archives import new_archive_key
from control.errors import ConflictError, InvalidError, NotFoundError, YurtError
from control.model import (
    REGION,
    STARTING_STATES,
    Sandbox,
    Secrets,
    Snapshot,
    SnapshotState,
    State,
)
from control.naming import PreviewHost, new_sandbox_id, preview_host
from control.snapshots import usable_snapshot
from control.volumes import usable_mounts
from control.wishes import check, checked_size, wished_resources

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from datetime import datetime

    from control.listing import Filter, Order, Page
    from control.model import Resources, Size
    from control.naming import SandboxId
    from control.records import Records
    from control.settings import Settings
    from control.snapshots import Snapshots
    from control.store import Store
    from control.wishes import Wish

_USE = timedelta(minutes=1)


class Sandboxes:
    """The use cases around the sandboxes of one organisation: others do not exist for it."""

    def __init__(
        self,
        snapshots: Snapshots,
        store: Store,
        records: Records,
        settings: Settings,
        wake: Callable[[SandboxId], None],
        now: Callable[[], datetime],
    ) -> None:
        """Prepare; they are of the organisation that ``snapshots`` are of."""
        self._owner, self._snapshots = snapshots.owner, snapshots
        self._store, self._records, self._settings = store, records, settings
        self._wake, self._now = wake, now

    async def create(self, wish: Wish) -> Sandbox:
        """Store a new sandbox and wait until it is started, has failed, or takes too long.

        One whose image is to be built first is returned at once.

        Raises:
            InvalidError: the wish cannot be fulfilled as it is.
            ConflictError: the name is taken.
        """
        check(wish)
        if wish.build is None:
            snapshot = await usable_snapshot(self._store.snapshots, self._owner, wish.snapshot)
        else:
            snapshot = await self._snapshots.of_build(wish)
        mounts = await usable_mounts(self._store.volumes, self._owner, wish.volumes)
        sandbox = self._described(replace(wish, volumes=mounts), snapshot)
        try:
            await self._records.insert(sandbox, most=self._settings.max_sandboxes)
        except ConflictError as error:
            raise ConflictError(f"Sandbox with name {sandbox.name} already exists") from error
        self._wake(sandbox.id)
        await self._note_use(snapshot)
        return await self._until(sandbox, lambda s: s.state not in STARTING_STATES)

    async def _note_use(self, snapshot: Snapshot) -> None:
        """Note when a snapshot was last used, not more often than anybody could care."""
        now, before = self._now(), snapshot.last_used_at
        if before is None or now - before > _USE:
            with suppress(NotFoundError):
                await self._store.snapshots.change(
                    snapshot.id, lambda known: snapshot_states.used(known, now)
                )

    def _described(self, wish: Wish, snapshot: Snapshot) -> Sandbox:
        now, sandbox_id = self._now(), new_sandbox_id()
        is_there = snapshot.state is SnapshotState.ACTIVE
        return Sandbox(
            id=sandbox_id,
            name=wish.name or sandbox_id,
            organization_id=self._owner,
            snapshot=snapshot.name,
            image_id=snapshot.image_id if is_there else "",
            user=wish.user or snapshot.user,
            entrypoint=snapshot.entrypoint,
            labels=wish.labels,
            public=wish.public,
            private_ports=snapshot.private_ports,
            network=wish.network,
            volumes=wish.volumes,
            target=wish.target or REGION,
            resources=wished_resources(wish, snapshot.resources, self._settings),
            intervals=wish.intervals,
            state=State.CREATING if is_there else State.PENDING_BUILD,
            build=wish.build,
            destroy_at=wish.intervals.end(now),
            created_at=now,
            updated_at=now,
            changed_at=now,
            last_activity_at=now,
            secrets=Secrets(env=wish.env),
        )

    async def get(self, id_or_name: str) -> Sandbox:
        """Return a sandbox.

        Raises:
            NotFoundError: there is none.
        """
        return await self._records.find(self._owner, id_or_name)

    async def page(self, wanted: Filter, order: Order) -> Page:
        """Return a part of the sandboxes that fit."""
        return await self._store.sandboxes.page(self._own(wanted), order)

    async def count(self, wanted: Filter) -> int:
        """Return how many sandboxes fit."""
        return await self._store.sandboxes.count(self._own(wanted))

    def _own(self, wanted: Filter) -> Filter:
        return replace(wanted, organization_id=self._owner)

    async def start(self, id_or_name: str) -> Sandbox:
        """Start a sandbox and wait until it is, has failed, or takes too long."""
        started = await self._move(id_or_name, lifecycle.start)
        coming = STARTING_STATES | {State.STOPPING}  # the latter starts when it has stopped
        return await self._until(started, lambda s: s.state not in coming)

    async def recover(self, id_or_name: str) -> Sandbox:
        """Start a sandbox anew whose start failed; wait as ``start`` does."""
        started = await self._move(id_or_name, lifecycle.recover)
        return await self._until(started, lambda s: s.state not in STARTING_STATES)

    async def stop(self, id_or_name: str) -> Sandbox:
        """Stop a sandbox and wait until it is or takes too long; its disk stays."""
        stopped = await self._move(id_or_name, lifecycle.stop)
        return await self._until(
            stopped, lambda s: s.state not in {State.STOPPING, State.DESTROYING}
        )

    async def archive(self, id_or_name: str) -> Sandbox:
        """Have the files of a stopped sandbox moved to the object store; does not wait for it."""
        key = new_archive_key()
        return await self._move(id_or_name, lambda s, now: lifecycle.archive(s, now, key))

    async def resize(
        self,
        id_or_name: str,
        size: Size,
        require_growth: Callable[[Sandbox, Resources], Awaitable[None]],
    ) -> Sandbox:
        """Give a sandbox another size; one that runs has it when this returns.

        ``require_growth`` requires that the sandbox's node has room.

        Raises:
            NotFoundError: there is no such sandbox, or it was deleted.
            ConflictError: it is on its way to somewhere else.
            InvalidError: it cannot have that size, or not now, or its organisation may not.
            NoCapacityError: its node has no room for that.
        """
        size = checked_size(size, self._settings)
        now, sandbox = self._now(), await self.get(id_or_name)
        lifecycle.resize(sandbox, size, now)
        await require_growth(sandbox, size.of(sandbox.resources))
        changed = await self._records.change(
            sandbox.id, lambda record: lifecycle.resize(record, size, now)
        )
        self._wake(sandbox.id)
        version = changed.assignment_version
        return await self._until(
            changed, lambda s: s.state is not State.STARTED or s.run.pushed_version >= version
        )

    async def delete(self, id_or_name: str) -> Sandbox:
        """Have a sandbox removed, whatever state it is in; does not wait for it."""
        return await self._move(id_or_name, lifecycle.delete)

    async def snapshot(self, id_or_name: str, name: str) -> Sandbox:
        """Make a snapshot of a sandbox, and wait until it is there or takes too long.

        Raises:
            InvalidError: the name is not possible, or the sandbox neither started nor stopped.
            ConflictError: the name is taken, or the sandbox is on its way to somewhere else.
        """
        sandbox, now = await self.get(id_or_name), self._now()
        lifecycle.snapshot(sandbox, "", now)  # before anything is stored
        made = await self._snapshots.of_sandbox(sandbox, name)
        try:
            marked = await self._records.change(
                sandbox.id, lambda record: lifecycle.snapshot(record, made.id, now)
            )
        except YurtError:
            await self._snapshots.forget(made)
            raise
        return await self._until(marked, lambda s: s.snapshotting != made.id)

    async def _move(
        self, id_or_name: str, change: Callable[[Sandbox, datetime], Sandbox]
    ) -> Sandbox:
        sandbox = await self.get(id_or_name)
        now = self._now()
        changed = await self._records.change(sandbox.id, lambda record: change(record, now))
        self._wake(sandbox.id)
        return changed

    async def _until(self, sandbox: Sandbox, done: Callable[[Sandbox], bool]) -> Sandbox:
        return await self._records.wait(sandbox, done, self._settings.hold_seconds)

    async def amend(self, id_or_name: str, change: Callable[[Sandbox], Sandbox]) -> Sandbox:
        """Change what a user may change at any time; the gate is told if it must know.

        Raises:
            NotFoundError: there is no such sandbox, or it was deleted.
        """
        sandbox = await self.get(id_or_name)
        changed = await self._records.change(sandbox.id, lifecycle.amend(change, self._now()))
        if changed.run.pushed_version < changed.assignment_version:
            self._wake(sandbox.id)
        return changed

    async def touch(self, id_or_name: str) -> Sandbox:
        """Note activity."""
        sandbox = await self.get(id_or_name)
        now = self._now()
        return await self._records.change(sandbox.id, lambda record: lifecycle.touch(record, now))

    async def set_ttl(self, id_or_name: str, minutes: int) -> Sandbox:
        """Have a sandbox deleted after so many minutes from now, whatever it does; 0 is never."""
        now = self._now()

        def changed(sandbox: Sandbox) -> Sandbox:
            intervals = replace(sandbox.intervals, ttl=minutes)
            return replace(sandbox, intervals=intervals, destroy_at=intervals.end(now))

        return await self.amend(id_or_name, changed)

    # -- previews ------------------------------------------------------------------------------

    def preview_url(self, sandbox: Sandbox, port: int, label: str | None = None) -> str:
        """Return the URL of a port, signed with ``label`` if there is one."""
        host = PreviewHost(port, sandbox.id, label)
        return self._settings.preview_url(preview_host(host, self._settings.domains[0]))

    def signed_label(self, sandbox: Sandbox, port: int, seconds: int) -> str:
        """Return a label that opens ``port`` for a while.

        Raises:
            InvalidError: that is too short or too long.
        """
        if not 1 <= seconds <= previews.MAX_SECONDS:
            raise InvalidError(f"expiresInSeconds must be from 1 to {previews.MAX_SECONDS}")
        return previews.sign(sandbox, port, int(self._now().timestamp()) + seconds)

    async def revoke_label(self, id_or_name: str, port: int, label: str) -> None:
        """Call a signed preview back."""
        now = self._now()
        await self.amend(id_or_name, lambda s: previews.revoke(s, port, label, now))


def with_new_file_key(sandbox: Sandbox) -> Sandbox:
    """Give a sandbox a new key for signed file URLs; older URLs end."""
    fresh = Secrets().file_signing_key
    return replace(sandbox, secrets=replace(sandbox.secrets, file_signing_key=fresh))
