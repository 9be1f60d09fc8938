"""What to do next for one sandbox: a pure function of its record, of what was seen, and of time.

While the scheduler has lost a node, what runs there may run or not. Its gate is asked; if it does
not answer either, nothing is concluded: the sandbox keeps its record, job and route until the node
is back.

One action at a time: after it, everything is looked at again. So each action need only bring the
sandbox nearer to what is wanted, and may be cut off anywhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from control.model import LIVE_STATES, STARTING_STATES, Sandbox, State
from traefik.registry import Route

if TYPE_CHECKING:
    from datetime import datetime

    from control.store import Outline
    from jobs.scheduler import Allocation


@dataclass(frozen=True, slots=True)
class Submit:
    """Place and start the job of this generation."""


@dataclass(frozen=True, slots=True)
class Register:
    """Lead requests to the gate."""

    route: Route


@dataclass(frozen=True, slots=True)
class Deregister:
    """Lead requests to the edge again."""


@dataclass(frozen=True, slots=True)
class Started:
    """Note that the sandbox is up."""


@dataclass(frozen=True, slots=True)
class Failed:
    """Note that the start failed."""

    reason: str


@dataclass(frozen=True, slots=True)
class Stopped:
    """Note that the sandbox runs no more."""

    reason: str


@dataclass(frozen=True, slots=True)
class Lost:
    """Note that nobody can tell whether the sandbox runs."""

    reason: str


@dataclass(frozen=True, slots=True)
class Found:
    """Note that the sandbox runs, as was hoped."""


@dataclass(frozen=True, slots=True)
class Placed:
    """Note the node of a start that never reported: its disk may be there."""

    node: str


@dataclass(frozen=True, slots=True)
class Delayed:
    """Note why the end that was asked for has to wait."""

    reason: str


@dataclass(frozen=True, slots=True)
class Push:
    """Send the gate the newest assignment."""


@dataclass(frozen=True, slots=True)
class AskToStop:
    """Ask the runner to stop; if it does not answer, the scheduler stops it."""


@dataclass(frozen=True, slots=True)
class StopJob:
    """Have the scheduler stop whatever job there is, and wait for its end."""


@dataclass(frozen=True, slots=True)
class Forget:
    """Drop an ended job."""


@dataclass(frozen=True, slots=True)
class Destroy:
    """Remove the disk, and note that nothing is left."""


@dataclass(frozen=True, slots=True)
class Pack:
    """Have the node store the files as an archive."""


@dataclass(frozen=True, slots=True)
class Archived:
    """Remove the disk, whose files are archived, and note that."""


@dataclass(frozen=True, slots=True)
class DropArchive:
    """Remove an archive that the disk has outlived."""


@dataclass(frozen=True, slots=True)
class Purge:
    """Remove the record."""


# Its runner was told to end, and not by us.
_UNASKED = "the scheduler ended it: its node was lost for a while, or drained; start it again"

_WITH_RUNNER = LIVE_STATES | {State.STOPPING, State.DESTROYING}

Action = (
    Submit
    | Register
    | Deregister
    | Started
    | Failed
    | Stopped
    | Lost
    | Found
    | Placed
    | Delayed
    | Push
    | AskToStop
    | StopJob
    | Forget
    | Destroy
    | Pack
    | Archived
    | DropArchive
    | Purge
)


@dataclass(frozen=True, slots=True)
class Seen:
    """What there is of a sandbox besides its record.

    ``gate_phase`` is what the runner said of itself, None if it was not asked or did not answer.
    ``is_orphan`` tells that two complete views in a row had no record of it.
    """

    allocation: Allocation | None = None
    route: Route | None = None
    gate_phase: str | None = None
    is_orphan: bool = False


@dataclass(frozen=True, slots=True)
class Limits:
    """How long things may take, and under which domain sandboxes are reached.

    A runner is asked itself ``ask_after`` a start without a word of it, and every ``ask_lost``
    while its node is lost.
    """

    domain: str
    start_deadline: timedelta
    stop_grace: timedelta
    keep_destroyed: timedelta
    ask_after: timedelta = timedelta(seconds=5)
    ask_lost: timedelta = timedelta(seconds=10)


@dataclass(frozen=True, slots=True)
class Step:
    """What to do, and when to look again: at once, after ``wait``, or when something happens."""

    action: Action | None = None
    wait: timedelta | None = None
    again: bool = False


def _do(action: Action) -> Step:
    return Step(action, again=True)


def plan(sandbox: Sandbox | None, seen: Seen, now: datetime, limits: Limits) -> Step:
    """Decide the next step."""
    if sandbox is None:
        return (_clearing(None, seen, limits) if seen.is_orphan else None) or Step()
    match sandbox.state:
        case State.CREATING | State.STARTING | State.RESTORING:
            return _starting(sandbox, seen, now, limits)
        case State.STARTED | State.UNKNOWN:
            return _started(sandbox, seen, limits)
        case State.STOPPING:
            return _stopping(sandbox, seen, now, limits)
        case State.DESTROYING:
            return _ending(sandbox, seen, now, limits) or _do(Destroy())
        case State.ARCHIVING:
            return _clearing(sandbox, seen, limits) or _archiving(sandbox)
        case State.DESTROYED:
            return _clearing(sandbox, seen, limits) or _destroyed(sandbox, now, limits)
        case _:
            return _clearing(sandbox, seen, limits) or Step()


def should_ask(sandbox: Sandbox, seen: Seen, now: datetime, limits: Limits) -> bool:
    """Tell whether to ask the runner itself: its report may have got lost, or its node be lost."""
    allocation = seen.allocation
    if allocation is None or not allocation.running:
        return False
    if sandbox.run.incarnation is None or allocation.generation != sandbox.run.generation:
        return False
    if not allocation.reachable:
        return sandbox.state in _WITH_RUNNER
    return sandbox.state in STARTING_STATES and now >= sandbox.changed_at + limits.ask_after


def route_to(allocation: Allocation, domain: str) -> Route:
    """Describe the route to an allocation's gate."""
    return Route(
        allocation.sandbox_id, allocation.generation, allocation.address, allocation.port, domain
    )


