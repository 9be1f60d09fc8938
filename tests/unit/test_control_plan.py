"""The plan, over every record, observation and time that can come together."""

from __future__ import annotations

import itertools
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from control import lifecycle
from control.model import LIVE_STATES, STARTING_STATES, Archive, DesiredState, Run, State
from control.reconcile import plan as p
from control.reconcile.plan import Seen, Step, is_quiet, plan, route_to, should_ask
from control.store import Outline
from jobs.runner.message import Head
from jobs.scheduler import Allocation, Exit
from tests.support.records import NOW, a_sandbox
from traefik.registry import Route

if TYPE_CHECKING:
    from control.model import Sandbox

pytestmark = pytest.mark.unit

LIMITS = p.Limits(
    domain="localhost",
    start_deadline=timedelta(seconds=60),
    stop_grace=timedelta(seconds=15),
    keep_destroyed=timedelta(minutes=10),
)
GENERATION = 3
ID = a_sandbox().id
LATE = NOW + timedelta(hours=1)

DESIRED = {
    **dict.fromkeys(LIVE_STATES, DesiredState.STARTED),
    State.ERROR: DesiredState.STARTED,
    State.STOPPING: DesiredState.STOPPED,
    State.STOPPED: DesiredState.STOPPED,
    State.DESTROYING: DesiredState.DESTROYED,
    State.DESTROYED: DesiredState.DESTROYED,
}


def record(state: State, *, claimed: bool = True, **fields: object) -> Sandbox:
    run = Run(GENERATION, "f" * 32 if claimed else None, pushed_version=1)
    fields = {"node": "local", "run": run, **fields}
    return a_sandbox(id=ID, state=state, desired_state=DESIRED[state], **fields)


def job(generation: int = GENERATION, ended: Exit | None = None) -> Allocation:
    return Allocation(ID, generation, "local", "127.0.0.1", 20001, ended is None, ended)


def ended(reason: str = "", phase: str = "ready") -> Allocation:
    return job(ended=Exit(reason, 1 if reason else 0, phase, NOW))


def lost(generation: int = GENERATION) -> Allocation:
    return replace(job(generation), reachable=False)


OURS = route_to(job(), "localhost")
RUNNING, ROUTED = Seen(job()), Seen(job(), OURS)


def action(sandbox: Sandbox | None, seen: Seen, now: object = NOW) -> object:
    assert now in {NOW, LATE}
    return plan(sandbox, seen, LATE if now is LATE else NOW, LIMITS).action


@pytest.mark.parametrize("state", sorted(STARTING_STATES))
def test_a_start_is_submitted_then_routed_then_awaited(state: State) -> None:
    fresh = record(state, claimed=False)
    assert action(fresh, Seen()) == p.Submit()
    assert plan(fresh, RUNNING, NOW, LIMITS) == Step(wait=LIMITS.ask_after)
    claimed = record(state)
    assert action(claimed, RUNNING) == p.Register(OURS)
    assert plan(claimed, ROUTED, NOW, LIMITS) == Step(wait=LIMITS.ask_after)
    nearly = NOW + LIMITS.start_deadline - timedelta(seconds=1)
    assert plan(claimed, ROUTED, nearly, LIMITS) == Step(wait=timedelta(seconds=1))


@pytest.mark.parametrize("state", sorted(STARTING_STATES))
def test_nobody_is_led_to_a_gate_that_may_not_listen_yet(state: State) -> None:
    former = route_to(job(GENERATION - 1), "localhost")
    assert action(record(state, claimed=False), Seen(job(), former)) == p.Deregister()
    assert action(record(state), Seen(job(), former)) == p.Register(OURS)


def test_a_start_waits_for_the_end_of_the_former_one() -> None:
    fresh = record(State.STARTING, claimed=False)
    assert action(fresh, Seen(job(GENERATION - 1))) == p.StopJob()
    over = replace(ended(), generation=GENERATION - 1)
    assert action(fresh, Seen(over)) == p.Forget()


def test_a_start_that_takes_too_long_fails_with_what_to_do() -> None:
    for seen in (Seen(), RUNNING, ROUTED):
        failed = action(record(State.CREATING, claimed=False), seen, LATE)
        assert isinstance(failed, p.Failed)
        assert "60 s" in failed.reason


