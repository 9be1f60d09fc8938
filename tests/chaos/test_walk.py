"""A random walk over the API, with kills: afterwards nothing differs, and no write is lost.

``YURT_TEST_STEPS`` says how many steps, by default few.
"""

from __future__ import annotations

import asyncio
import math
import os
import secrets
import threading
import time
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

import httpx
import pytest
from hypothesis import HealthCheck, Phase, settings, strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    precondition,
    rule,
    run_state_machine_as_test,
)
from typing_extensions import override

from control.cli.world import open_store
from control.settings import Settings
from tests.chaos.audit import differences
from tests.chaos.knife import serving
from tests.support.api import START_SECONDS, Api, Sandbox
from tests.support.instance import Instance
from tests.support.processes import holder_of_lock, listener_on
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from control import model

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(3600)]

T = TypeVar("T")

STEPS = int(os.environ.get("YURT_TEST_STEPS", "60"))
STEPS_OF_A_WALK = 30
MOST = 4
SETTLED_SECONDS = 30
# Timers look every few seconds, and end ten sandboxes a minute.
TIMER_SECONDS = 120
HOUR = timedelta(minutes=61)
SMALL = {"cpu": 1, "memory": 1, "disk": 1}  # gibibytes
VERBS = {
    "started": ("stop", "delete"),
    "stopped": ("start", "archive", "delete"),
    "archived": ("start", "delete"),
}
TARGETS = {"start": "started", "stop": "stopped", "archive": "archived", "delete": "gone"}
WHICH = st.integers(0, MOST - 1)


@dataclass(eq=False)
class Walked:
    """A sandbox of the walk, and what must be true of it.

    Attributes:
        written: what it acknowledged to have written and synced.
    """

    sandbox: Sandbox
    state: str = "started"
    written: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def instance() -> Iterator[Instance]:
    with Instance.temporary() as made:
        made.up()
        with serving(made):
            yield made


