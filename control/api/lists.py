"""Queries of lists: read into a filter and an order."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic_core import from_json
from starlette.datastructures import QueryParams

from control.api.bodies import integer, moment, truth
from control.errors import InvalidError
from control.listing import (
    DEFAULT_LIMIT,
    MAX_LIMIT,
    Filter,
    Order,
    Period,
    SnapshotQuery,
    SnapshotSort,
    SortField,
    Span,
    decode_cursor,
)
from control.model import State

_CLASS = "container"


def read_filter(query: QueryParams) -> Filter | None:
    """Read which sandboxes are wanted; None if there can be none such.

    Raises:
        InvalidError: a value cannot be read.
    """
    if _excludes_all(query):
        return None
    return Filter(
        id_prefix=query.get("id", ""),
        name_prefix=query.get("name", ""),
        labels=read_labels(query.get("labels")),
        states=_states(query.getlist("states")),
        snapshots=tuple(query.getlist("snapshots")),
        targets=(*query.getlist("regionIds"), *query.getlist("regions")),
        cpu=_span(query, "minCpu", "maxCpu"),
        memory_gib=_span(query, "minMemoryGiB", "maxMemoryGiB"),
        disk_gib=_span(query, "minDiskGiB", "maxDiskGiB"),
        public=_maybe_truth(query, "isPublic"),
        recoverable=_maybe_truth(query, "isRecoverable"),
        created=_period(query, "createdAt"),
        active=_period(query, "lastEvent"),
        with_errored_deleted=_maybe_truth(query, "includeErroredDeleted") or False,
    )


def _excludes_all(query: QueryParams) -> bool:
    """Tell whether something is asked for that no sandbox of this version has."""
    classes = query.getlist("sandboxClasses")
    gpus = _span(query, "minGpu", "maxGpu")
    ends = _period(query, "autoDestroyAt")
    return bool((classes and _CLASS not in classes) or (gpus.least or 0) > 0 or ends != Period())


def read_labels(text: str | None) -> dict[str, str]:
    """Read a filter by labels; SDK 0.21 sends ``null`` for none.

    Raises:
        InvalidError: it is not a JSON object of strings.
    """
    if not text:
        return {}
    try:
        labels = from_json(text)
    except ValueError as error:
        raise InvalidError("Invalid labels: must be a JSON object") from error
    if labels is None:
        return {}
    if not isinstance(labels, dict) or not all(isinstance(v, str) for v in labels.values()):
        raise InvalidError("Invalid labels: must be a JSON object with strings as values")
    return labels


def cursor_order(query: QueryParams) -> Order:
    """Read the order of a list with cursors.

    Raises:
        InvalidError: a value cannot be read.
    """
    order = Order(
        by=_sort(query, SortField.ACTIVITY),
        descending=_descending(query),
        limit=read_limit(query),
    )
    cursor = query.get("cursor")
    if not cursor:
        return order
    after = decode_cursor(order, cursor)
    return Order(by=order.by, descending=order.descending, limit=order.limit, after=after)


def page_order(query: QueryParams) -> tuple[Order, int]:
    """Read the order of a list with numbered pages, and the number.

    Raises:
        InvalidError: a value cannot be read.
    """
    page, limit = read_page(query), read_limit(query)
    order = Order(
        by=_sort(query, SortField.CREATED),
        descending=_descending(query),
        limit=limit,
        offset=(page - 1) * limit,
    )
    return order, page


def snapshot_query(query: QueryParams) -> tuple[SnapshotQuery, int]:
    """Read which snapshots are wanted, and the number of the page.

    Raises:
        InvalidError: a value cannot be read.
    """
    page, limit = read_page(query), read_limit(query)
    try:
        by = SnapshotSort(query.get("sort") or SnapshotSort.LAST_USED)
    except ValueError as error:
        raise InvalidError(f"sort must be one of {', '.join(SnapshotSort)}") from error
    wanted = SnapshotQuery(
        name=query.get("name", ""),
        source_sandbox_id=query.get("sourceSandboxId", ""),
        by=by,
        descending=_descending(query),
        limit=limit,
        offset=(page - 1) * limit,
    )
    return wanted, page


def read_page(query: QueryParams) -> int:
    """Read the number of a page, from 1.

    Raises:
        InvalidError: it is none.
    """
    page = integer("page", query.get("page") or "1")
    if page < 1:
        raise InvalidError("page must be at least 1")
    return page


def read_limit(query: QueryParams) -> int:
    """Read how many are wanted.

    Raises:
        InvalidError: too few or too many.
    """
    limit = integer("limit", query.get("limit") or str(DEFAULT_LIMIT))
    if not 1 <= limit <= MAX_LIMIT:
        raise InvalidError(f"limit must be from 1 to {MAX_LIMIT}")
    return limit


def _sort(query: QueryParams, default: SortField) -> SortField:
    try:
        return SortField(query.get("sort") or default)
    except ValueError as error:
        names = ", ".join(SortField)
        raise InvalidError(f"sort must be one of {names}") from error


def _descending(query: QueryParams) -> bool:
    order = (query.get("order") or "desc").lower()
    if order not in {"asc", "desc"}:
        raise InvalidError("order must be asc or desc")
    return order == "desc"


def _states(names: Sequence[str]) -> tuple[State, ...]:
    try:
        return tuple(State(name) for name in names)
    except ValueError as error:
        raise InvalidError(f"states: {error}") from error


def _maybe_truth(query: QueryParams, name: str) -> bool | None:
    text = query.get(name)
    return truth(name, text) if text else None


def _span(query: QueryParams, least: str, most: str) -> Span:
    ends = [integer(name, query[name]) if query.get(name) else None for name in (least, most)]
    return Span(*ends)


def _period(query: QueryParams, name: str) -> Period:
    ends = [
        moment(end, query[end]) if query.get(end) else None
        for end in (f"{name}After", f"{name}Before")
    ]
    return Period(*ends)
