"""What is kept: the interface, and its implementation over SQL.

Written are whole records, in short transactions that await nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Collection, Sequence
    from datetime import datetime

    from control.listing import Filter, Order, Page, SnapshotPage, SnapshotQuery
    from control.model import (
        ApiKey,
        AuditLine,
        DesiredState,
        Node,
        Organization,
        Repeat,
        Sandbox,
        Snapshot,
        SnapshotState,
        State,
        Usage,
        Volume,
        VolumeState,
    )
    from control.naming import SandboxId


@dataclass(frozen=True, slots=True)
class Outline:
    """As much of a record as tells whether it needs a closer look."""

    id: SandboxId
    state: State
    desired_state: DesiredState
    generation: int
    pushed_version: int
    assignment_version: int
    changed_at: datetime
    has_archive: bool


class SandboxStore(Protocol):
    """Records of sandboxes."""

    async def insert(self, sandbox: Sandbox, *, most: int) -> None:
        """Store a new record, durably.

        Raises:
            ConflictError: the name is taken in its organisation.
            InvalidError: there are already ``most`` sandboxes, its organisation may have no more,
                or a volume of it is not usable any more.
            NotFoundError: there is no such organisation.
        """
        ...

    async def get(self, sandbox_id: str) -> Sandbox | None:
        """Return the record with this id."""
        ...

    async def named(self, organization_id: str, name: str) -> Sandbox | None:
        """Return the record that an organisation has under this name."""
        ...

    async def change(self, sandbox_id: SandboxId, mutate: Callable[[Sandbox], Sandbox]) -> Sandbox:
        """Replace a record by what ``mutate`` makes of it, atomically and durably.

        ``mutate`` may raise: then nothing is changed. Returning its argument writes nothing. It
        may be called twice, where the first was undone.

        Raises:
            InvalidError: the organisation may not use that much.
            NotFoundError: there is no such record.
        """
        ...

    async def remove(self, sandbox_id: SandboxId) -> None:
        """Remove a record; one that is not there is fine."""
        ...

    async def page(self, wanted: Filter, order: Order) -> Page:
        """Return the records that fit."""
        ...

    async def count(self, wanted: Filter) -> int:
        """Return how many records fit."""
        ...

    async def states(self) -> dict[str, int]:
        """Return how many records there are in each state."""
        ...

    async def survey(self) -> list[Outline]:
        """Return the outlines of all records, destroyed ones included."""
        ...

    async def due(self, now: datetime, *, running: bool) -> dict[SandboxId, datetime]:
        """Return the sandboxes whose ``due_at`` is over, and with ``running`` all started ones.

        With what that is; the first comes first.
        """
        ...

    async def images(self) -> set[str]:
        """Return the images that sandboxes need, stopped ones included."""
        ...

    async def awaiting(self) -> list[Sandbox]:
        """Return the sandboxes whose image is to be made, or that one is being made of."""
        ...

    async def disks(self) -> dict[str, int]:
        """Return the GiB that the limits of all disks sum up to, by node.

        Those of stopped sandboxes are included, and volumes.
        """
        ...

    async def usage(self, organization_id: str) -> Usage:
        """Return what an organisation uses."""
        ...


class VolumeStore(Protocol):
    """Volumes."""

    async def insert(self, volume: Volume, *, most: int) -> None:
        """Store a new volume, durably.

        Raises:
            ConflictError: the name is taken in its organisation.
            InvalidError: the organisation has ``most`` volumes already, or its limits allow no more
                disk.
        """
        ...

    async def get(self, volume_id: str) -> Volume | None:
        """Return the volume with this id."""
        ...

    async def named(self, organization_id: str, name: str) -> Volume | None:
        """Return the volume that an organisation has under this name."""
        ...

    async def all(
        self, states: Collection[VolumeState], organization_id: str | None = None
    ) -> list[Volume]:
        """Return all volumes in some states, maybe of one organisation only, the oldest first."""
        ...

    async def change(
        self, volume_id: str, mutate: Callable[[Volume, Sequence[str]], Volume]
    ) -> Volume:
        """Replace a volume by what ``mutate`` makes of it, atomically and durably.

        It is given the names of the sandboxes that have the volume and are not deleted; none comes
        to have it meanwhile. It may raise: then nothing is changed.

        Raises:
            NotFoundError: there is no such volume.
        """
        ...

    async def is_free(self, volume_id: str) -> bool:
        """Tell whether of each sandbox that had the volume nothing is left but the record."""
        ...

    async def remove(self, volume_id: str) -> None:
        """Remove a volume's record; one that is not there is fine."""
        ...


