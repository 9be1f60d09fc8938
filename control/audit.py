"""Whether records, jobs, runners, disks and registrations tell the same: rows in, differences out.

Pure. What is in flight is no difference: a sandbox between two states is judged only by what no
state allows. What was not asked is not judged either. The parts are read one after the other, so
an honest difference is one that two looks a moment apart both saw (``confirmed``).
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from control.model import State

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    from control.model import Sandbox
    from jobs.scheduler import Allocation
    from traefik.registry import Route

_READY = "ready"
# Nothing may run for these, and nothing may lead to them.
_AT_REST = frozenset({State.STOPPED, State.ERROR, State.ARCHIVED, State.DESTROYED})
_WITH_DISK = frozenset({State.STARTED, State.STOPPED})


@dataclass(frozen=True, slots=True)
class Inventory:
    """What one node has, by its own word: ids of sandboxes with a disk, and with a live runner."""

    disks: frozenset[str]
    running: frozenset[str]


@dataclass(frozen=True, slots=True)
class View:
    """Everything that there is, each from who keeps it.

    Attributes:
        said: what the runner of a sandbox said of itself: its phase, None if it did not answer;
            nothing for those that were not asked.
        inventories: by node; nothing for nodes that did not answer.
    """

    records: Collection[Sandbox] = ()
    allocations: Collection[Allocation] = ()
    said: Mapping[str, str | None] = field(default_factory=dict)
    routes: Collection[Route] = ()
    inventories: Mapping[str, Inventory] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Line:
    """One sandbox, or what is left of one, as everybody tells it.

    ``disk_on`` and ``running_on`` are the nodes that have its disk and a live runner of it.
    """

    sandbox_id: str
    record: Sandbox | None = None
    allocation: Allocation | None = None
    was_asked: bool = False
    said: str | None = None
    route: Route | None = None
    disk_on: tuple[str, ...] = ()
    running_on: tuple[str, ...] = ()
    differences: tuple[str, ...] = ()


def audit(view: View) -> list[Line]:
    """Put side by side what everybody tells of each sandbox, and mark what does not fit."""
    return [
        replace(line, differences=tuple(_differences(line, view.inventories)))
        for line in _lines(view)
    ]


def confirmed(first: Iterable[Line], second: Iterable[Line]) -> list[Line]:
    """Keep of the second look only those differences that the first one saw, too."""
    before = {line.sandbox_id: line for line in first}
    return [replace(line, differences=_still(before.get(line.sandbox_id), line)) for line in second]


def _still(before: Line | None, line: Line) -> tuple[str, ...]:
    if before is None or _moment(before) != _moment(line):
        return ()  # it changed between the looks: in flight
    return tuple(text for text in line.differences if text in before.differences)


def _moment(line: Line) -> tuple[State, int] | None:
    return (line.record.state, line.record.run.generation) if line.record else None


def _lines(view: View) -> list[Line]:
    records: dict[str, Sandbox] = {record.id: record for record in view.records}
    allocations = {allocation.sandbox_id: allocation for allocation in view.allocations}
    routes = {route.sandbox_id: route for route in view.routes}
    disks, runners = defaultdict[str, list[str]](list), defaultdict[str, list[str]](list)
    for node, inventory in sorted(view.inventories.items()):
        for sandbox_id in inventory.disks:
            disks[sandbox_id].append(node)
        for sandbox_id in inventory.running:
            runners[sandbox_id].append(node)
    return [
        Line(
            sandbox_id,
            records.get(sandbox_id),
            allocations.get(sandbox_id),
            sandbox_id in view.said,
            view.said.get(sandbox_id),
            routes.get(sandbox_id),
            tuple(disks.get(sandbox_id, ())),
            tuple(runners.get(sandbox_id, ())),
        )
        for sandbox_id in sorted({*records, *allocations, *routes, *disks, *runners})
    ]


def _differences(line: Line, inventories: Mapping[str, Inventory]) -> Iterator[str]:
    if line.record is None:
        yield from _orphan(line)
        return
    if len(line.running_on) > 1:
        yield f"runs more than once: on {', '.join(line.running_on)}"
    match line.record.state:
        case State.STARTED:
            yield from _started(line, line.record, inventories)
        case State.UNKNOWN:
            yield from _lost(line)
        case state if state in _AT_REST:
            yield from _at_rest(line)
        case _:
            pass
    yield from _disk(line, line.record, inventories)


def _orphan(line: Line) -> Iterator[str]:
    if line.allocation is not None:
        yield f"job without a record{_on(line.allocation)}"
    if line.running_on:
        yield f"runner without a record on {', '.join(line.running_on)}"
    if line.route is not None:
        yield "registration without a record"
    if line.disk_on:
        yield f"disk without a record on {', '.join(line.disk_on)}"


def _started(line: Line, record: Sandbox, inventories: Mapping[str, Inventory]) -> Iterator[str]:
    allocation = line.allocation
    if allocation is None:
        yield "started, but without a job"
        yield from _stray_runners(line, ())
        return
    if allocation.generation != record.run.generation:
        yield f"the job is of generation {allocation.generation}, not {record.run.generation}"
    if not allocation.running:
        yield "started, but its job has ended"
    else:
        yield from _word(line, allocation)
        is_told = allocation.node in inventories and allocation.reachable
        if is_told and allocation.node not in line.running_on:
            yield f"started, but no runner of it lives on {allocation.node}"
    if record.node and allocation.node != record.node:
        yield f"its job is on {allocation.node}, its record says {record.node}"
    yield from _stray_runners(line, (allocation.node,))
    yield from _route(line, allocation)


def _word(line: Line, allocation: Allocation) -> Iterator[str]:
    if line.said == _READY or not line.was_asked:
        return
    if line.said is not None:
        yield f"started, but its runner says {line.said}"
    elif allocation.reachable:
        yield "started, but its runner does not answer"
    else:
        yield "started, but its node is lost and its runner does not answer"


def _route(line: Line, allocation: Allocation) -> Iterator[str]:
    route = line.route
    if route is None:
        yield "started, but not registered"
        return
    if (route.address, route.port) != (allocation.address, allocation.port):
        yield (
            f"the registration leads to {route.address}:{route.port}, the job is at "
            f"{allocation.address}:{allocation.port}"
        )
    if route.generation != allocation.generation:
        yield f"the registration is of generation {route.generation}"


def _lost(line: Line) -> Iterator[str]:
    """Judge one whose node was lost: it keeps job and registration until the node returns."""
    if line.allocation is None:
        yield "unknown, but without a job that could come back"
    elif line.allocation.reachable and line.said == _READY:
        yield f"unknown, but its runner answers{_on(line.allocation)}"


def _at_rest(line: Line) -> Iterator[str]:
    state = line.record.state.value if line.record else ""
    if line.allocation is not None:
        verb = "runs" if line.allocation.running else "is kept"
        yield f"{state}, but a job {verb}{_on(line.allocation)}"
    yield from _stray_runners(line, ())
    if line.route is not None:
        yield f"{state}, but registered"


def _stray_runners(line: Line, expected: Sequence[str]) -> Iterator[str]:
    stray = [node for node in line.running_on if node not in expected]
    if stray:
        yield f"a runner lives on {', '.join(stray)} without a job there"


def _disk(line: Line, record: Sandbox, inventories: Mapping[str, Inventory]) -> Iterator[str]:
    others = [node for node in line.disk_on if node != record.node]
    if record.state is State.DESTROYED:
        if line.disk_on:
            yield f"destroyed, but its disk is on {', '.join(line.disk_on)}"
    elif record.state is State.ARCHIVED and line.disk_on:
        yield f"archived, but its disk is on {', '.join(line.disk_on)}"
    elif record.node and others:
        yield f"a disk of it is on {', '.join(others)}, too; its record says {record.node}"
    is_told = record.node in inventories
    if record.state in _WITH_DISK and is_told and record.node not in line.disk_on:
        yield f"its disk is not on {record.node}"


def _on(allocation: Allocation) -> str:
    return f" on {allocation.node}" if allocation.node else ""