def test_a_runner_that_says_that_it_is_ready_is_believed_even_late() -> None:
    seen = replace(ROUTED, gate_phase="ready")
    assert action(record(State.STARTING), seen) == p.Started()
    assert action(record(State.STARTING), seen, LATE) == p.Started()
    assert isinstance(
        action(record(State.STARTING), replace(seen, gate_phase="assign")), type(None)
    )


def test_a_start_whose_runner_ended_fails_with_the_runner_s_reason() -> None:
    seen = Seen(ended("the disk is busy", phase="assign"), OURS)
    assert action(record(State.STARTING), seen) == p.Failed("the disk is busy")
    quiet = action(record(State.STARTING), Seen(ended("", phase="assign")))
    assert isinstance(quiet, p.Failed)
    assert quiet.reason


def test_a_start_whose_end_alone_was_heard_of_counts_as_stopped() -> None:
    seen = Seen(ended("out of memory", phase="ready"))
    assert action(record(State.STARTING), seen) == p.Stopped("out of memory")


def test_a_claimed_start_without_a_job_is_not_submitted_again() -> None:
    assert isinstance(action(record(State.STARTING), Seen()), p.Failed)


def test_a_started_sandbox_is_left_alone_when_all_is_well() -> None:
    assert plan(record(State.STARTED), ROUTED, LATE, LIMITS) == Step()


def test_a_started_sandbox_gets_its_route_and_then_its_assignment() -> None:
    changed = record(State.STARTED, assignment_version=2)
    assert action(changed, RUNNING) == p.Register(OURS)
    elsewhere = Route(ID, GENERATION, "127.0.0.1", 9, "localhost")
    assert action(changed, Seen(job(), elsewhere)) == p.Register(OURS)
    assert action(changed, ROUTED) == p.Push()


def test_a_runner_that_ended_unasked_leaves_a_stopped_sandbox_with_a_reason() -> None:
    killed = Seen(ended("killed", "unknown"))
    for seen in (Seen(), Seen(job(GENERATION - 1)), Seen(ended()), killed):
        stopped = action(record(State.STARTED), seen)
        assert isinstance(stopped, p.Stopped)
        assert stopped.reason
    assert action(record(State.STARTED), killed) == p.Stopped("killed")


def test_a_word_that_was_reported_counts_where_the_scheduler_has_none() -> None:
    killed = ended("the runner was killed (signal 9)", "unknown")
    silent = replace(killed, exit=Exit("", 0, "unknown", NOW))
    run = Run(GENERATION, "f" * 32, exit_reason="out of memory", exit_reached="ready")
    for allocation in (killed, silent, replace(killed, exit=None)):
        started = action(record(State.STARTED, run=run), Seen(allocation))
        assert started == p.Stopped("out of memory")
        assert action(record(State.STARTING, run=run), Seen(allocation)) == started
    assert action(record(State.STOPPING, run=run), Seen(killed)) == p.Stopped("out of memory")
    assert action(record(State.STARTED, run=run), Seen()) == p.Stopped("out of memory")
    asked = replace(run, exit_reason="", exit_reached="stopping")
    assert action(record(State.STOPPING, run=asked), Seen(silent)) == p.Stopped("")
    early = replace(run, exit_reason="the disk is busy", exit_reached="assign")
    assert action(record(State.STARTING, run=early), Seen(silent)) == p.Failed("the disk is busy")
    known = ended("full", "stopping")
    assert action(record(State.STARTED, run=run), Seen(known)) == p.Stopped("full")


def test_an_end_that_nobody_asked_for_is_the_scheduler_s() -> None:
    """Its runner was told to end, and knows of no other reason."""
    (stopped,) = {
        action(record(state), Seen(ended("", "stopping"), OURS))
        for state in (State.STARTING, State.STARTED, State.UNKNOWN)
    }
    assert isinstance(stopped, p.Stopped)
    assert stopped.reason.startswith("the scheduler ended it")


def test_a_lost_node_s_sandbox_that_answers_itself_is_left_started() -> None:
    answers = Seen(lost(), OURS, "ready")
    assert plan(record(State.STARTED), answers, LATE, LIMITS) == Step(wait=LIMITS.ask_lost)
    assert action(record(State.STARTED, assignment_version=2), answers) == p.Push()
    assert action(record(State.UNKNOWN), answers) == p.Found()