class SnapshotStore(Protocol):
    """Snapshots."""

    async def get(self, organization_id: str, id_or_name: str) -> Snapshot | None:
        """Return the snapshot with this id or this name that an organisation may use.

        Its own go before the general ones.
        """
        ...

    async def put(self, snapshot: Snapshot) -> None:
        """Store a snapshot in the place of one with the same id, or the same owner and name."""
        ...

    async def insert(self, snapshot: Snapshot) -> None:
        """Store a new snapshot.

        Raises:
            ConflictError: its owner has one of that name.
        """
        ...

    async def change(self, snapshot_id: str, mutate: Callable[[Snapshot], Snapshot]) -> Snapshot:
        """Replace a snapshot by what ``mutate`` makes of it, as ``SandboxStore.change`` does.

        Raises:
            NotFoundError: there is no such snapshot.
        """
        ...

    async def remove(self, snapshot_id: str) -> None:
        """Remove a snapshot; one that is not there is fine."""
        ...

    async def page(self, organization_id: str, wanted: SnapshotQuery) -> SnapshotPage:
        """Return what fits of all that an organisation may use."""
        ...

    async def in_states(self, states: Collection[SnapshotState]) -> list[Snapshot]:
        """Return everybody's snapshots in these states, the oldest first."""
        ...

    async def outdated(self, before: datetime) -> list[Snapshot]:
        """Return everybody's hidden snapshots that are made, and were before a time."""
        ...

    async def images(self) -> set[str]:
        """Return the images of all snapshots."""
        ...


class BuildLogStore(Protocol):
    """What builds said, in numbered pieces; they go with the snapshot."""

    async def append(self, snapshot_id: str, number: int, text: str) -> None:
        """Store a piece, after those with lower numbers."""
        ...

    async def read(self, snapshot_id: str, after: int = -1) -> list[tuple[int, str]]:
        """Return some pieces with higher numbers than ``after``, in order; none if that is all."""
        ...

    async def clear(self, snapshot_id: str) -> None:
        """Forget what an earlier attempt said."""
        ...


class OrganizationStore(Protocol):
    """Organisations."""

    async def all(self) -> list[Organization]:
        """Return all organisations, the oldest first."""
        ...

    async def get(self, organization_id: str) -> Organization | None:
        """Return the organisation with this id."""
        ...

    async def insert(self, organization: Organization, key: ApiKey) -> None:
        """Store a new organisation with its first key: both or none.

        Raises:
            ConflictError: the name is taken.
        """
        ...

    async def change(
        self, organization_id: str, mutate: Callable[[Organization], Organization]
    ) -> Organization:
        """Replace an organisation by what ``mutate`` makes of it, atomically.

        Raises:
            NotFoundError: there is none.
            ConflictError: the name is taken.
        """
        ...

    async def remove(self, organization_id: str) -> None:
        """Remove an organisation with its keys; one that is not there is fine.

        Raises:
            ConflictError: it has sandboxes.
        """
        ...


