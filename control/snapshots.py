"""What sandboxes are made from."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from control import snapshot_states
from control.errors import ConflictError, InvalidError, NotFoundError
from control.model import ORGANIZATION, Resources, Snapshot, SnapshotState
from control.references import image_name, reference
from control.wishes import Wish, wished_resources

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from control.listing import SnapshotPage, SnapshotQuery
    from control.settings import Settings
    from control.store import SnapshotStore, Store
    from jobs.images import Image

DEFAULT = "default"
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


class Snapshots:
    """The use cases around an organisation's snapshots."""

    def __init__(
        self,
        organization_id: str,
        store: SnapshotStore,
        settings: Settings,
        wake: Callable[[], None],
        now: Callable[[], datetime],
    ) -> None:
        self._owner, self._store, self._settings = organization_id, store, settings
        self._wake, self._now = wake, now

    async def create(
        self, name: str | None, image: str | None, wish: Wish, entrypoint: Sequence[str] = ()
    ) -> Snapshot:
        """Store a new snapshot whose image is fetched soon.

        Args:
            name: of the snapshot.
            image: its image, with a tag or a digest.
            wish: the resources of sandboxes made from it.
            entrypoint: what they run, empty for the image's own.

        Raises:
            InvalidError: something of it is not possible.
            ConflictError: the name is taken.
        """
        checked = snapshot_states.check_name(name)
        source = image_name(image)
        reference(source, self._settings.allowed_registries)
        now = self._now()
        snapshot = Snapshot(
            id=str(uuid.uuid4()),
            name=checked,
            organization_id=self._owner,
            image_id="",
            image_name=source,
            user="",
            entrypoint=tuple(entrypoint),
            resources=wished_resources(wish, _RESOURCES, self._settings),
            size_bytes=0,
            state=SnapshotState.PENDING,
            created_at=now,
            updated_at=now,
        )
        try:
            await self._store.insert(snapshot)
        except ConflictError as error:
            raise ConflictError(f"Snapshot with name {checked} already exists") from error
        self._wake()
        return snapshot

    async def page(self, wanted: SnapshotQuery) -> SnapshotPage:
        """Return the snapshots that fit."""
        return await self._store.page(self._owner, wanted)

    async def get(self, id_or_name: str) -> Snapshot:
        """Return a snapshot.

        Raises:
            NotFoundError: there is none.
        """
        return await existing_snapshot(self._store, self._owner, id_or_name)

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
