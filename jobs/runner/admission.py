"""Admission to a start: a host brings only a few sandboxes up at a time.

All at once they would share its cores, and the first be ready as late as the last. Who is admitted
holds one of a few lock files until it is up or ends, so that no crash takes a place away.
"""

from __future__ import annotations

import os

from jobs.runner import locks

DIRECTORY = "/run/yurt/starts"
_LEAST_PLACES, _PLACES_PER_CORE = 4, 2


def places() -> int:
    """Count how many sandboxes this host brings up at a time."""
    return max(_LEAST_PLACES, _PLACES_PER_CORE * (os.cpu_count() or 1))


def admit() -> int | None:
    """Take a place and return its fd, to be closed once the sandbox is up; None: all are taken."""
    os.makedirs(DIRECTORY, mode=0o700, exist_ok=True)
    taken = (locks.take(f"{DIRECTORY}/{number}") for number in range(places()))
    return next((place for place in taken if place is not None), None)
