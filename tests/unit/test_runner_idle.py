"""For how long a sandbox has not been used, by what its gate told and its processor time."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from jobs.runner.idle import MOST_BUSY_SECONDS, SAMPLE_SECONDS, WINDOW_SECONDS, Idleness

pytestmark = pytest.mark.unit
HOUR = 3600.0


def _run(idle: Idleness, begin: float, end: float, share: float, used: float = 0.0) -> float:
    """Use so much of a core from ``begin`` to ``end``, and return what was used in all."""
    now = begin
    while now <= end:
        if idle.is_due(now):
            idle.sample(now, used + (now - begin) * share)
        now += 1.0
    return used + (end - begin) * share


def test_idle_counts_from_the_last_use() -> None:
    idle = Idleness(100.0)
    idle.told(130.0, 0)
    assert idle.seconds(190.0) == 60.0


def test_what_goes_on_is_use() -> None:
    idle = Idleness(0.0)
    idle.told(10.0, 1)
    assert idle.seconds(9 * HOUR) == 0.0


def test_a_busy_sandbox_is_not_idle_until_a_minute_after() -> None:
    idle = Idleness(0.0)
    used = _run(idle, 0.0, 600.0, 0.5)
    assert idle.seconds(600.0) <= SAMPLE_SECONDS
    _run(idle, 601.0, 900.0, 0.0, used)
    assert 900.0 - 600.0 - WINDOW_SECONDS - SAMPLE_SECONDS <= idle.seconds(900.0) <= 300.0


def test_a_little_processor_time_is_none() -> None:
    idle = Idleness(0.0)
    _run(idle, 0.0, 600.0, 0.04)
    assert idle.seconds(600.0) == 600.0


def test_processor_time_alone_counts_only_for_so_long() -> None:
    idle = Idleness(0.0)
    _run(idle, 0.0, MOST_BUSY_SECONDS + HOUR, 1.0)
    assert idle.seconds(MOST_BUSY_SECONDS + HOUR) == HOUR
    idle.told(MOST_BUSY_SECONDS + HOUR, 0)  # somebody comes: it counts again
    _run(idle, MOST_BUSY_SECONDS + HOUR, MOST_BUSY_SECONDS + 2 * HOUR, 1.0, 5 * HOUR)
    assert idle.seconds(MOST_BUSY_SECONDS + 2 * HOUR) <= SAMPLE_SECONDS


def test_a_warning_stands_until_the_sandbox_is_used() -> None:
    idle = Idleness(0.0)
    assert not idle.is_warned(50.0)
    idle.warn(50.0)
    assert idle.is_warned(55.0)
    idle.told(56.0, 0)
    assert not idle.is_warned(57.0)
    assert not idle.is_warned(58.0)


def test_work_of_the_processor_takes_a_warning_back() -> None:
    idle = Idleness(0.0)
    used = _run(idle, 0.0, 100.0, 0.0)
    idle.warn(100.0)
    _run(idle, 100.0, 130.0, 1.0, used)
    assert not idle.is_warned(130.0)


def test_without_its_gate_it_counts_from_then() -> None:
    idle = Idleness(0.0)
    idle.told(10.0, 3)
    idle.restart(100.0)
    assert idle.seconds(130.0) == 30.0


@given(
    last=st.floats(0, 1e5),
    held=st.integers(0, 3),
    burns=st.lists(st.floats(0, 30), max_size=40),
    later=st.floats(0, 1e4),
)
def test_it_is_never_idle_for_longer_than_since_its_last_use(
    last: float, held: int, burns: list[float], later: float
) -> None:
    idle = Idleness(0.0)
    idle.told(last, held)
    used = 0.0
    for number, burn in enumerate(burns):
        used += burn
        idle.sample(last + number * SAMPLE_SECONDS, used)
    now = last + len(burns) * SAMPLE_SECONDS + later
    assert 0.0 <= idle.seconds(now) <= now - last
    assert not held or idle.seconds(now) == 0.0
