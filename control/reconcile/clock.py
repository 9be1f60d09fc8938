"""The time, and how long something is ago by a clock that may be set. Pure but for its reading."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

# A clock that is only disciplined drifts by less between two looks.
_JUMP = timedelta(seconds=1)
_MOST_JUMPS = 100


@dataclass(frozen=True, slots=True)
class Jump:
    """The clock was set: it would have shown ``left``, and showed ``landed``."""

    left: datetime
    landed: datetime


@dataclass(frozen=True, slots=True)
class Times:
    """What the clock shows, and how it was set meanwhile, as far as this process has seen it."""

    now: datetime
    jumps: tuple[Jump, ...] = ()

    def since(self, moment: datetime) -> timedelta:
        """Return how long ``moment`` is ago; where the clock showed it twice, the shorter time."""
        found = []
        end, later = self.now, timedelta(0)
        for jump in reversed(self.jumps):
            if jump.landed <= moment <= end:
                found.append(end - moment + later)
            later += end - jump.landed
            end = jump.left
            if end < moment < jump.landed:  # never shown: it was at another machine
                found.append(later)
        if moment <= end:
            found.append(end - moment + later)
        return min(found, default=self.now - moment)


def steady_seconds() -> float:
    """Read the clock that nobody can set; it goes on while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Clock:
    """Compares the clock that is shown with one that cannot be set."""

    def __init__(
        self, now: Callable[[], datetime], steady: Callable[[], float] = steady_seconds
    ) -> None:
        self._now, self._steady = now, steady
        self._shown, self._at = now(), steady()
        self._jumps: tuple[Jump, ...] = ()

    def look(self) -> Times:
        """Return the time; to be called often: only what happens between two looks is seen."""
        shown, at = self._now(), self._steady()
        left = self._shown + timedelta(seconds=at - self._at)
        if abs(shown - left) > _JUMP:
            self._jumps = (*self._jumps, Jump(left, shown))[-_MOST_JUMPS:]
        self._shown, self._at = shown, at
        return Times(shown, self._jumps)
