"""Filters and orders as SQL. Values are always bound, never written into a statement."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import ColumnElement, Select, and_, case, func, literal, not_, select, tuple_

from control.listing import Filter, Order, Period, Position, SortField, Span
from control.model import DISKLESS_STATES, RESTING_STATES, DesiredState, Sandbox, State, VolumeState
from control.store.rows import to_ms
from control.store.tables import labels, sandboxes, snapshots, volumes

if TYPE_CHECKING:
    from collections.abc import Iterator

_COLUMNS = {
    SortField.ID: sandboxes.c.id,
    SortField.NAME: sandboxes.c.name,
    SortField.STATE: sandboxes.c.state,
    SortField.SNAPSHOT: sandboxes.c.snapshot,
    SortField.REGION: sandboxes.c.target,
    SortField.CPU: sandboxes.c.cpu,
    SortField.MEMORY: sandboxes.c.memory_gib,
    SortField.DISK: sandboxes.c.disk_gib,
    SortField.CREATED: sandboxes.c.created_at,
    SortField.UPDATED: sandboxes.c.updated_at,
    SortField.ACTIVITY: sandboxes.c.last_activity_at,
}


def matching(wanted: Filter) -> ColumnElement[bool]:
    """Write a filter as a condition on ``sandboxes``."""
    return and_(*_conditions(wanted))


def _conditions(wanted: Filter) -> Iterator[ColumnElement[bool]]:
    c = sandboxes.c
    yield c.state != State.DESTROYED.value
    if not wanted.with_hidden:
        yield not_(c.hidden)
    if wanted.organization_id is not None:
        yield c.organization_id == wanted.organization_id
    if not wanted.with_errored_deleted:
        failed = c.state.in_([State.ERROR.value, State.BUILD_FAILED.value])
        yield not_(and_(failed, c.desired_state == DesiredState.DESTROYED.value))
    for column, prefix in ((c.id, wanted.id_prefix), (c.name, wanted.name_prefix)):
        if prefix:
            yield func.substr(column, 1, len(prefix)) == prefix
    for key, value in wanted.labels.items():
        yield (
            select(labels.c.sandbox_id)
            .where(labels.c.sandbox_id == c.id, labels.c.key == key, labels.c.value == value)
            .exists()
        )
    yield from _choices(wanted)
    yield from _ranges(wanted)


def _choices(wanted: Filter) -> Iterator[ColumnElement[bool]]:
    c = sandboxes.c
    if wanted.states:
        yield c.state.in_([state.value for state in wanted.states])
    if wanted.snapshots:
        yield c.snapshot.in_(wanted.snapshots)
    if wanted.targets:
        yield c.target.in_(wanted.targets)
    if wanted.public is not None:
        yield c.public == wanted.public
    if wanted.recoverable is not None:
        yield c.recoverable == wanted.recoverable


def _ranges(wanted: Filter) -> Iterator[ColumnElement[bool]]:
    c = sandboxes.c
    spans = [(c.cpu, wanted.cpu), (c.memory_gib, wanted.memory_gib), (c.disk_gib, wanted.disk_gib)]
    spans += [
        (c.created_at, _milliseconds(wanted.created)),
        (c.last_activity_at, _milliseconds(wanted.active)),
    ]
    for column, span in spans:
        if span.least is not None:
            yield column >= span.least
        if span.most is not None:
            yield column <= span.most


def _milliseconds(period: Period) -> Span:
    return Span(
        None if period.after is None else to_ms(period.after) + 1,
        None if period.before is None else to_ms(period.before) - 1,
    )


def usage_of(organization_id: str) -> Select[Any]:
    """Write a statement for one row with the fields of ``Usage``."""
    c = sandboxes.c
    runs = c.state.not_in([state.value for state in RESTING_STATES])
    has_disk = c.state.not_in([state.value for state in DISKLESS_STATES])
    cpu, memory, disks = (
        func.coalesce(func.sum(case((counts, amount), else_=0)), 0)
        for counts, amount in ((runs, c.cpu), (runs, c.memory_gib), (has_disk, c.disk_gib))
    )
    own = snapshots.c.organization_id == organization_id
    v = volumes.c
    kept = and_(v.organization_id == organization_id, v.state != VolumeState.DELETED.value)
    shared = select(func.coalesce(func.sum(v.size_gib), 0)).where(kept).scalar_subquery()
    return select(
        func.count(c.id),
        cpu,
        memory,
        disks + shared,
        select(func.count()).select_from(snapshots).where(own).scalar_subquery(),
        select(func.count()).select_from(volumes).where(kept).scalar_subquery(),
    ).where(c.organization_id == organization_id, c.state != State.DESTROYED.value)


def ordered(statement: Select[Any], order: Order) -> Select[Any]:
    """Sort a statement over ``sandboxes``, and cut out a page and one more row."""
    column, key = _COLUMNS[order.by], sandboxes.c.id
    if order.after is not None:
        here = tuple_(column, key)
        there = tuple_(
            literal(order.after.value, column.type), literal(order.after.sandbox_id, key.type)
        )
        statement = statement.where(here < there if order.descending else here > there)
    if order.descending:
        statement = statement.order_by(column.desc(), key.desc())
    else:
        statement = statement.order_by(column, key)
    if order.limit is not None:
        statement = statement.limit(order.limit + 1).offset(order.offset)
    return statement


def position(order: Order, last: Sandbox) -> Position:
    """Tell where ``last`` is in an order."""
    values: dict[SortField, str | int] = {
        SortField.ID: last.id,
        SortField.NAME: last.name,
        SortField.STATE: last.state.value,
        SortField.SNAPSHOT: last.snapshot,
        SortField.REGION: last.target,
        SortField.CPU: last.resources.cpu,
        SortField.MEMORY: last.resources.memory_gib,
        SortField.DISK: last.resources.disk_gib,
        SortField.CREATED: to_ms(last.created_at),
        SortField.UPDATED: to_ms(last.updated_at),
        SortField.ACTIVITY: to_ms(last.last_activity_at),
    }
    return Position(values[order.by], last.id)
