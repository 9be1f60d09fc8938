"""The runner's reports: sent in order by a thread, and waited for only at the end."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from jobs.runner import message
from jobs.runner.report import Reporter
from tests.support.runner_rig import KEY, FakeControl, eventually

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.contract
A = "a" * 26


@pytest.fixture
def control(tmp_path: Path) -> Iterator[FakeControl]:
    (tmp_path / "run").mkdir()
    control = FakeControl(tmp_path)
    yield control
    control.release.set()
    control.close()


@pytest.fixture
def reporter(control: FakeControl, tmp_path: Path) -> Reporter:
    head = message.Head("local", A, 1, "0" * 32, 0)
    return Reporter(f"unix:{tmp_path}/run/control.sock", KEY, head)


def test_a_drain_waits_for_each_queue_anew(control: FakeControl, reporter: Reporter) -> None:
    for number in range(1, 50):
        reporter.send("notice", number=number)
        reporter.send("exit")
        reporter.drain(20)
        assert len(reporter.answers) == 2 * number
    assert control.phases(A) == ["notice", "exit"] * 49


def test_a_drain_ends_at_its_time_limit(control: FakeControl, reporter: Reporter) -> None:
    control.release.clear()
    reporter.send("assign")
    eventually(lambda: control.phases(A))
    start = time.monotonic()
    reporter.drain(0.1)
    assert 0.1 <= time.monotonic() - start < 2
    assert not reporter.answers
    control.release.set()
    reporter.drain(20)
    assert [answer.phase for answer in reporter.answers] == ["assign"]