class Walk(RuleBasedStateMachine):
    """Calls in any order, with kills between and during them."""

    instance: Instance
    api: Api
    steps = 0

    def __init__(self) -> None:
        super().__init__()
        self.there: list[Walked] = []
        self.last = ""

    # -- calls ---------------------------------------------------------------------------------

    @precondition(lambda self: len(self.there) < MOST)
    @rule()
    def create(self) -> None:
        self._step("create")
        self.there.append(Walked(self.api.create(**SMALL)))

    @precondition(lambda self: self._that_can("start"))
    @rule(which=WHICH)
    def start(self, which: int) -> None:
        self._move(which, "start")

    @precondition(lambda self: self._that_can("stop"))
    @rule(which=WHICH)
    def stop(self, which: int) -> None:
        self._move(which, "stop")

    @precondition(lambda self: self._that_can("archive"))
    @rule(which=WHICH)
    def archive(self, which: int) -> None:
        self._move(which, "archive")

    @precondition(lambda self: self._that_can("delete"))
    @rule(which=WHICH)
    def delete(self, which: int) -> None:
        self._move(which, "delete")

    @precondition(lambda self: self.there)
    @rule(which=WHICH, verb=st.sampled_from(["start", "stop", "archive"]))
    def move_where_it_cannot(self, which: int, verb: str) -> None:
        """A start of what is started is taken, everything else is refused; nothing changes."""
        walked = self._pick(which)
        if verb in VERBS[walked.state]:
            return
        self._step(f"{verb} {walked.sandbox.id}, in vain")
        answer = walked.sandbox.act(verb)
        assert answer.status_code == (200 if verb == "start" else 400), answer.text
        assert walked.sandbox.record()["state"] == walked.state

    @precondition(lambda self: self._started())
    @rule(which=WHICH, text=st.text("abcdef", min_size=1, max_size=8))
    def write(self, which: int, text: str) -> None:
        walked = _one_of(self._started(), which)
        self._step(f"write {text} in {walked.sandbox.id}")
        walked.sandbox.check(f"echo {text} >> ~/written && sync ~/written")
        walked.written.append(text)

    # -- kills ---------------------------------------------------------------------------------

    @precondition(lambda self: not self.last.startswith("kill control"))
    @rule(seconds=st.floats(0, 0.5))
    def without_control(self, seconds: float) -> None:
        self._step(f"kill control, and wait {seconds:.3f} s")
        self._kill_control()
        time.sleep(seconds)

    @precondition(lambda self: self.there)
    @rule(which=WHICH, choice=st.integers(0, 5), seconds=st.floats(0, 0.4))
    def kill_control_during_a_move(self, which: int, choice: int, seconds: float) -> None:
        """What was answered is so; what was not is so or as before."""
        walked = self._pick(which)
        verb = _one_of(VERBS[walked.state], choice)
        self._step(f"{verb} {walked.sandbox.id}, and kill control after {seconds:.3f} s")
        answered = self._interrupted(lambda: call(walked.sandbox, verb), seconds)
        state = self._at_rest(walked.sandbox)
        assert state == TARGETS[verb] or (state == walked.state and not answered)
        self._reached(walked, state)

    @precondition(lambda self: len(self.there) < MOST)
    @rule(seconds=st.floats(0, 0.6))
    def kill_control_during_a_create(self, seconds: float) -> None:
        self._step(f"create, and kill control after {seconds:.3f} s")
        name = f"walk-{secrets.token_hex(4)}"
        body = {"name": name, **SMALL}
        answered = self._interrupted(lambda: self.api.call("POST", "/sandbox", json=body), seconds)
        found = self.api.call("GET", f"/sandbox/{name}")
        assert found.status_code == 200 or not answered, found.text
        if found.status_code == 200:
            sandbox = Sandbox(self.api, found.json()["id"])
            sandbox.wait_for("started", START_SECONDS)
            self.there.append(Walked(sandbox))

    @precondition(lambda self: self._started())
    @rule(which=WHICH)
    def kill_runner(self, which: int) -> None:
        walked = _one_of(self._started(), which)
        self._step(f"kill the runner of {walked.sandbox.id}")
        lock = self.instance.data / "run" / "sandboxes" / walked.sandbox.id / "lock"
        holder_of_lock(lock).kill()
        record = walked.sandbox.wait_for("stopped", SETTLED_SECONDS)
        assert "killed" in record["errorReason"]
        walked.state = "stopped"

    # -- time ----------------------------------------------------------------------------------

    @precondition(lambda self: not self.last.startswith("wait"))
    @rule(seconds=st.floats(0, 0.5))
    def wait(self, seconds: float) -> None:
        self._step(f"wait {seconds:.3f} s")
        time.sleep(seconds)

    @precondition(lambda self: self.there)
    @rule(which=WHICH, timer=st.sampled_from(["autoarchive", "autodelete", "ttl"]))
    def an_hour_passes(self, which: int, timer: str) -> None:
        """A timer of an hour is over: whatever the record counts from is put back by that."""
        walked = self._pick(which)
        after = _after(timer, walked.state)
        self._step(f"an hour of {timer} passes for {walked.sandbox.id}")
        self._set(walked.sandbox, timer, 60)
        asyncio.run(put_back(self.instance, walked.sandbox.id))
        eventually(
            lambda: self._at_rest(walked.sandbox) == after,
            f"{walked.sandbox.id} to be {after}",
            seconds=TIMER_SECONDS,
        )
        if after != "gone":
            self._set(walked.sandbox, timer, {"autoarchive": 10_080, "autodelete": -1}[timer])
        self._reached(walked, after)

    # -- what the steps share ------------------------------------------------------------------

    def _step(self, what: str) -> None:
        type(self).steps += 1
        self.last = what
        print(f"{time.strftime('%X')} {self.steps}: {what}", flush=True)

    def _move(self, which: int, verb: str) -> None:
        walked = _one_of(self._that_can(verb), which)
        self._step(f"{verb} {walked.sandbox.id}")
        answer = call(walked.sandbox, verb)
        assert answer.status_code == 200, answer.text
        self._reached(walked, TARGETS[verb])

    def _that_can(self, verb: str) -> list[Walked]:
        return [walked for walked in self.there if verb in VERBS[walked.state]]

    def _pick(self, which: int) -> Walked:
        return _one_of(self.there, which)

    def _started(self) -> list[Walked]:
        return [walked for walked in self.there if walked.state == "started"]

    def _set(self, sandbox: Sandbox, timer: str, minutes: int) -> None:
        answer = sandbox.act(f"{timer}/{minutes}")
        assert answer.status_code == 200, answer.text

    def _kill_control(self) -> None:
        control = listener_on(int((self.instance.data / "run" / "control.port").read_text()))
        control.kill()
        eventually(lambda: not control.lives(), "control to die")
        eventually(self.api.answers, "the API", seconds=SETTLED_SECONDS)

    def _interrupted(self, ask: Callable[[], httpx.Response], seconds: float) -> bool:
        """Kill control after a while of a call; tell whether the call succeeded all the same."""
        answers: list[int] = []

        def asking() -> None:
            try:
                answers.append(ask().status_code)
            except httpx.TransportError:
                answers.append(0)

        asker = threading.Thread(target=asking)
        asker.start()
        time.sleep(seconds)
        self._kill_control()
        asker.join()
        return answers == [200]

    def _at_rest(self, sandbox: Sandbox) -> str:
        """The state of a sandbox once nothing is under way."""

        def state() -> str:
            answer = self.api.call("GET", f"/sandbox/{sandbox.id}")
            if answer.status_code == 404:
                return "gone"
            record = answer.json()
            assert not record["state"].endswith("error"), record
            is_over = record["state"] == record["desiredState"]
            return str(record["state"]) if is_over else ""

        found = eventually(state, f"{sandbox.id} to come to rest", seconds=SETTLED_SECONDS)
        return "gone" if found == "destroyed" else found

    def _reached(self, walked: Walked, state: str) -> None:
        """Wait for a state, and look whether everything that was written is there."""
        found = self._at_rest(walked.sandbox)
        assert found == state, (walked.sandbox.id, found, state)
        walked.state = state
        if state == "gone":
            self.there.remove(walked)
        elif state == "started":
            said = walked.sandbox.check("cat ~/written 2> /dev/null || true")
            assert said.split() == walked.written

    @override
    def teardown(self) -> None:
        """Nothing differs, every state is as expected, and every write is there."""
        for walked in self.there:
            assert walked.sandbox.record()["state"] == walked.state
        self._expect_no_difference()
        for walked in list(self.there):
            walked.sandbox.start()
            self._reached(walked, "started")
            walked.sandbox.delete()
            self._reached(walked, "gone")
        self._expect_no_difference()
        disks = list(self.instance.data.glob("disks/*/disk.img"))
        assert disks == []

    def _expect_no_difference(self) -> None:
        found = differences(self.instance)
        end = time.monotonic() + SETTLED_SECONDS
        while found and time.monotonic() < end:
            found = differences(self.instance)
        assert found == []


