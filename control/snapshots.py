"""What sandboxes are made from."""

from __future__ import annotations

import hashlib
import json
import uuid
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from control import dockerfiles, snapshot_states
from control.errors import ConflictError, InvalidError, NotFoundError
from control.model import ORGANIZATION, Resources, Snapshot, SnapshotState
from control.references import image_name, reference
from control.wishes import Wish, wished_resources

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from control.listing import SnapshotPage, SnapshotQuery
    from control.model import Build, Sandbox
    from control.settings import Settings
    from control.store import SnapshotStore, Store
    from jobs.images import Image

DEFAULT = "default"
_BUILT = "_build_"  # no user's snapshot can be called like that
_RESOURCES = Resources(cpu=1, memory_gib=1, disk_gib=3)


async def ensure_default_snapshot(
    store: Store, image: Image, resources: Resources = _RESOURCES
) -> Snapshot:
    """Make ``image`` what sandboxes are made from when none is asked for.

    Sandboxes that exist keep theirs.
    """
    now = datetime.now(UTC)
    known = await store.snapshots.get(ORGANIZATION, DEFAULT)
    if known is not None and (known.image_id, known.resources) == (image.id, resources):
        return known
    snapshot = Snapshot(
        id=known.id if known else str(uuid.uuid4()),
        name=DEFAULT,
        general=True,
        image_id=image.id,
        user=image.user or "root",
        resources=resources,
        size_bytes=image.size_bytes,
        created_at=known.created_at if known else now,
        updated_at=now,
    )
    await store.snapshots.put(snapshot)
    return snapshot


async def usable_snapshot(store: SnapshotStore, organization_id: str, name: str | None) -> Snapshot:
    """Return the snapshot to make a sandbox from; without a name, the default one.

    Raises:
        InvalidError: there is none, or it cannot be used; the text is the wire's.
    """
    snapshot = await store.get(organization_id, name or DEFAULT)
    if snapshot is None and not name:
        raise InvalidError("There is no default snapshot yet: `yurt up` makes one")
    if snapshot is None:
        raise InvalidError(
            f"Snapshot {name} not found. Did you add it through the Daytona Dashboard?"
        )
    if snapshot.state is not SnapshotState.ACTIVE:
        raise InvalidError(f"Snapshot {name} is {snapshot.state.value}")
    return snapshot


async def existing_snapshot(
    store: SnapshotStore, organization_id: str, id_or_name: str
) -> Snapshot:
    """Return a snapshot that an organisation may use.

    Raises:
        NotFoundError: there is none, or it is another's.
    """
    snapshot = await store.get(organization_id, id_or_name)
    if snapshot is None:
        raise NotFoundError(f"Snapshot with ID or name {id_or_name} not found")
    return snapshot


def digest_of(build: Build) -> str:
    """Name a build by what it is made from."""
    text = json.dumps([build.dockerfile, build.contexts])
    return hashlib.sha256(text.encode()).hexdigest()


