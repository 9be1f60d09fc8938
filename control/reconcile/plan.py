"""What to do next for one sandbox: a pure function of its record, of what was seen, and of time.

One action at a time: after it, everything is looked at again. So each action need only bring the
sandbox nearer to what is wanted, and may be cut off anywhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from control.model import STARTING_STATES, Sandbox, State
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
class Purge:
    """Remove the record."""


Action = (
    Submit
    | Register
    | Deregister
    | Started
    | Failed
    | Stopped
    | Push
    | AskToStop
    | StopJob
    | Forget
    | Destroy
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
    """How long things may take, and under which domain sandboxes are reached."""

    domain: str
    start_deadline: timedelta
    stop_grace: timedelta
    keep_destroyed: timedelta
    ask_after: timedelta = timedelta(seconds=5)


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
        return _orphan(seen)
    match sandbox.state:
        case State.CREATING | State.STARTING:
            return _starting(sandbox, seen, now, limits)
        case State.STARTED:
            return _started(sandbox, seen, limits)
        case State.STOPPING:
            return _stopping(sandbox, seen, now, limits)
        case State.DESTROYING:
            return _ending(sandbox, seen, now, limits) or _do(Destroy())
        case State.DESTROYED:
            return _clearing(seen) or _destroyed(sandbox, now, limits)
        case _:
            return _clearing(seen) or Step()


def should_ask(sandbox: Sandbox, seen: Seen, now: datetime, limits: Limits) -> bool:
    """Tell whether to ask the runner itself: its report may have got lost on the way."""
    allocation = seen.allocation
    return (
        sandbox.state in STARTING_STATES
        and sandbox.run.incarnation is not None
        and allocation is not None
        and allocation.running
        and allocation.generation == sandbox.run.generation
        and now >= sandbox.changed_at + limits.ask_after
    )


def route_to(allocation: Allocation, domain: str) -> Route:
    """Describe the route to an allocation's gate."""
    return Route(
        allocation.sandbox_id, allocation.generation, allocation.address, allocation.port, domain
    )


def _starting(sandbox: Sandbox, seen: Seen, now: datetime, limits: Limits) -> Step:
    allocation = seen.allocation
    if allocation is not None and allocation.generation != sandbox.run.generation:
        return _do(StopJob() if allocation.running else Forget())
    left = sandbox.changed_at + limits.start_deadline - now
    if allocation is None:
        if sandbox.run.incarnation is not None:
            return _do(Failed("the sandbox's runner is gone; start the sandbox again"))
        if left <= timedelta(0):
            return _do(Failed(_late(limits)))
        return _do(Submit())
    if not allocation.running:
        return _do(_end_of_start(allocation))
    if seen.gate_phase == "ready":
        return _do(Started())
    if left <= timedelta(0):
        return _do(Failed(_late(limits)))
    route = route_to(allocation, limits.domain)
    if seen.route != route:
        return _do(Register(route))
    return Step(wait=min(left, limits.ask_after))


def _late(limits: Limits) -> str:
    seconds = limits.start_deadline.total_seconds()
    return f"the sandbox did not start within {seconds:.0f} s; the machine may be overloaded: retry"


def _end_of_start(allocation: Allocation) -> Failed | Stopped:
    ended = allocation.exit
    if ended is not None and ended.phase in {"ready", "stopping"}:
        return Stopped(ended.reason or "the sandbox ended")
    return Failed((ended and ended.reason) or "the sandbox ended while it was starting")


def _started(sandbox: Sandbox, seen: Seen, limits: Limits) -> Step:
    allocation = seen.allocation
    if allocation is None or allocation.generation != sandbox.run.generation:
        return _do(Stopped("the sandbox's runner is gone"))
    if not allocation.running:
        ended = allocation.exit
        return _do(Stopped((ended and ended.reason) or "the sandbox ended"))
    route = route_to(allocation, limits.domain)
    if seen.route != route:
        return _do(Register(route))
    if sandbox.run.pushed_version < sandbox.assignment_version:
        return _do(Push())
    return Step()


def _stopping(sandbox: Sandbox, seen: Seen, now: datetime, limits: Limits) -> Step:
    ended = seen.allocation.exit if seen.allocation is not None else None
    if seen.route is None and ended is not None:
        # Killed is what it was asked to be; other reasons are worth knowing: a disk that is full.
        return _do(Stopped("" if ended.phase == "unknown" else ended.reason))
    return _ending(sandbox, seen, now, limits) or _do(Stopped(""))


def _ending(sandbox: Sandbox, seen: Seen, now: datetime, limits: Limits) -> Step | None:
    """End what runs, gently as long as there is time for that; None if nothing is there."""
    if seen.route is not None:
        return _do(Deregister())
    allocation = seen.allocation
    if allocation is None:
        return None
    if not allocation.running:
        return _do(Forget())
    ours = allocation.generation == sandbox.run.generation and sandbox.run.incarnation is not None
    left = sandbox.changed_at + limits.stop_grace - now
    if ours and left > timedelta(0):
        return Step(AskToStop(), wait=left)
    return _do(StopJob())


def _clearing(seen: Seen) -> Step | None:
    """Take away what must not be there; None if nothing is."""
    if seen.route is not None:
        return _do(Deregister())
    if seen.allocation is not None:
        return _do(StopJob() if seen.allocation.running else Forget())
    return None


def _destroyed(sandbox: Sandbox, now: datetime, limits: Limits) -> Step:
    left = sandbox.changed_at + limits.keep_destroyed - now
    return _do(Purge()) if left <= timedelta(0) else Step(wait=left)


def _orphan(seen: Seen) -> Step:
    if not seen.is_orphan:
        return Step()
    return _clearing(seen) or Step()


def is_quiet(outline: Outline, seen: Seen, now: datetime, limits: Limits) -> bool:
    """Tell from an outline that ``plan`` would have nothing to do; when in doubt, False."""
    allocation, route = seen.allocation, seen.route
    match outline.state:
        case State.STARTED:
            return (
                allocation is not None
                and allocation.running
                and allocation.generation == outline.generation
                and route == route_to(allocation, limits.domain)
                and outline.pushed_version >= outline.assignment_version
            )
        case State.STOPPED | State.ERROR | State.ARCHIVED:
            return allocation is None and route is None
        case State.DESTROYED:
            is_kept = now < outline.changed_at + limits.keep_destroyed
            return is_kept and allocation is None and route is None
        case _:
            return False