def test_a_lost_node_s_sandbox_that_is_silent_is_unknown_and_keeps_its_route() -> None:
    silent = Seen(lost(), OURS)
    noted = action(record(State.STARTED), silent)
    assert isinstance(noted, p.Lost)
    assert noted.reason.startswith("node unreachable: local ")
    assert plan(record(State.UNKNOWN), silent, LATE, LIMITS) == Step(wait=LIMITS.ask_lost)


def test_an_unknown_sandbox_is_started_again_or_over_when_its_node_is_back() -> None:
    unknown = record(State.UNKNOWN)
    assert action(unknown, ROUTED) == p.Found()
    assert action(unknown, Seen(ended("killed", "unknown"), OURS)) == p.Stopped("killed")
    assert isinstance(action(unknown, Seen(None, OURS)), p.Stopped)


def test_a_start_on_a_node_that_is_lost_fails_at_its_deadline_with_that() -> None:
    assert plan(record(State.STARTING), Seen(lost(), OURS), NOW, LIMITS).action is None
    for seen in (Seen(lost(), OURS), Seen(lost(GENERATION - 1))):
        failed = action(record(State.STARTING), seen, LATE)
        assert isinstance(failed, p.Failed)
        assert failed.reason.startswith("node unreachable: local ")
    former = plan(record(State.STARTING), Seen(lost(GENERATION - 1)), NOW, LIMITS)
    assert former == Step(wait=LIMITS.ask_lost)


@pytest.mark.parametrize("state", [State.STOPPING, State.DESTROYING])
def test_an_end_on_a_lost_node_says_why_it_waits_and_is_made_when_the_node_is_back(
    state: State,
) -> None:
    ending = record(state)
    delayed = action(ending, Seen(lost()))
    assert isinstance(delayed, p.Delayed)
    told = replace(ending, error_reason=delayed.reason)
    assert plan(told, Seen(lost()), LATE, LIMITS) == Step(wait=LIMITS.ask_lost)
    assert action(told, Seen(lost(), None, "ready"), LATE) == p.AskToStop()
    assert plan(told, Seen(lost(), None, "stopping"), LATE, LIMITS).action is None
    assert action(told, RUNNING, LATE) == p.StopJob()


@pytest.mark.parametrize("state", [State.STOPPED, State.ERROR])
def test_nothing_is_stopped_on_a_lost_node_until_it_is_back(state: State) -> None:
    assert plan(record(state), Seen(lost()), NOW, LIMITS) == Step(wait=LIMITS.ask_lost)
    assert plan(None, Seen(lost(), is_orphan=True), NOW, LIMITS) == Step(wait=LIMITS.ask_lost)


@pytest.mark.parametrize("state", [State.STOPPING, State.DESTROYING, State.ERROR])
def test_where_a_start_was_that_never_reported_is_noted_before_it_is_forgotten(
    state: State,
) -> None:
    silent = record(state, claimed=False, node="")
    for allocation in (job(), lost(), replace(ended(), exit=None)):
        assert action(silent, Seen(allocation)) == p.Placed("local")
    waiting = replace(job(), node="")
    assert action(silent, Seen(waiting)) == p.StopJob()


def test_a_start_that_fetched_an_image_to_the_end_tells_what_it_said_last() -> None:
    waiting = record(State.STARTING, error_reason="fetching image 3 of 7")
    failed = action(waiting, ROUTED, LATE)
    assert isinstance(failed, p.Failed)
    assert failed.reason.endswith("fetching image 3 of 7")


def test_a_stop_takes_the_route_first_then_asks_then_insists() -> None:
    stopping = record(State.STOPPING)
    assert action(stopping, ROUTED) == p.Deregister()
    assert plan(stopping, RUNNING, NOW, LIMITS) == Step(p.AskToStop(), wait=LIMITS.stop_grace)
    assert action(stopping, RUNNING, LATE) == p.StopJob()
    assert action(record(State.STOPPING, claimed=False), RUNNING) == p.StopJob()


def test_a_stop_ends_when_the_job_has() -> None:
    stopping = record(State.STOPPING)
    assert action(stopping, Seen(ended("", "stopping"), OURS)) == p.Deregister()
    assert action(stopping, Seen(ended("", "stopping"))) == p.Stopped("")
    assert action(stopping, Seen(ended("disk full", "stopping"))) == p.Stopped("disk full")
    assert action(stopping, Seen(ended("the runner was killed", "unknown"))) == p.Stopped("")
    assert action(stopping, Seen()) == p.Stopped("")


