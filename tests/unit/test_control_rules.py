"""Which call does what in which state: every pair is tried, and a page of the docs made of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from control.model import DesiredState, Run, State, StoppedBy
from tests.support.control_rig import complaint
from tests.support.records import a_sandbox

if TYPE_CHECKING:
    import httpx

    from tests.support.control_rig import Rig

pytestmark = pytest.mark.unit

DOCUMENT = Path(__file__).parents[2] / "docs" / "rules.md"
STARTED, STOPPED, ARCHIVED, DESTROYED = (
    DesiredState.STARTED,
    DesiredState.STOPPED,
    DesiredState.ARCHIVED,
    DesiredState.DESTROYED,
)


@dataclass(frozen=True)
class Row:
    """A sandbox as it is before the call; ``pending`` tells that a change is under way."""

    name: str
    state: State
    desired: DesiredState
    pending: bool = False
    more: dict[str, Any] = field(default_factory=dict)


ROWS = (
    Row("pending_build", State.PENDING_BUILD, STARTED, pending=True),
    Row("building_snapshot", State.BUILDING_SNAPSHOT, STARTED, pending=True),
    Row("build_failed", State.BUILD_FAILED, STARTED),
    Row("creating", State.CREATING, STARTED, pending=True),
    Row("starting", State.STARTING, STARTED, pending=True),
    Row("restoring", State.RESTORING, STARTED, pending=True),
    Row("started", State.STARTED, STARTED),
    Row("unknown: its node is lost", State.UNKNOWN, STARTED),
    Row("started, and a snapshot is made", State.STARTED, STARTED, True, {"snapshotting": "s"}),
    Row("stopping", State.STOPPING, STOPPED, True, {"stopped_by": StoppedBy.API}),
    Row("stopping, to start again", State.STOPPING, STARTED, pending=True),
    Row("stopped", State.STOPPED, STOPPED),
    Row("stopped, and a snapshot is made", State.STOPPED, STOPPED, True, {"snapshotting": "s"}),
    Row("archiving", State.ARCHIVING, ARCHIVED, pending=True),
    Row("archived", State.ARCHIVED, ARCHIVED, more={"node": ""}),
    Row("error, recoverable", State.ERROR, STARTED, more={"recoverable": True}),
    Row("error", State.ERROR, STARTED),
    Row("destroying", State.DESTROYING, DESTROYED, pending=True),
    Row("destroyed", State.DESTROYED, DESTROYED),
)
LIFE = ("start", "stop", "archive", "recover", "delete")
SETTINGS: tuple[tuple[str, str, Any], ...] = (
    ("PUT", "labels", {"labels": {"a": "b"}}),
    ("POST", "public/true", None),
    ("POST", "autostop/7", None),
    ("POST", "autoarchive/7", None),
    ("POST", "autodelete/7", None),
    ("POST", "ttl/7", None),
    ("POST", "network-settings", {"networkBlockAll": True}),
)
COLUMNS = (*LIFE, "resize", "snapshot", "settings", "get")
# What is under way already, or comes after it.
_TAKEN = {
    *(("start", name) for name in ("creating", "starting", "restoring")),
    *(("start", name) for name in ("stopping", "stopping, to start again", "archiving")),
    ("start", "started, and a snapshot is made"),  # it is started
    ("stop", "stopping"),
}


async def put(rig: Rig, row: Row) -> str:
    """Store a record as it is in the middle of this."""
    fields = {"node": "local", "run": Run(3, "f" * 32), **row.more}
    sandbox = a_sandbox(state=row.state, desired_state=row.desired, **fields)
    await rig.store.sandboxes.insert(sandbox, most=1000)
    return sandbox.id


async def call(rig: Rig, sandbox_id: str, column: str) -> httpx.Response:
    path = f"/sandbox/{sandbox_id}"
    match column:
        case "get":
            return await rig.call("GET", path)
        case "delete":
            return await rig.call("DELETE", path)
        case "resize":
            return await rig.call("POST", f"{path}/resize", json={"cpu": 2})
        case "snapshot":
            return await rig.call("POST", f"{path}/snapshot", json={"name": sandbox_id})
        case _:
            return await rig.call("POST", f"{path}/{column}")


async def outcome(rig: Rig, row: Row, column: str, said: set[tuple[str, int, str]]) -> str:
    if column == "settings":
        return await settings(rig, row)
    sandbox_id = await put(rig, row)
    answer = await call(rig, sandbox_id, column)
    if answer.status_code != 200:
        said.add((column, answer.status_code, complaint(answer).replace(sandbox_id, "X")))
        return str(answer.status_code)
    return str(answer.json()["desiredState"]) if column in LIFE else "yes"


async def settings(rig: Rig, row: Row) -> str:
    """Try all of them; they are taken alike."""
    found = set()
    for method, path, body in SETTINGS:
        sandbox_id = await put(rig, row)
        answer = await rig.call(method, f"/sandbox/{sandbox_id}/{path}", json=body)
        found.add("yes" if answer.status_code == 200 else str(answer.status_code))
    (alike,) = found
    return alike


def expected(row: Row, column: str) -> str | None:
    """Say what the rules say, None where they leave it to each call."""
    if column == "delete":
        return "destroyed"
    if row.desired is DESTROYED:
        return None
    if (column, row.name) in _TAKEN:
        return None
    if row.pending and column in {"start", "stop", "archive", "recover", "resize", "snapshot"}:
        return "409"
    if column == "start" and row.name in {"stopped", "archived", "error, recoverable", "started"}:
        return "started"
    return None


def page(cells: dict[str, list[str]], said: set[tuple[str, int, str]]) -> str:
    lines = [f"| it is | {' | '.join(COLUMNS)} |", f"|---|{'---|' * len(COLUMNS)}"]
    lines += [f"| {name} | {' | '.join(row)} |" for name, row in cells.items()]
    lines += ["", "## What refusals say", "", "| call | status | text |", "|---|---|---|"]
    lines += [f"| {column} | {status} | {text} |" for column, status, text in sorted(said)]
    return "\n".join(lines) + "\n"


@pytest.mark.asyncio(loop_scope="session")
async def test_every_call_in_every_state_is_as_the_docs_say(rig: Rig) -> None:
    """Write them anew where they are not: the change is then to be committed."""
    cells: dict[str, list[str]] = {}
    said: set[tuple[str, int, str]] = set()
    wrong = []
    for row in ROWS:
        cells[row.name] = [await outcome(rig, row, column, said) for column in COLUMNS]
        for column, found in zip(COLUMNS, cells[row.name], strict=True):
            if expected(row, column) not in {None, found}:
                wrong.append((row.name, column, found, expected(row, column)))
    written = DOCUMENT.read_text(encoding="utf-8")
    wanted = written.partition("| it is |")[0] + page(cells, said)
    DOCUMENT.write_text(wanted, encoding="utf-8")
    assert wrong == []
    assert written == wanted, "docs/rules.md was written anew: see what changed, and commit it"


def test_no_state_is_left_out() -> None:
    reached = {row.state for row in ROWS}
    foreign = {"pulling_snapshot", "resizing", "snapshotting", "forking", "pausing", "paused"}
    assert {state.value for state in set(State) - reached} == foreign | {"resuming"}
