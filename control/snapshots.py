"""What sandboxes are made from."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from control.errors import InvalidError, NotFoundError
from control.model import ORGANIZATION, Resources, Snapshot, SnapshotState

if TYPE_CHECKING:
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
