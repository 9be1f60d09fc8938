"""Who stopped a sandbox, which tells whether using it may start it."""

from __future__ import annotations

from datetime import timedelta

import pytest

from control import lifecycle
from control.model import DesiredState, Intervals, Run, Sandbox, State, StoppedBy
from tests.support.records import NOW, a_sandbox

pytestmark = pytest.mark.unit
LATER = NOW + timedelta(minutes=1)


def _started(**fields: object) -> Sandbox:
    return a_sandbox(state=State.STARTED, run=Run(2, "f" * 32), **fields)


def test_what_was_stopped_by_a_call_sleeps_until_it_is_started() -> None:
    asked = lifecycle.stop(_started(), NOW)
    stopped = lifecycle.stopped(asked, 2, "", LATER)
    assert (stopped.stopped_by, stopped.stopped_at) == (StoppedBy.API, LATER)
    assert not asked.wakes
    assert not stopped.wakes
    again = lifecycle.start(stopped, LATER)
    assert (again.stopped_by, again.stopped_at) == (None, None)


@pytest.mark.parametrize("state", [State.STARTED, State.STARTING, State.UNKNOWN])
def test_what_ended_unasked_may_be_woken(state: State) -> None:
    running = a_sandbox(state=state, run=Run(2, "f" * 32))
    ended = lifecycle.stopped(running, 2, "the disk is full", LATER)
    assert (ended.stopped_by, ended.stopped_at) == (StoppedBy.CRASH, LATER)
    assert ended.wakes


def test_a_stop_that_was_asked_for_stays_that_when_the_runner_gives_a_reason() -> None:
    ended = lifecycle.stopped(lifecycle.stop(_started(), NOW), 2, "the disk is full", LATER)
    assert (ended.stopped_by, ended.error_reason) == (StoppedBy.API, "the disk is full")


def test_a_call_makes_a_stop_by_the_collector_its_own() -> None:
    stopping = lifecycle.stop(
        a_sandbox(
            state=State.STOPPING,
            desired_state=DesiredState.STOPPED,
            run=Run(2, "f" * 32),
            stopped_by=StoppedBy.COLLECTOR,
        ),
        LATER,
    )
    assert stopping.stopped_by is StoppedBy.API


def test_a_crash_ends_an_ephemeral_sandbox_for_good() -> None:
    ended = lifecycle.stopped(_started(intervals=Intervals(delete=0)), 2, "why", LATER)
    assert ended.state is State.DESTROYING
