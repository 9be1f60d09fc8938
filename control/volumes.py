"""What users do with volumes. Each call changes the record; a node does the rest."""

from __future__ import annotations

import re
import uuid
from dataclasses import replace
from typing import TYPE_CHECKING

from control.errors import ConflictError, InvalidError, NotFoundError
from control.model import USABLE_VOLUMES, Mount, Volume, VolumeState
from control.mounts import check_together

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from control.settings import Settings
    from control.store import VolumeStore

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._ -]{0,127}")
_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.IGNORECASE)
_SHOWN_USERS = 3
_LISTED = frozenset(VolumeState) - {VolumeState.DELETED}


class Volumes:
    """The use cases around the volumes of one organisation: others do not exist for it."""

    def __init__(
        self,
        organization_id: str,
        store: VolumeStore,
        settings: Settings,
        wake: Callable[[], None],
        now: Callable[[], datetime],
    ) -> None:
        self._owner, self._store, self._settings = organization_id, store, settings
        self._wake, self._now = wake, now

    async def create(self, name: str) -> Volume:
        """Store a new volume; it can be mounted at once.

        Raises:
            InvalidError: the name is taken or none, or there are too many.
        """
        if _NAME.fullmatch(name) is None or _ID.fullmatch(name):
            raise InvalidError(
                "name must have 1 to 128 letters, digits, spaces, dots, dashes or underscores, "
                "begin with a letter or digit, and not look like an id"
            )
        now = self._now()
        volume = Volume(
            id=str(uuid.uuid4()),
            name=name,
            organization_id=self._owner,
            size_gib=self._settings.volume_gib,
            created_at=now,
            updated_at=now,
        )
        try:
            await self._store.insert(volume, most=self._settings.max_volumes)
        except ConflictError as error:
            raise InvalidError(f"Volume with name {name} already exists") from error
        self._wake()
        return volume

    async def all(self, *, with_deleted: bool) -> list[Volume]:
        """Return all volumes, the oldest first."""
        return await self._store.all(
            frozenset(VolumeState) if with_deleted else _LISTED, self._owner
        )

    async def get(self, volume_id: str) -> Volume:
        """Return a volume, also one that was deleted lately.

        Raises:
            NotFoundError: there is none.
        """
        volume = await self._store.get(volume_id)
        if volume is None or volume.organization_id != self._owner:
            raise NotFoundError(f"Volume with ID {volume_id} not found")
        return volume

    async def named(self, name: str) -> Volume:
        """Return the volume with this name.

        Raises:
            NotFoundError: there is none.
        """
        volume = await self._store.named(self._owner, name)
        if volume is None:
            raise NotFoundError(f"Volume with name {name} not found")
        return volume

    async def delete(self, volume_id: str) -> None:
        """Have a volume removed with all that is in it; does not wait for it.

        Raises:
            NotFoundError: there is none.
            InvalidError: it is not ready, or was deleted already.
            ConflictError: a sandbox has it.
        """
        volume, now = await self.get(volume_id), self._now()
        await self._store.change(volume.id, lambda volume, users: deleted(volume, users, now))
        self._wake()


def deleted(volume: Volume, users: Sequence[str], now: datetime) -> Volume:
    """Ask for the end of a volume; its name is free at once.

    Raises:
        InvalidError: it is not ready, or was deleted already.
        ConflictError: sandboxes have it.
    """
    if volume.state not in {VolumeState.READY, VolumeState.ERROR}:
        raise InvalidError(
            f"Volume must be in ready or error state to be deleted. Current state: "
            f"{volume.state.value}"
        )
    if users:
        shown = ", ".join(users[:_SHOWN_USERS])
        more = f" and {len(users) - _SHOWN_USERS} more" if len(users) > _SHOWN_USERS else ""
        raise ConflictError(
            f"Volume cannot be deleted because it is in use by one or more sandboxes: {shown}{more}"
        )
    name = f"DELETED_{volume.name}_{int(now.timestamp() * 1000)}"
    return replace(
        volume, name=name, state=VolumeState.PENDING_DELETE, error_reason=None, updated_at=now
    )


async def usable_mounts(
    store: VolumeStore, organization_id: str, wanted: Sequence[Mount]
) -> tuple[Mount, ...]:
    """Return where a new sandbox has its volumes, with their ids in the place of names.

    Raises:
        InvalidError: its organisation does not have one, or it cannot be used, or they cannot be
            together.
    """
    check_together(wanted)
    mounts, found = [], []
    for mount in wanted:
        if _ID.fullmatch(mount.volume_id):
            volume = await store.get(mount.volume_id.lower())
        else:
            volume = await store.named(organization_id, mount.volume_id)
        if volume is None or volume.organization_id != organization_id:
            raise InvalidError(f"Volume '{mount.volume_id}' not found")
        if volume.state not in USABLE_VOLUMES:
            raise InvalidError(
                f"Volume '{volume.name}' is not in a ready state. Current state: "
                f"{volume.state.value}"
            )
        found.append(volume)
        mounts.append(replace(mount, volume_id=volume.id))
    check_place(found)
    return tuple(mounts)


def check_place(volumes: Sequence[Volume]) -> None:
    """Check that one node has them all, as far as they are anywhere.

    Raises:
        InvalidError: they are on different nodes.
    """
    placed = sorted((volume.node, volume.name) for volume in volumes if volume.node)
    if placed and placed[0][0] != placed[-1][0]:
        (node, name), (other_node, other) = placed[0], placed[-1]
        raise InvalidError(
            f"Volumes '{name}' and '{other}' are on different nodes ({node}, {other_node}): a "
            "sandbox can have volumes of one node only"
        )
