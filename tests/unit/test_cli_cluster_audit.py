"""What counts as a difference between records, jobs, runners, disks and registrations."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from control.audit import Inventory, View, audit, confirmed
from control.model import Resources, Run, Sandbox, State
from control.naming import SandboxId
from jobs.scheduler import Allocation
from traefik.registry import Route

pytestmark = pytest.mark.unit

ID = SandboxId("abcdefghijklmnop")
NOW = datetime(2026, 1, 1, tzinfo=UTC)

RECORD = Sandbox(
    id=ID,
    name="one",
    snapshot="s",
    image_id="0" * 64,
    user="daytona",
    resources=Resources(1, 1, 1),
    state=State.STARTED,
    node="node-1",
    run=Run(generation=2, incarnation="i"),
    created_at=NOW,
    updated_at=NOW,
    changed_at=NOW,
    last_activity_at=NOW,
)
JOB = Allocation(ID, 2, "node-1", "10.0.0.1", 20001, running=True, exit=None)
ROUTE = Route(ID, 2, "10.0.0.1", 20001, "localhost")
HERE = Inventory(disks=frozenset({ID}), running=frozenset({ID}))
IDLE = Inventory(disks=frozenset({ID}), running=frozenset())
EMPTY = Inventory(frozenset(), frozenset())
GOOD = View([RECORD], [JOB], {ID: "ready"}, [ROUTE], {"node-1": HERE, "node-2": EMPTY})
REST = {"node-1": IDLE, "node-2": EMPTY}


def a(state: State, node: str = "node-1") -> list[Sandbox]:
    return [replace(RECORD, state=state, node=node)]


def at_rest(state: State) -> View:
    return View(a(state), inventories=REST)


def differences(view: View) -> list[str]:
    return [text for line in audit(view) for text in line.differences]


@pytest.mark.parametrize(
    "view",
    [
        pytest.param(View(), id="nothing"),
        pytest.param(GOOD, id="started"),
        pytest.param(replace(GOOD, said={}), id="not asked"),
        pytest.param(replace(GOOD, inventories={}), id="no node answers"),
        pytest.param(
            replace(
                GOOD, allocations=[replace(JOB, reachable=False)], inventories={"node-2": EMPTY}
            ),
            id="its node is lost to the scheduler, and its runner answers",
        ),
        pytest.param(at_rest(State.STOPPED), id="stopped"),
        pytest.param(at_rest(State.ERROR), id="failed, with a disk"),
        pytest.param(View(a(State.ERROR), inventories={"node-1": EMPTY}), id="failed, without"),
        pytest.param(View(a(State.DESTROYED), inventories={"node-1": EMPTY}), id="destroyed"),
        pytest.param(
            replace(
                GOOD,
                records=a(State.UNKNOWN),
                allocations=[replace(JOB, reachable=False)],
                said={ID: None},
                inventories={"node-2": EMPTY},
            ),
            id="unknown",
        ),
        *(
            pytest.param(replace(view, records=a(state, node)), id=f"{state.value}, {what}")
            for state in (State.CREATING, State.STARTING, State.STOPPING, State.DESTROYING)
            for what, node, view in (
                ("all there", "node-1", GOOD),
                ("nothing there", "", View(inventories={"node-1": EMPTY})),
            )
        ),
    ],
)
def test_what_fits_and_what_is_in_flight_is_no_difference(view: View) -> None:
    assert differences(view) == []


@pytest.mark.parametrize(
    ("view", "told"),
    [
        (replace(GOOD, allocations=[], inventories=REST), ["started, but without a job"]),
        (
            replace(GOOD, allocations=[]),
            ["started, but without a job", "a runner lives on node-1 without a job there"],
        ),
        (
            replace(GOOD, allocations=[replace(JOB, running=False)]),
            ["started, but its job has ended"],
        ),
        (
            replace(GOOD, allocations=[replace(JOB, generation=1)]),
            ["the job is of generation 1, not 2", "the registration is of generation 2"],
        ),
        (replace(GOOD, said={ID: None}), ["started, but its runner does not answer"]),
        (replace(GOOD, said={ID: "stopping"}), ["started, but its runner says stopping"]),
        (
            replace(GOOD, allocations=[replace(JOB, reachable=False)], said={ID: None}),
            ["started, but its node is lost and its runner does not answer"],
        ),
        (
            replace(GOOD, inventories=REST),
            ["started, but no runner of it lives on node-1"],
        ),
        (replace(GOOD, routes=[]), ["started, but not registered"]),
        (
            replace(GOOD, routes=[replace(ROUTE, port=20002)]),
            ["the registration leads to 10.0.0.1:20002, the job is at 10.0.0.1:20001"],
        ),
        (
            replace(GOOD, routes=[replace(ROUTE, generation=1)]),
            ["the registration is of generation 1"],
        ),
        (
            replace(GOOD, inventories={"node-1": HERE, "node-2": HERE}),
            [
                "runs more than once: on node-1, node-2",
                "a runner lives on node-2 without a job there",
                "a disk of it is on node-2, too; its record says node-1",
            ],
        ),
        (
            replace(GOOD, allocations=[replace(JOB, node="node-2")], inventories={}),
            ["its job is on node-2, its record says node-1"],
        ),
        (
            replace(GOOD, inventories={"node-1": Inventory(frozenset(), frozenset({ID}))}),
            ["its disk is not on node-1"],
        ),
        (
            View(a(State.STOPPED), inventories={"node-1": EMPTY}),
            ["its disk is not on node-1"],
        ),
        (
            replace(at_rest(State.STOPPED), allocations=[JOB]),
            ["stopped, but a job runs on node-1"],
        ),
        (
            replace(at_rest(State.ERROR), allocations=[replace(JOB, running=False)]),
            ["error, but a job is kept on node-1"],
        ),
        (replace(at_rest(State.STOPPED), routes=[ROUTE]), ["stopped, but registered"]),
        (
            View(a(State.STOPPED), inventories={"node-1": HERE}),
            ["a runner lives on node-1 without a job there"],
        ),
        (at_rest(State.DESTROYED), ["destroyed, but its disk is on node-1"]),
        (
            replace(GOOD, records=a(State.UNKNOWN)),
            ["unknown, but its runner answers on node-1"],
        ),
        (
            View(a(State.UNKNOWN)),
            ["unknown, but without a job that could come back"],
        ),
        (
            replace(GOOD, records=a(State.STOPPING), inventories={"a": HERE, "b": HERE}),
            [
                "runs more than once: on a, b",
                "a disk of it is on a, b, too; its record says node-1",
            ],
        ),
        (View(allocations=[JOB]), ["job without a record on node-1"]),
        (View(allocations=[replace(JOB, node="")]), ["job without a record"]),
        (View(routes=[ROUTE]), ["registration without a record"]),
        (View(inventories={"node-2": IDLE}), ["disk without a record on node-2"]),
        (
            View(inventories={"node-1": HERE}),
            ["runner without a record on node-1", "disk without a record on node-1"],
        ),
    ],
)
def test_each_difference_is_told(view: View, told: list[str]) -> None:
    assert differences(view) == told


def test_a_line_has_what_everybody_tells() -> None:
    [line] = audit(GOOD)
    assert (line.record, line.allocation, line.said, line.route) == (RECORD, JOB, "ready", ROUTE)
    assert (line.disk_on, line.running_on) == (("node-1",), ("node-1",))


def test_only_what_two_looks_saw_is_confirmed() -> None:
    wrong, right = audit(replace(GOOD, routes=[])), audit(GOOD)
    assert confirmed(right, wrong)[0].differences == ()
    assert confirmed(wrong, right)[0].differences == ()
    assert confirmed(wrong, wrong)[0].differences == ("started, but not registered",)


def test_what_changed_between_two_looks_is_in_flight() -> None:
    before = audit(replace(at_rest(State.STOPPED), routes=[ROUTE]))
    after = audit(replace(at_rest(State.ERROR), routes=[ROUTE]))
    assert after[0].differences
    assert confirmed(before, after)[0].differences == ()
    assert confirmed([], after)[0].differences == ()
