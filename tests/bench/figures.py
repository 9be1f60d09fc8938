"""Samples of one quantity, and the table in which they are printed."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table. ``peer`` is what a user would take instead, in the same run."""

    what: str
    samples: list[float]
    unit: str = "ms"
    target: str = ""
    peer_name: str = ""
    peer: list[float] = field(default_factory=list)


def quantile(samples: Sequence[float], share: float) -> float:
    """The value that ``share`` of the samples do not exceed."""
    ordered = sorted(samples)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def milliseconds(work: Callable[[], object], times: int, *, warm_up: int = 0) -> list[float]:
    """Time some calls one after the other."""
    spent = []
    for number in range(warm_up + times):
        started = time.perf_counter()
        work()
        if number >= warm_up:
            spent.append((time.perf_counter() - started) * 1000)
    return spent


def text(row: Row) -> str:
    """Write one row, with the ratio to its peer."""
    middle, high = statistics.median(row.samples), quantile(row.samples, 0.95)
    line = (
        f"{row.what:<44} {_figure(middle)} / {_figure(high)} {row.unit:<6} n={len(row.samples):<4}"
    )
    line += f" target {row.target:<12}" if row.target else " " * 20
    if row.peer:
        peer = statistics.median(row.peer)
        line += f" {row.peer_name} {_figure(peer).strip()} {row.unit}, ratio {middle / peer:.2f}"
    return line.rstrip()


def _figure(value: float) -> str:
    return f"{value:8.1f}" if value < 1000 else f"{value:8.0f}"
