"""What the timers of a sandbox decide, and how much of it happens at once."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, strategies as st

from control import lifecycle
from control.errors import ConflictError
from control.model import DesiredState, Intervals, Run, Sandbox, State, StoppedBy, minutes
from control.reconcile.clock import Clock, Jump, Times
from control.reconcile.collect import (
    Archive,
    Budget,
    Delete,
    Limits,
    Stop,
    Use,
    Verdict,
    Warn,
    verdict,
)
from tests.support.records import NOW, a_sandbox

pytestmark = pytest.mark.unit
LIMITS = Limits(warning=timedelta(minutes=1), archives=True)
SECOND = timedelta(seconds=1)


def _started(**fields: Any) -> Sandbox:
    return a_sandbox(state=State.STARTED, run=Run(2, "f" * 32), **fields)


def _stopped(**fields: Any) -> Sandbox:
    settled = {"state": State.STOPPED, "desired_state": DesiredState.STOPPED}
    return a_sandbox(**{**settled, "stopped_at": NOW, **fields})


def _idle(sandbox: Sandbox, left: timedelta, *, warned: bool = False) -> Verdict:
    """Judge a started sandbox whose interval is over after ``left``."""
    idle = minutes(sandbox.intervals.stop) - left
    return verdict(sandbox, Use(idle, warned), Times(NOW), LIMITS)


# -- stops -------------------------------------------------------------------------------------


def test_an_idle_sandbox_is_warned_and_then_stopped() -> None:
    sandbox = _started(intervals=Intervals(stop=15))
    assert _idle(sandbox, minutes(3)) == Verdict(wait=minutes(2))
    assert _idle(sandbox, minutes(1)).action == Warn(minutes(1))
    assert _idle(sandbox, 30 * SECOND, warned=True) == Verdict(wait=30 * SECOND)
    assert _idle(sandbox, timedelta(0), warned=True).action == Stop(minutes(15))


def test_a_short_interval_is_warned_at_half_of_it() -> None:
    sandbox = _started(intervals=Intervals(stop=1))
    assert _idle(sandbox, 31 * SECOND).action is None
    assert _idle(sandbox, 30 * SECOND).action == Warn(30 * SECOND)


def test_who_was_not_warned_in_time_gets_that_time_now() -> None:
    sandbox = _started(intervals=Intervals(stop=15))
    late = _idle(sandbox, minutes(-300))
    assert late == Verdict(Warn(minutes(1)), minutes(1))
    silent = verdict(
        sandbox, Use(minutes(15)), Times(NOW), Limits(warning=timedelta(0), archives=True)
    )
    assert silent.action == Stop(minutes(15))


def test_unknown_is_not_idle() -> None:
    found = verdict(_started(), Use(), Times(NOW + timedelta(days=999)), LIMITS)
    assert found.action is None
    assert found.wait is not None


def test_without_an_interval_nothing_is_stopped() -> None:
    sandbox = _started(intervals=Intervals(stop=0))
    found = verdict(sandbox, Use(timedelta(days=99)), Times(NOW), LIMITS)
    assert found.action is None


@pytest.mark.parametrize("state", sorted(set(State) - {State.STARTED}))
def test_only_what_is_started_is_stopped(state: State) -> None:
    sandbox = a_sandbox(state=state, desired_state=DesiredState.STARTED)
    found = verdict(sandbox, Use(timedelta(days=99), warned=True), Times(NOW), LIMITS)
    assert not isinstance(found.action, Stop | Warn)


@given(
    stop=st.integers(0, 100),
    idle=st.none() | st.floats(0, 1e5),
    warned=st.booleans(),
    jumped=st.floats(-1e6, 1e6),
    warning=st.integers(0, 120),
)
def test_a_stop_depends_on_nothing_but_what_the_gate_tells(
    stop: int, idle: float | None, warned: bool, jumped: float, warning: int
) -> None:
    use = Use(None if idle is None else timedelta(seconds=idle), warned)
    times = Times(NOW + timedelta(seconds=jumped))
    limits = Limits(timedelta(seconds=warning))
    found = verdict(_started(intervals=Intervals(stop=stop)), use, times, limits)
    is_over = use.idle is not None and stop > 0 and use.idle >= minutes(stop)
    if isinstance(found.action, Stop):
        assert is_over
        assert warned or not warning
    elif is_over:
        assert isinstance(found.action, Warn)
    if found.action is None:
        assert found.wait is not None
        assert timedelta(0) < found.wait <= minutes(5)


# -- ends --------------------------------------------------------------------------------------


def test_what_is_stopped_for_long_is_archived_and_then_deleted() -> None:
    sandbox = _stopped(intervals=Intervals(archive=10, delete=30))

    def after(count: float, judged: Sandbox = sandbox) -> Verdict:
        return verdict(judged, Use(), Times(NOW + timedelta(minutes=count)), LIMITS)

    assert after(9) == Verdict(wait=minutes(1))
    assert isinstance(after(10).action, Archive)
    archived = _stopped(
        state=State.ARCHIVED,
        desired_state=DesiredState.ARCHIVED,
        changed_at=NOW + minutes(11),
        intervals=sandbox.intervals,
    )
    assert after(29, archived).action is None
    assert isinstance(after(30, archived).action, Delete)
    assert isinstance(after(30).action, Delete)


def test_without_an_archive_nothing_is_archived() -> None:
    sandbox = _stopped(intervals=Intervals(archive=10))
    late = Times(NOW + timedelta(days=99))
    assert verdict(sandbox, Use(), late, Limits(minutes(1))) == Verdict()


@pytest.mark.parametrize("state", sorted(set(State) - {State.DESTROYING, State.DESTROYED}))
def test_a_time_to_live_ends_whatever_it_does(state: State) -> None:
    sandbox = a_sandbox(state=state, intervals=Intervals(ttl=60), destroy_at=NOW + minutes(60))
    before = verdict(sandbox, Use(), Times(NOW + minutes(59)), LIMITS)
    assert not isinstance(before.action, Delete)
    assert before.wait is not None
    assert before.wait <= minutes(1)
    after = verdict(sandbox, Use(timedelta(0)), Times(NOW + minutes(60)), LIMITS)
    assert isinstance(after.action, Delete)


@given(
    delete=st.integers(-1, 10_000),
    archive=st.integers(1, 10_000),
    passed=st.integers(0, 20_000),
    archives=st.booleans(),
)
def test_nothing_ends_before_its_time_and_nothing_is_missed(
    delete: int, archive: int, passed: int, archives: bool
) -> None:
    sandbox = _stopped(intervals=Intervals(archive=archive, delete=delete))
    times = Times(NOW + minutes(passed))
    found = verdict(sandbox, Use(), times, Limits(minutes(1), archives=archives))
    if 0 <= delete <= passed:
        assert isinstance(found.action, Delete)
    elif archives and archive <= passed:
        assert isinstance(found.action, Archive)
    else:
        assert found.action is None
        next_one = [m for m, counts in ((delete, delete >= 0), (archive, archives)) if counts]
        assert found.wait == (minutes(min(next_one) - passed) if next_one else None)
    due = sandbox.due_at
    assert due is not None
    assert (due <= times.now) == (0 <= delete <= passed or archive <= passed)


# -- the clock ---------------------------------------------------------------------------------


class Shown:
    """A clock that may be set, and one that may not."""

    def __init__(self) -> None:
        self.now, self.steady = NOW, 0.0

    def pass_(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)
        self.steady += seconds

    def clock(self) -> Clock:
        return Clock(lambda: self.now, lambda: self.steady)


def test_a_clock_that_is_set_forward_makes_nothing_older() -> None:
    shown = Shown()
    clock = shown.clock()
    before = shown.now
    shown.pass_(60)
    assert clock.look().since(before) == 60 * SECOND
    shown.now += timedelta(hours=5)
    assert clock.look().since(before) == 60 * SECOND
    after = shown.now
    shown.pass_(30)
    times = clock.look()
    assert (times.since(before), times.since(after)) == (90 * SECOND, 30 * SECOND)
    assert times.jumps == (Jump(before + 60 * SECOND, after),)


def test_a_clock_that_is_set_back_and_right_again_has_lost_nothing() -> None:
    shown = Shown()
    clock = shown.clock()
    before = shown.now - timedelta(days=1)
    shown.now -= timedelta(hours=5)
    assert clock.look().since(before) == timedelta(days=1)
    shown.now += timedelta(hours=5)
    assert clock.look().since(before) == timedelta(days=1)


def test_a_clock_that_is_disciplined_was_not_set() -> None:
    shown = Shown()
    clock = shown.clock()
    for _ in range(10):
        shown.pass_(5)
        shown.now += timedelta(milliseconds=3)
        assert clock.look().jumps == ()


@given(st.lists(st.tuples(st.floats(1, 600), st.floats(-1e5, 1e5)), max_size=10))
def test_nothing_is_ever_taken_for_older_than_it_is(steps: list[tuple[float, float]]) -> None:
    shown = Shown()
    clock = shown.clock()
    stamps: list[tuple[datetime, float]] = []
    for passed, jump in steps:
        stamps.append((shown.now, shown.steady))
        shown.pass_(passed)
        clock.look()
        shown.now += timedelta(seconds=jump)
        times = clock.look()
        for stamp, at in stamps:
            real = shown.steady - at
            assert times.since(stamp).total_seconds() <= real + 1.001 * len(steps)


# -- how many ----------------------------------------------------------------------------------


def test_no_more_than_a_share_ends_in_a_minute_but_always_a_few() -> None:
    budget = Budget(share=0.1, few=10)
    assert sum(budget.take(1.0, 30) for _ in range(100)) == 10
    assert not budget.take(60.9, 30)
    assert sum(budget.take(61.0, 5000) for _ in range(1000)) == 500


# -- the record --------------------------------------------------------------------------------


def test_what_the_collector_stopped_wakes_and_keeps_its_last_activity() -> None:
    sandbox = _started()
    later = NOW + minutes(15)
    stopping = lifecycle.collect(sandbox, sandbox, later)
    assert (stopping.state, stopping.stopped_by) == (State.STOPPING, StoppedBy.COLLECTOR)
    stopped = lifecycle.stopped(stopping, 2, "", later)
    assert stopped.wakes
    assert stopped.last_activity_at == NOW
    assert stopped.stopped_at == later


def test_an_ephemeral_sandbox_that_nobody_uses_is_deleted() -> None:
    sandbox = _started(intervals=Intervals(delete=0))
    assert lifecycle.collect(sandbox, sandbox, NOW).state is State.DESTROYING


@pytest.mark.parametrize(
    "changed",
    [
        lambda s: lifecycle.touch(s, NOW + SECOND),
        lambda s: lifecycle.stop(s, NOW + SECOND),
        lambda s: lifecycle.stopped(s, 2, "it crashed", NOW + SECOND),
        lambda s: lifecycle.amend(lambda r: _with(r, stop=0), NOW)(s),
    ],
)
def test_nothing_ends_that_changed_since_it_was_judged(changed: Any) -> None:
    judged = _started()
    with pytest.raises(ConflictError):
        lifecycle.collect(changed(judged), judged, NOW)
    with pytest.raises(ConflictError):
        lifecycle.expire(changed(judged), judged, NOW)


def _with(sandbox: Sandbox, **intervals: int) -> Sandbox:
    from dataclasses import replace

    return replace(sandbox, intervals=replace(sandbox.intervals, **intervals))


def test_the_last_use_is_what_the_gate_tells_also_after_the_clock_was_set() -> None:
    sandbox = _started(last_activity_at=NOW + timedelta(hours=5))
    assert lifecycle.active(sandbox, 2, NOW).last_activity_at == NOW
    assert lifecycle.active(sandbox, 1, NOW) is sandbox
    near = _started(last_activity_at=NOW + SECOND)
    assert lifecycle.active(near, 2, NOW) is near
