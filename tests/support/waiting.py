"""Waiting for a condition instead of for a time."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


def eventually(
    check: Callable[[], T], what: str, *, seconds: float = 30.0, pause_seconds: float = 0.05
) -> T:
    """Return what ``check`` returns once it is true.

    Raises:
        AssertionError: it was not true within ``seconds``; tells ``what`` and the last value.
    """
    end = time.monotonic() + seconds
    while not (value := check()):
        if time.monotonic() > end:
            raise AssertionError(f"{what}: not within {seconds:.0f} s (last: {value!r})")
        time.sleep(pause_seconds)
    return value
