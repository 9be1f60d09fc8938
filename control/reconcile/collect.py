"""Whether the timers of a sandbox are over: a pure function of its record, its use, and time.

A stop is decided by what the gate tells, which counts by a clock that nobody can set. Unknown is
not idle: where the gate does not answer, nothing is stopped. What counts while nothing runs is
counted by control's clock, without what the clock was set by.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from control.model import ASK_ACTIVITY, Sandbox, State, minutes

if TYPE_CHECKING:
    from control.reconcile.clock import Times

_ASK_AGAIN = timedelta(seconds=15)
_NOW = timedelta(0)
_MINUTE_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Warn:
    """Say inside that the sandbox is stopped after ``left`` unless somebody uses it."""

    left: timedelta


@dataclass(frozen=True, slots=True)
class Stop:
    """Stop it if it is still idle for that long."""

    idle: timedelta


@dataclass(frozen=True, slots=True)
class Archive:
    """Archive it."""


@dataclass(frozen=True, slots=True)
class Delete:
    """Delete it; ``why`` is for the log."""

    why: str


Action = Warn | Stop | Archive | Delete


@dataclass(frozen=True, slots=True)
class Use:
    """What a gate tells: for how long nobody used it, None if it is not known; if it was warned."""

    idle: timedelta | None = None
    warned: bool = False


@dataclass(frozen=True, slots=True)
class Limits:
    """How long before a stop a sandbox is warned, and whether there is an archive."""

    warning: timedelta
    archives: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """What to do, and how long to wait until the next look; None if no timer runs."""

    action: Action | None = None
    wait: timedelta | None = None


def verdict(sandbox: Sandbox, use: Use, times: Times, limits: Limits) -> Verdict:
    """Decide; the next look is needed also where something is done, as that may fail."""
    if sandbox.state in {State.DESTROYING, State.DESTROYED}:
        return Verdict()
    left = _life_left(sandbox, times)
    if left is not None and left <= _NOW:
        return Verdict(Delete("its time to live is over"), _ASK_AGAIN)
    match sandbox.state:
        case State.STARTED if sandbox.is_settled:
            found = _started(sandbox, use, limits)
        case State.STOPPED | State.ARCHIVED if sandbox.is_settled:
            found = _stopped(sandbox, times, limits)
        case _:
            found = Verdict()
    waits = [wait for wait in (found.wait, left) if wait is not None]
    return Verdict(found.action, min(waits, default=None))


def _life_left(sandbox: Sandbox, times: Times) -> timedelta | None:
    if sandbox.destroy_at is None:
        return None
    life = minutes(sandbox.intervals.ttl)
    return life - times.since(sandbox.destroy_at - life)


def _started(sandbox: Sandbox, use: Use, limits: Limits) -> Verdict:
    if use.idle is None:
        return Verdict(wait=_ASK_AGAIN)
    if sandbox.intervals.stop == 0:
        return Verdict(wait=ASK_ACTIVITY)
    interval = minutes(sandbox.intervals.stop)
    warning = min(limits.warning, interval / 2)
    left = interval - use.idle
    if left > warning:
        return Verdict(wait=min(left - warning, ASK_ACTIVITY))
    if warning and not use.warned:
        # Also where it is too late already: control was away, or the interval was made shorter.
        left = left if left > _NOW else warning
        return Verdict(Warn(left), left)
    return Verdict(wait=left) if left > _NOW else Verdict(Stop(interval), _ASK_AGAIN)


def _stopped(sandbox: Sandbox, times: Times, limits: Limits) -> Verdict:
    ago = times.since(sandbox.ended_at)
    waits = []
    if sandbox.intervals.delete >= 0:
        left = minutes(sandbox.intervals.delete) - ago
        if left <= _NOW:
            return Verdict(Delete("it was stopped for long"), _ASK_AGAIN)
        waits.append(left)
    if limits.archives and sandbox.state is State.STOPPED:
        left = minutes(sandbox.intervals.archive) - ago
        if left <= _NOW:
            return Verdict(Archive(), _ASK_AGAIN)
        waits.append(left)
    return Verdict(wait=min(waits, default=None))


class Budget:
    """How many may be ended in one minute: a share of all, but always a few.

    Whatever goes wrong with clocks, timers or ourselves, it does not end everything at once.
    """

    def __init__(self, share: float, few: int) -> None:
        self._share, self._few = share, few
        self._taken: deque[float] = deque()

    def take(self, now: float, everything: int) -> bool:
        """Count one more if it is allowed, ``now`` in seconds of a steady clock."""
        while self._taken and self._taken[0] <= now - _MINUTE_SECONDS:
            self._taken.popleft()
        if len(self._taken) >= max(self._few, int(self._share * everything)):
            return False
        self._taken.append(now)
        return True
