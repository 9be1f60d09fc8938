"""Control is killed before and after each step of each operation: it comes home, nothing is lost.

What becomes of the sandbox each time is a page of the docs. Which steps there are is looked at
first, so that a new one is killed at, too, and shows in the page.
"""

from __future__ import annotations

import contextlib
import secrets
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.chaos.audit import differences
from tests.chaos.knife import order_path, serving, steps_path
from tests.support.api import Api, Sandbox
from tests.support.instance import Instance
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(1800)]

DOCUMENT = Path(__file__).parents[2] / "docs" / "kills.md"
BACK_SECONDS = 30
STEP_SECONDS = 60
SMALL = {"cpu": 1, "memory": 1, "disk": 1}  # gibibytes
NEVER_MADE = "never made"
# Only a slow machine sees these: something did not answer in time, or waited for its turn.
SOMETIMES = {"job: stop", "record: what it says"}


@dataclass(frozen=True)
class Operation:
    """What is done to a sandbox in a state, and where that leads."""

    name: str
    verb: str
    before: str
    after: str


OPERATIONS = (
    Operation("create", "create", NEVER_MADE, "started"),
    Operation("start", "start", "stopped", "started"),
    Operation("stop", "stop", "started", "stopped"),
    Operation("archive", "archive", "stopped", "archived"),
    Operation("restore", "start", "archived", "started"),
    Operation("delete", "delete", "started", "destroyed"),
)


@dataclass(eq=False)
class Kept:
    """A sandbox by its name, and what it acknowledged to have written and synced."""

    api: Api
    name: str
    written: list[str] = field(default_factory=list)

    def state(self) -> str:
        answer = self.api.call("GET", f"/sandbox/{self.name}")
        if answer.status_code == 404:
            # A name is free as soon as its sandbox is to go; without a file it never was.
            return "destroyed" if self.written else NEVER_MADE
        record = answer.json()
        return str(record["state"]) if record["state"] == record["desiredState"] else ""

    def bring(self, state: str) -> None:
        """Bring it to a state by way of ``started``, where its files are looked at."""
        sandbox = Sandbox(self.api, self.api.call("GET", f"/sandbox/{self.name}").json()["id"])
        sandbox.start()
        said = sandbox.check("cat ~/written 2> /dev/null || true")
        assert said.split() == self.written
        text = secrets.token_hex(4)
        sandbox.check(f"echo {text} >> ~/written && sync ~/written")
        self.written.append(text)
        if state in {"stopped", "archived"}:
            sandbox.stop()
        if state == "archived":
            assert sandbox.act("archive").status_code == 200
            sandbox.wait_for("archived", STEP_SECONDS)