class Snapshots:
    """The use cases around an organisation's snapshots; ``owner`` is its id."""

    def __init__(
        self,
        organization_id: str,
        store: SnapshotStore,
        settings: Settings,
        wake: Callable[[], None],
        now: Callable[[], datetime],
    ) -> None:
        self.owner, self._store, self._settings = organization_id, store, settings
        self._wake, self._now = wake, now

    async def create(
        self, name: str | None, image: str | None, wish: Wish, entrypoint: Sequence[str] = ()
    ) -> Snapshot:
        """Store a new snapshot whose image is fetched or built soon.

        Args:
            name: of the snapshot.
            image: its image, with a tag or a digest, unless it is built.
            wish: the resources of sandboxes made from it, and how it is built.
            entrypoint: what they run, empty for the image's own.

        Raises:
            InvalidError: something of it is not possible.
            ConflictError: the name is taken.
        """
        checked = snapshot_states.check_name(name)
        source = "" if wish.build else image_name(image)
        self._require_allowed(wish.build, source)
        resources = wished_resources(wish, _RESOURCES, self._settings)
        new = self._new(checked, resources, tuple(entrypoint))
        return await self._insert(replace(new, image_name=source, build=wish.build))

    async def of_build(self, wish: Wish) -> Snapshot:
        """Return what a build makes, which others may have asked for; it is made if need be.

        Raises:
            InvalidError: its base image is not allowed.
        """
        build = wish.build
        assert build is not None
        self._require_allowed(build, "")
        name = f"{_BUILT}{digest_of(build)}"
        known = await self._store.get(self.owner, name)
        if known is None:
            resources = wished_resources(wish, _RESOURCES, self._settings)
            new = replace(self._new(name, resources), build=build, hidden=True)
            try:
                return await self._insert(new)
            except ConflictError:  # somebody else was faster
                known = await self.get(name)
        now = self._now()
        asked = await self._store.change(known.id, lambda there: snapshot_states.again(there, now))
        self._wake()
        return asked

    async def of_sandbox(self, sandbox: Sandbox, name: str) -> Snapshot:
        """Store a new snapshot of a sandbox; it is made as soon as the sandbox's record names it.

        Raises:
            InvalidError: the name is not possible.
            ConflictError: the name is taken.
        """
        new = self._new(snapshot_states.check_name(name), sandbox.resources, sandbox.entrypoint)
        return await self._insert(
            replace(
                new,
                user=sandbox.user,
                private_ports=sandbox.private_ports,
                source_sandbox_id=sandbox.id,
            )
        )

    async def forget(self, snapshot: Snapshot) -> None:
        """Take back a snapshot that is not to be made after all."""
        await self._store.remove(snapshot.id)

    def _require_allowed(self, build: Build | None, image: str) -> None:
        base = dockerfiles.read(build.dockerfile).base if build else image
        reference(base, self._settings.allowed_registries, self._settings.docker_mirror)

    def _new(self, name: str, resources: Resources, entrypoint: tuple[str, ...] = ()) -> Snapshot:
        now = self._now()
        return Snapshot(
            id=str(uuid.uuid4()),
            name=name,
            organization_id=self.owner,
            image_id="",
            user="",
            entrypoint=entrypoint,
            resources=resources,
            size_bytes=0,
            state=SnapshotState.PENDING,
            created_at=now,
            updated_at=now,
        )

    async def _insert(self, snapshot: Snapshot) -> Snapshot:
        try:
            await self._store.insert(snapshot)
        except ConflictError as error:
            raise ConflictError(f"Snapshot with name {snapshot.name} already exists") from error
        self._wake()
        return snapshot

    async def page(self, wanted: SnapshotQuery) -> SnapshotPage:
        """Return the snapshots that fit."""
        return await self._store.page(self.owner, wanted)

    async def get(self, id_or_name: str) -> Snapshot:
        """Return a snapshot.

        Raises:
            NotFoundError: there is none.
        """
        return await existing_snapshot(self._store, self.owner, id_or_name)

    async def activate(self, id_or_name: str) -> Snapshot:
        """Let sandboxes be made from it again."""
        return await self._change(id_or_name, snapshot_states.activate)

    async def deactivate(self, id_or_name: str) -> Snapshot:
        """Let no more sandboxes be made from it."""
        return await self._change(id_or_name, snapshot_states.deactivate)

    async def delete(self, id_or_name: str) -> Snapshot:
        """Have a snapshot removed; sandboxes made from it go on, and start again."""
        removed = await self._change(id_or_name, snapshot_states.remove)
        self._wake()
        return removed

    async def _change(
        self, id_or_name: str, change: Callable[[Snapshot, datetime], Snapshot]
    ) -> Snapshot:
        found, now = await self.get(id_or_name), self._now()
        return await self._store.change(found.id, lambda known: change(known, now))