def _starting(sandbox: Sandbox, seen: Seen, now: datetime, limits: Limits) -> Step:
    allocation = seen.allocation
    left = sandbox.changed_at + limits.start_deadline - now
    if allocation is not None and allocation.generation != sandbox.run.generation:
        return _after_former(allocation, left, limits)
    if allocation is None:
        if sandbox.run.incarnation is not None:
            return _do(Failed("the sandbox's runner is gone; start the sandbox again"))
        if left <= timedelta(0):
            return _do(Failed(_late(sandbox, limits)))
        return _do(Submit())
    if not allocation.running:
        return _do(_end_of_start(sandbox, allocation))
    if seen.gate_phase == "ready":
        return _do(Started())
    if left <= timedelta(0):
        is_silent = _is_lost(allocation) and seen.gate_phase is None
        return _do(Failed(_unreachable(allocation) if is_silent else _late(sandbox, limits)))
    route = route_to(allocation, limits.domain)
    if seen.route == route:
        return Step(wait=min(left, limits.ask_after))
    if sandbox.run.incarnation is not None:
        return _do(Register(route))
    # Its gate may not listen before its first word, and who waits at the edge for this start would
    # be led to nobody.
    return _do(Deregister()) if seen.route else Step(wait=min(left, limits.ask_after))


def _after_former(former: Allocation, left: timedelta, limits: Limits) -> Step:
    """End the start before this one; there is at most one at any time."""
    if not _is_lost(former):
        return _do(StopJob() if former.running else Forget())
    if left <= timedelta(0):
        return _do(Failed(f"{_unreachable(former)}; its former start has not ended there"))
    return Step(wait=min(left, limits.ask_lost))


def _late(sandbox: Sandbox, limits: Limits) -> str:
    seconds = limits.start_deadline.total_seconds()
    if sandbox.error_reason:  # what it last said
        return (
            f"the sandbox did not start; for {seconds:.0f} s nothing after: {sandbox.error_reason}"
        )
    return f"the sandbox did not start within {seconds:.0f} s; the machine may be overloaded: retry"


def _end_of_start(sandbox: Sandbox, allocation: Allocation) -> Failed | Stopped:
    phase, reason = _last_word(sandbox, allocation)
    if phase in {"ready", "stopping"}:
        return Stopped(reason or _UNASKED)
    return Failed(reason or "the sandbox ended while it was starting")


def _last_word(sandbox: Sandbox, allocation: Allocation) -> tuple[str, str]:
    """Tell how far a runner came and why it ended: the scheduler may not know, it reported it."""
    ended, run = allocation.exit, sandbox.run
    if ended is not None and ended.phase != "unknown":
        return ended.phase, ended.reason
    if run.exit_reason is not None and run.generation == allocation.generation:
        return run.exit_reached or "unknown", run.exit_reason
    return "unknown", ended.reason if ended is not None else ""