def test_a_deletion_ends_the_job_then_forgets_it_then_removes_the_disk() -> None:
    destroying = record(State.DESTROYING)
    assert action(destroying, ROUTED) == p.Deregister()
    assert action(destroying, RUNNING) == p.AskToStop()
    assert action(destroying, RUNNING, LATE) == p.StopJob()
    assert action(destroying, Seen(ended())) == p.Forget()
    assert action(destroying, Seen()) == p.Destroy()


@pytest.mark.parametrize("state", [State.STOPPED, State.ERROR, State.DESTROYED])
def test_nothing_is_left_of_what_does_not_run(state: State) -> None:
    resting = record(state)
    assert action(resting, ROUTED) == p.Deregister()
    assert action(resting, RUNNING) == p.StopJob()
    assert action(resting, Seen(ended())) == p.Forget()
    assert action(resting, Seen()) is None


def test_a_destroyed_record_is_kept_for_a_while() -> None:
    gone = record(State.DESTROYED)
    assert plan(gone, Seen(), NOW, LIMITS) == Step(wait=LIMITS.keep_destroyed)
    assert action(gone, Seen(), LATE) == p.Purge()


def test_what_has_no_record_is_touched_only_when_that_is_sure() -> None:
    assert plan(None, ROUTED, NOW, LIMITS) == Step()
    assert action(None, replace(ROUTED, is_orphan=True)) == p.Deregister()
    assert action(None, Seen(job(), is_orphan=True)) == p.StopJob()
    assert action(None, Seen(ended(), is_orphan=True)) == p.Forget()
    assert action(None, Seen(is_orphan=True)) is None


def test_a_runner_is_asked_itself_only_when_its_report_is_late() -> None:
    soon, later = NOW + timedelta(seconds=1), NOW + LIMITS.ask_after
    assert should_ask(record(State.STARTING), RUNNING, later, LIMITS)
    assert not should_ask(record(State.STARTING), RUNNING, soon, LIMITS)
    assert not should_ask(record(State.STARTING, claimed=False), RUNNING, later, LIMITS)
    assert not should_ask(record(State.STARTED), RUNNING, later, LIMITS)
    assert not should_ask(record(State.STARTING), Seen(ended()), later, LIMITS)
    assert not should_ask(record(State.STARTING), Seen(job(1)), later, LIMITS)
    for state in (State.STARTING, State.STARTED, State.UNKNOWN, State.STOPPING, State.DESTROYING):
        assert should_ask(record(state), Seen(lost()), NOW, LIMITS)
        assert not should_ask(record(state, claimed=False), Seen(lost()), NOW, LIMITS)
    assert not should_ask(record(State.ERROR), Seen(lost()), NOW, LIMITS)


ALLOCATIONS = [
    None,
    job(),
    job(GENERATION - 1),
    ended(),
    ended("why", "assign"),
    ended("the runner was killed", "unknown"),
    ended("full", "stopping"),
    replace(ended(), generation=GENERATION - 1),
    replace(job(), running=False),
    lost(),
    lost(GENERATION - 1),
]
ROUTES = [None, OURS, replace(OURS, generation=1, port=1)]
RECORDS = [record(state, claimed=claimed) for state in DESIRED for claimed in (True, False)]
RECORDS += [record(state, claimed=False, node="") for state in DESIRED]
RECORDS += [record(State.STARTED, archive=Archive("name", "digest", 1, is_stale=True))]


@pytest.mark.parametrize("now", [NOW, LATE], ids=["soon", "late"])
@pytest.mark.parametrize("phase", [None, "assign", "ready"])
def test_from_everywhere_the_plan_comes_to_rest_where_it_was_asked_to(
    now: object, phase: str | None
) -> None:
    """Carry out each action in a model of the world; nothing may go round in circles.

    A lost node comes back as soon as nothing more can be done without it.
    """
    moment = LATE if now is LATE else NOW
    for sandbox, allocation, route in itertools.product(RECORDS, ALLOCATIONS, ROUTES):
        world: tuple[Sandbox | None, Seen] = (sandbox, Seen(allocation, route, phase))
        for _ in range(16):
            step = plan(*world, moment, LIMITS)
            if step.action is None and (world[1].allocation or job()).reachable:
                break
            if step.action is None:
                world = (world[0], back(world[1]))
                continue
            world = carried_out(world[0], world[1], step.action)
        else:
            raise AssertionError(f"{sandbox.state}, {allocation}, {route}: never at rest")
        rest(world[0], world[1])


