"""What is kept: the interface, and its implementation over SQL.

Written are whole records, in short transactions that await nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from datetime import datetime

    from control.listing import Filter, Order, Page, SnapshotPage
    from control.model import ApiKey, DesiredState, Node, Sandbox, Snapshot, State
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


class SandboxStore(Protocol):
    """Records of sandboxes."""

    async def insert(self, sandbox: Sandbox, *, most: int) -> None:
        """Store a new record, durably.

        Raises:
            ConflictError: the name is taken.
            InvalidError: there are already ``most`` sandboxes.
        """
        ...

    async def get(self, id_or_name: str) -> Sandbox | None:
        """Return the record with this id or this name."""
        ...

    async def change(self, sandbox_id: SandboxId, mutate: Callable[[Sandbox], Sandbox]) -> Sandbox:
        """Replace a record by what ``mutate`` makes of it, atomically and durably.

        ``mutate`` may raise: then nothing is changed. Returning its argument writes nothing. It
        may be called twice, where the first was undone.

        Raises:
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

    async def survey(self) -> list[Outline]:
        """Return the outlines of all records, destroyed ones included."""
        ...

    async def disks(self) -> dict[str, int]:
        """Return the GiB that the limits of all disks sum up to, by node, stopped ones included."""
        ...


class SnapshotStore(Protocol):
    """Snapshots."""

    async def get(self, id_or_name: str) -> Snapshot | None:
        """Return the snapshot with this id or this name."""
        ...

    async def put(self, snapshot: Snapshot) -> None:
        """Store a snapshot in the place of one with the same id or name."""
        ...

    async def page(self, *, name: str, limit: int, offset: int) -> SnapshotPage:
        """Return snapshots whose name contains ``name``, the newest first."""
        ...


class KeyStore(Protocol):
    """API keys. What changes who may enter raises every live sandbox's assignment version."""

    async def all(self) -> list[ApiKey]:
        """Return all keys, the oldest first."""
        ...

    async def insert(self, key: ApiKey) -> list[SandboxId]:
        """Store a new key and return the sandboxes that must be told.

        Raises:
            ConflictError: the name is taken.
        """
        ...

    async def remove(self, name: str) -> list[SandboxId]:
        """Remove a key and return the sandboxes that must be told.

        Raises:
            NotFoundError: there is no such key.
        """
        ...

    async def used(self, times: Sequence[tuple[str, datetime]]) -> None:
        """Note when keys, by name, were last used."""
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
    def snapshots(self) -> SnapshotStore:
        """Snapshots."""
        ...

    @property
    def keys(self) -> KeyStore:
        """API keys."""
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

    def changes(self) -> AsyncIterator[SandboxId]:
        """Yield the ids of sandboxes as any process changes them; made and removed is changed, too.

        Never ends. From the first step on none is missed: after a lost connection every sandbox
        there is comes again. A store of one process yields nothing: whoever wrote knows.
        """
        ...

    async def ping(self) -> None:
        """Return if the store can be read.

        Raises:
            UnavailableError: it cannot.
        """
        ...