class KeyStore(Protocol):
    """API keys.

    What changes who may enter raises the assignment version of every live sandbox of the
    organisation.
    """

    async def all(self) -> list[ApiKey]:
        """Return all keys, the oldest first."""
        ...

    async def insert(self, key: ApiKey) -> list[SandboxId]:
        """Store a new key and return the sandboxes that must be told.

        Raises:
            ConflictError: the name is taken in its organisation.
        """
        ...

    async def remove(self, organization_id: str, name: str) -> list[SandboxId]:
        """Remove a key and return the sandboxes that must be told.

        Raises:
            NotFoundError: there is no such key.
        """
        ...

    async def used(self, times: Sequence[tuple[str, datetime]]) -> None:
        """Note when keys, by prefix, were last used."""
        ...


class TrailStore(Protocol):
    """The audit log."""

    async def add(self, line: AuditLine) -> None:
        """Store a line."""
        ...

    async def page(
        self, organization_id: str, *, limit: int, offset: int
    ) -> tuple[list[AuditLine], int]:
        """Return an organisation's lines, the newest first, and how many there are in all."""
        ...

    async def forget(self, before: datetime) -> None:
        """Remove the lines that are older."""
        ...


class RepeatStore(Protocol):
    """Answers of calls with an idempotency key."""

    async def claim(
        self, organization_id: str, key: str, request: str, now: datetime, stale: datetime
    ) -> Repeat | None:
        """Take a key for a request that is to be carried out, or return what is known of it.

        One that was taken before ``stale`` and never answered is taken anew.
        """
        ...

    async def finish(self, organization_id: str, key: str, status: int, body: bytes) -> None:
        """Store the answer."""
        ...

    async def drop(self, organization_id: str, key: str) -> None:
        """Give a key back: its request was not carried out."""
        ...

    async def forget(self, before: datetime) -> None:
        """Remove what is older."""
        ...


class NodeStore(Protocol):
    """Nodes; the key of each is readable with the installation's own secrets only."""

    async def put(self, node: Node) -> None:
        """Store a node in the place of one with the same name."""
        ...

    async def get(self, name: str) -> Node | None:
        """Return the node with this name."""
        ...

    async def all(self) -> list[Node]:
        """Return all nodes, by name."""
        ...

    async def remove(self, name: str) -> None:
        """Remove a node; one that is not there is fine."""
        ...


class Store(Protocol):
    """Everything that is kept."""

    @property
    def sandboxes(self) -> SandboxStore:
        """Records of sandboxes."""
        ...

    @property
    def volumes(self) -> VolumeStore:
        """Volumes."""
        ...

    @property
    def snapshots(self) -> SnapshotStore:
        """Snapshots."""
        ...

    @property
    def build_logs(self) -> BuildLogStore:
        """What builds said."""
        ...

    @property
    def organizations(self) -> OrganizationStore:
        """Organisations."""
        ...

    @property
    def keys(self) -> KeyStore:
        """API keys."""
        ...

    @property
    def repeats(self) -> RepeatStore:
        """Answers of calls with an idempotency key."""
        ...

    @property
    def trail(self) -> TrailStore:
        """The audit log."""
        ...

    @property
    def nodes(self) -> NodeStore:
        """Nodes."""
        ...

    async def lease(self, name: str, holder: str, seconds: float) -> bool:
        """Take or renew a lease for ``seconds`` from now, unless another holder's has not expired.

        Counted by the database's clock. A holder counts from before the call, and does nothing in
        the lease's name once that much time is over, also if this raises.

        Raises:
            UnavailableError: nobody knows; ask again.
        """
        ...

    async def release(self, name: str, holder: str) -> None:
        """Give a lease back; one that is another's by now stays theirs."""
        ...

    async def rekey(self) -> int:
        """Seal anew what an older master key sealed; return how many values that were.

        Raises:
            VaultError: a value opens by none of the keys.
        """
        ...

    def changes(self) -> AsyncIterator[SandboxId]:
        """Yield the ids of sandboxes as others change them; made and removed is changed, too.

        Never ends. From the first step on none is missed: after a lost connection every sandbox
        there is comes again. What this store was asked to write is left out: whoever asked knows.
        """
        ...

    async def ping(self) -> None:
        """Return if the store can be read.

        Raises:
            UnavailableError: it cannot.
        """
        ...