def back(seen: Seen) -> Seen:
    assert seen.allocation is not None
    return replace(seen, allocation=replace(seen.allocation, reachable=True))


def rest(sandbox: Sandbox | None, seen: Seen) -> None:
    """Check that what is left fits together."""
    if sandbox is None or sandbox.state not in LIVE_STATES:
        assert seen.allocation is None
        assert seen.route is None
    else:
        assert seen.allocation is not None
        assert seen.allocation.running
        if sandbox.run.incarnation is not None or sandbox.state not in STARTING_STATES:
            assert seen.route == route_to(seen.allocation, "localhost")
        else:
            assert seen.route in {None, route_to(seen.allocation, "localhost")}


def carried_out(
    sandbox: Sandbox | None, seen: Seen, action: p.Action
) -> tuple[Sandbox | None, Seen]:
    """Carry out an action; in this world runners obey, and time stands still."""
    over = Exit("", 0, "stopping", NOW)
    match action:
        case p.Submit():
            seen = replace(seen, allocation=job())
        case p.Register(route):
            seen = replace(seen, route=route)
        case p.Deregister():
            seen = replace(seen, route=None)
        case p.AskToStop() | p.StopJob():
            assert seen.allocation is not None
            seen = replace(seen, allocation=replace(seen.allocation, running=False, exit=over))
        case p.Forget():
            assert seen.allocation is not None
            assert not seen.allocation.running
            seen = replace(seen, allocation=None)
        case p.Purge():
            return None, seen
        case _:
            assert sandbox is not None
            return noted(sandbox, action), seen
    return sandbox, seen


def noted(sandbox: Sandbox, action: p.Action) -> Sandbox:
    match action:
        case p.Started():
            return lifecycle.up(sandbox, GENERATION, NOW)
        case p.Failed(reason):
            return lifecycle.fail(sandbox, GENERATION, reason, NOW)
        case p.Stopped(reason):
            return lifecycle.stopped(sandbox, GENERATION, reason, NOW)
        case p.Destroy():
            return lifecycle.destroyed(sandbox, NOW)
        case p.Lost(reason):
            return lifecycle.lost(sandbox, GENERATION, reason, NOW)
        case p.Found():
            return lifecycle.found(sandbox, GENERATION, NOW)
        case p.Placed(node):
            return lifecycle.placed(sandbox, GENERATION, node)
        case p.DropArchive():
            assert sandbox.archive is not None
            return lifecycle.unarchived(sandbox, sandbox.archive)
        case p.Delayed(reason):
            return lifecycle.delayed(sandbox, GENERATION, reason, NOW)
        case _:
            raise AssertionError(action)


def test_what_looks_quiet_from_afar_is_at_rest_from_near() -> None:
    for sandbox, allocation, route in itertools.product(RECORDS, ALLOCATIONS, ROUTES):
        outline = Outline(
            sandbox.id,
            sandbox.state,
            sandbox.desired_state,
            GENERATION,
            sandbox.run.pushed_version,
            sandbox.assignment_version,
            sandbox.changed_at,
            sandbox.archive is not None,
        )
        seen = Seen(allocation, route)
        if is_quiet(outline, seen, NOW, LIMITS):
            assert plan(sandbox, seen, NOW, LIMITS).action is None
        else:
            busy = sandbox.state in STARTING_STATES or (allocation and not allocation.reachable)
            assert busy or plan(sandbox, seen, NOW, LIMITS).action is not None


def test_no_image_is_waited_for_for_ever() -> None:
    start = a_sandbox()
    allocation = Allocation(start.id, 1, "local", "127.0.0.1", 20001, True, None)
    for minutes, goes_on in ((14, True), (16, False)):
        now = NOW + timedelta(minutes=minutes)
        head = Head("local", start.id, 1, "f" * 32, 1)
        later = lifecycle.waiting(start, head, allocation, "3 of 7", now)
        assert (later.changed_at == now) is goes_on
