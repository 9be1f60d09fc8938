"""What a list of sandboxes is asked for: filters, order, and the cursor to go on with. Pure."""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from control.errors import InvalidError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from control.model import Sandbox, Snapshot, State

MAX_LIMIT = 200
DEFAULT_LIMIT = 100
_CURSOR_LIMIT = 1024
_LAST_INTEGER = (1 << 63) - 1


class SortField(StrEnum):
    """What sandboxes can be sorted by, in the words of the wire."""

    ID = "id"
    NAME = "name"
    STATE = "state"
    SNAPSHOT = "snapshot"
    REGION = "region"
    CPU = "cpu"
    MEMORY = "memoryGib"
    DISK = "diskGib"
    CREATED = "createdAt"
    UPDATED = "updatedAt"
    ACTIVITY = "lastActivityAt"


# Times are compared as milliseconds.
_NUMBERS = frozenset(
    {
        SortField.CPU,
        SortField.MEMORY,
        SortField.DISK,
        SortField.CREATED,
        SortField.UPDATED,
        SortField.ACTIVITY,
    }
)


@dataclass(frozen=True, slots=True)
class Span:
    """From ``least`` to ``most``, both included; None is open."""

    least: int | None = None
    most: int | None = None


@dataclass(frozen=True, slots=True)
class Period:
    """After ``after`` and before ``before``; None is open."""

    after: datetime | None = None
    before: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Which sandboxes; empty fields do not filter. Destroyed ones are never among them.

    ``id_prefix`` and ``name_prefix`` are compared as they are; all ``labels`` must be there.
    Without an organisation they are those of all.
    """

    organization_id: str | None = None
    id_prefix: str = ""
    name_prefix: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    states: tuple[State, ...] = ()
    snapshots: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()
    cpu: Span = Span()
    memory_gib: Span = Span()
    disk_gib: Span = Span()
    public: bool | None = None
    recoverable: bool | None = None
    created: Period = Period()
    active: Period = Period()
    with_errored_deleted: bool = False
    with_hidden: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """By what, which way, and how many; ties go by id."""

    by: SortField = SortField.CREATED
    descending: bool = True
    limit: int | None = None
    offset: int = 0
    after: Position | None = None


@dataclass(frozen=True, slots=True)
class Position:
    """The last sandbox of a page: where the next page begins."""

    value: str | int
    sandbox_id: str


@dataclass(frozen=True, slots=True)
class Page:
    """Some of the sandboxes; ``next`` is None if there are no more."""

    sandboxes: list[Sandbox]
    next: Position | None


class SnapshotSort(StrEnum):
    """What snapshots are sorted by, in the words of the wire."""

    NAME = "name"
    STATE = "state"
    LAST_USED = "lastUsedAt"
    CREATED = "createdAt"


@dataclass(frozen=True, slots=True)
class SnapshotQuery:
    """Which snapshots, and in which order; ``name`` is a part of theirs."""

    name: str = ""
    source_sandbox_id: str = ""
    by: SnapshotSort = SnapshotSort.LAST_USED
    descending: bool = True
    limit: int = 100
    offset: int = 0


@dataclass(frozen=True, slots=True)
class SnapshotPage:
    """Some of the snapshots, and how many there are in all."""

    snapshots: list[Snapshot]
    total: int


def encode_cursor(order: Order, position: Position) -> str:
    """Write where the next page begins; it holds only for the same order."""
    parts = [order.by.value, order.descending, position.value, position.sandbox_id]
    return base64.urlsafe_b64encode(json.dumps(parts).encode()).decode().rstrip("=")


def decode_cursor(order: Order, cursor: str) -> Position:
    """Read a cursor that ``encode_cursor`` wrote for this order.

    Raises:
        InvalidError: it is none.
    """
    try:
        padded = cursor + "=" * (-len(cursor) % 4)
        parts: Any = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
        by, descending, value, sandbox_id = parts
    except (binascii.Error, ValueError, TypeError, RecursionError) as error:
        raise InvalidError("Invalid cursor") from error
    expected = int if order.by in _NUMBERS else str
    fits = type(value) is expected and isinstance(sandbox_id, str) and len(cursor) < _CURSOR_LIMIT
    if by != order.by.value or descending is not order.descending or not fits:
        raise InvalidError("Invalid cursor: it belongs to a list in another order")
    if isinstance(value, int) and abs(value) > _LAST_INTEGER:
        raise InvalidError("Invalid cursor")
    return Position(value, sandbox_id)