def _one_of(choices: Sequence[T], number: int) -> T:
    return choices[number % len(choices)]


def call(sandbox: Sandbox, verb: str) -> httpx.Response:
    if verb == "delete":
        return sandbox.api.call("DELETE", f"/sandbox/{sandbox.id}")
    return sandbox.act(verb)


def _after(timer: str, state: str) -> str:
    """What becomes of a sandbox whose timer is over."""
    match timer, state:
        case ("ttl", _) | ("autodelete", "stopped" | "archived"):
            return "gone"
        case ("autoarchive", "stopped"):
            return "archived"
        case _:
            return state


async def put_back(instance: Instance, sandbox_id: str) -> None:
    """Make everything that timers of a sandbox count from an hour older."""

    def older(record: model.Sandbox) -> model.Sandbox:
        return replace(
            record,
            stopped_at=record.stopped_at and record.stopped_at - HOUR,
            destroy_at=record.destroy_at and record.destroy_at - HOUR,
        )

    async with open_store(Settings(data=instance.data)) as store:
        found = await store.sandboxes.get(sandbox_id)
        assert found is not None
        await store.sandboxes.change(found.id, older)


def test_a_walk_leaves_no_difference_and_loses_nothing(instance: Instance) -> None:
    api = Api(instance)
    eventually(api.answers, "the API", seconds=SETTLED_SECONDS)
    walk = type("Walk", (Walk,), {"instance": instance, "api": api})
    try:
        run_state_machine_as_test(
            walk,
            settings=settings(
                # The first walk is the dullest there is.
                max_examples=math.ceil(STEPS / STEPS_OF_A_WALK) + 1,
                stateful_step_count=STEPS_OF_A_WALK,
                deadline=None,
                database=None,
                phases=[Phase.generate],  # a shorter walk is not worth an hour
                suppress_health_check=list(HealthCheck),
            ),
        )
        assert walk.steps >= STEPS  # type: ignore[attr-defined]
    finally:
        print(instance.logs())
        api.close()