def _is_lost(allocation: Allocation) -> bool:
    return allocation.running and not allocation.reachable


def _unreachable(allocation: Allocation) -> str:
    return f"node unreachable: {allocation.node or 'unknown'} does not answer"


def _started(sandbox: Sandbox, seen: Seen, limits: Limits) -> Step:
    allocation = seen.allocation
    if allocation is None or allocation.generation != sandbox.run.generation:
        return _do(Stopped(sandbox.run.exit_reason or "the sandbox's runner is gone"))
    if not allocation.running:
        return _do(Stopped(_last_word(sandbox, allocation)[1] or _UNASKED))
    wait = limits.ask_lost if _is_lost(allocation) else None
    if _is_lost(allocation) and seen.gate_phase is None:
        if sandbox.state is State.UNKNOWN:
            return Step(wait=wait)
        return _do(Lost(f"{_unreachable(allocation)}; the sandbox may go on there"))
    if sandbox.state is State.UNKNOWN:
        return _do(Found())
    route = route_to(allocation, limits.domain)
    if seen.route != route:
        return _do(Register(route))
    if sandbox.run.pushed_version < sandbox.assignment_version:
        return _do(Push())
    if sandbox.archive is not None:
        return _do(DropArchive())
    return Step(wait=wait)


def _stopping(sandbox: Sandbox, seen: Seen, now: datetime, limits: Limits) -> Step:
    allocation = seen.allocation
    if seen.route is None and allocation is not None and allocation.exit is not None:
        # Killed is what it was asked to be; other reasons are worth knowing: a disk that is full.
        phase, reason = _last_word(sandbox, allocation)
        return _do(Stopped("" if phase == "unknown" else reason))
    return _ending(sandbox, seen, now, limits) or _do(Stopped(""))


def _ending(sandbox: Sandbox, seen: Seen, now: datetime, limits: Limits) -> Step | None:
    """End what runs, gently as long as there is time for that; None if nothing is there."""
    if seen.route is not None:
        return _do(Deregister())
    allocation = seen.allocation
    if allocation is None:
        return None
    if allocation.node and not sandbox.node:
        return _do(Placed(allocation.node))
    if not allocation.running:
        return _do(Forget())
    ours = allocation.generation == sandbox.run.generation and sandbox.run.incarnation is not None
    left = sandbox.changed_at + limits.stop_grace - now
    if _is_lost(allocation):
        if ours and seen.gate_phase not in {None, "stopping"}:
            return Step(AskToStop(), wait=limits.ask_lost)
        reason = f"{_unreachable(allocation)}; this is done when the node is back"
        if sandbox.error_reason != reason:
            return _do(Delayed(reason))
        return Step(wait=limits.ask_lost)
    if ours and left > timedelta(0):
        return Step(AskToStop(), wait=left)
    return _do(StopJob())


def _archiving(sandbox: Sandbox) -> Step:
    return _do(Archived() if sandbox.is_in_archive else Pack())


def _clearing(sandbox: Sandbox | None, seen: Seen, limits: Limits) -> Step | None:
    """Take away what must not be there; None if nothing is."""
    allocation = seen.allocation
    if seen.route is not None:
        return _do(Deregister())
    if allocation is None:
        return None
    if sandbox is not None and allocation.node and not sandbox.node:
        return _do(Placed(allocation.node))
    if _is_lost(allocation):
        return Step(wait=limits.ask_lost)
    return _do(StopJob() if allocation.running else Forget())


def _destroyed(sandbox: Sandbox, now: datetime, limits: Limits) -> Step:
    left = sandbox.changed_at + limits.keep_destroyed - now
    return _do(Purge()) if left <= timedelta(0) else Step(wait=left)


def is_quiet(outline: Outline, seen: Seen, now: datetime, limits: Limits) -> bool:
    """Tell from an outline that ``plan`` would have nothing to do; when in doubt, False."""
    allocation, route = seen.allocation, seen.route
    match outline.state:
        case State.STARTED:
            return (
                allocation is not None
                and allocation.running
                and allocation.reachable
                and allocation.generation == outline.generation
                and route == route_to(allocation, limits.domain)
                and outline.pushed_version >= outline.assignment_version
                and not outline.has_archive
            )
        case State.STOPPED | State.ERROR | State.ARCHIVED:
            return allocation is None and route is None
        case State.DESTROYED:
            is_kept = now < outline.changed_at + limits.keep_destroyed
            return is_kept and allocation is None and route is None
        case _:
            return False