class Matrix:
    """A server whose control can be told where to die."""

    def __init__(self, instance: Instance, api: Api) -> None:
        self._instance, self._api = instance, api
        self._order, self._steps = order_path(instance.data), steps_path(instance.data)

    def table(self, operation: Operation) -> str:
        """Kill control at each step of an operation, and tell what became of the sandbox."""
        kept, steps = self._steps_of(operation)
        lines = [f"| {operation.name}: control is killed | before it | after it |", "|---|---|---|"]
        for step in steps:
            cells = []
            for when in ("before", "after"):
                kept = self._prepared(operation, kept)
                # Cut off before its very first step, nothing was asked for.
                was_asked = step != steps[0] or when == "after"
                self._kill(operation, kept, f"{when} {step}", was_asked=was_asked)
                cells.append(self._outcome(operation, kept, was_asked=was_asked))
            lines.append(f"| {step} | {' | '.join(cells)} |")
        kept = self._prepared(operation, kept)
        if operation.before != NEVER_MADE:
            self._call("delete", kept)
        return "\n".join(lines)

    def _steps_of(self, operation: Operation) -> tuple[Kept, list[str]]:
        """Do it without a kill; name its steps in the order in which they began."""
        kept = self._prepared(operation, None)
        self._steps.unlink(missing_ok=True)
        assert self._call(operation.verb, kept) == 200
        found = self._outcome(operation, kept, was_asked=True)
        assert found == operation.after
        steps = dict.fromkeys(self._steps.read_text().splitlines())
        seen = [step for step in steps if step not in SOMETIMES]
        known = steps_in(DOCUMENT.read_text(encoding="utf-8"), operation.name)
        # What goes on at once may begin in any order.
        return kept, known if set(known) == set(seen) else seen

    def _prepared(self, operation: Operation, former: Kept | None) -> Kept:
        """Bring a sandbox to where the operation begins."""
        if operation.before == NEVER_MADE:
            if former is not None and former.state() != NEVER_MADE:
                former.bring("started")
                self._call("delete", former)
            return Kept(self._api, f"kept-{secrets.token_hex(4)}")
        kept = former
        if kept is None or kept.state() == "destroyed":
            kept = Kept(self._api, f"kept-{secrets.token_hex(4)}")
            assert self._call("create", kept) == 200
        kept.bring(operation.before)
        eventually(lambda: not differences(self._instance), "no difference", seconds=STEP_SECONDS)
        return kept

    def _call(self, verb: str, kept: Kept) -> int:
        """Return the status of the answer, 0 if there was none."""
        path = f"/sandbox/{kept.name}"
        try:
            if verb == "create":
                return self._api.call(
                    "POST", "/sandbox", json={"name": kept.name, **SMALL}
                ).status_code
            if verb == "delete":
                return self._api.call("DELETE", path).status_code
            return self._api.call("POST", f"{path}/{verb}").status_code
        except httpx.TransportError:
            return 0

    def _kill(self, operation: Operation, kept: Kept, moment: str, *, was_asked: bool) -> None:
        print(f"{operation.name}: {moment}", flush=True)
        temporary = self._order.with_suffix(".new")
        temporary.write_text(moment)
        temporary.rename(self._order)
        status = self._call(operation.verb, kept)
        assert status != 200 or was_asked
        eventually(
            lambda: not self._order.exists(), f"control to die {moment}", seconds=STEP_SECONDS
        )
        eventually(self._api.answers, "the API", seconds=BACK_SECONDS)

    def _outcome(self, operation: Operation, kept: Kept, *, was_asked: bool) -> str:
        """Give it the time that it has, and tell where the sandbox is, and what differs then."""
        wanted = operation.after if was_asked else operation.before
        end = time.monotonic() + BACK_SECONDS
        while True:
            state, found = kept.state(), []
            if state == wanted:
                found = differences(self._instance)
                if not found:
                    return state
            if time.monotonic() > end:
                return "; ".join([state or "on its way", *found])
            time.sleep(0.1)


@pytest.fixture(scope="module")
def matrix() -> Iterator[Matrix]:
    with Instance.temporary() as instance:
        instance.up()
        api = Api(instance)
        with serving(instance), contextlib.closing(api):
            eventually(api.answers, "the API", seconds=BACK_SECONDS)
            yield Matrix(instance, api)
            print(instance.logs())


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
def test_control_is_killed_at_every_step(matrix: Matrix, operation: Operation) -> None:
    """Write the page anew where it is not so: the change is then to be committed."""
    table = matrix.table(operation)
    written = DOCUMENT.read_text(encoding="utf-8")
    wanted = with_table(written, operation.name, table)
    DOCUMENT.write_text(wanted, encoding="utf-8")
    for line in table.splitlines()[2:]:
        _, step, before, after, _ = (cell.strip() for cell in line.split("|"))
        assert before in {operation.before, operation.after}, step
        assert after == operation.after, step
    assert written == wanted, "docs/kills.md was written anew: see what changed, and commit it"


def with_table(document: str, name: str, table: str) -> str:
    """Put a table into the section of that name."""
    head, mark, rest = document.partition(f"\n## {name}\n")
    assert mark, f"docs/kills.md has no section {name}"
    _, following, others = rest.partition("\n## ")
    return f"{head}{mark}\n{table}\n{following}{others}"


def steps_in(document: str, name: str) -> list[str]:
    """Read the steps from the section of that name."""
    section = document.partition(f"\n## {name}\n")[2].partition("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| ")]
    return [row.split("|")[1].strip() for row in rows[1:]]
