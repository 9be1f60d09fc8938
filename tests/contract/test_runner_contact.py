"""A live runner and its gate, when control cannot tell them something, or is away for long."""

from __future__ import annotations

import http.client
from typing import TYPE_CHECKING

import pytest

from tests.support.runner_rig import ASSIGNMENT, NEEDS, FakeControl, eventually

if TYPE_CHECKING:
    from tests.support.runner_rig import Rig

pytestmark = [pytest.mark.contract, *NEEDS]
A = "a" * 26
ENTERED, UNKNOWN, CUT_OFF = 502, 401, 503  # nothing listens inside


def status(rig: Rig) -> int:
    """What a visitor with the first preview token gets; 0 if the gate cuts them off just then."""
    connection = http.client.HTTPConnection("127.0.0.1", rig.last_port, timeout=10)
    try:
        fields = {"Host": f"8080-{A}.localhost", "X-Daytona-Preview-Token": "t"}
        connection.request("GET", "/", headers=fields)
        return connection.getresponse().status
    except ConnectionError:
        return 0
    finally:
        connection.close()


def test_a_runner_asks_for_what_it_was_not_told(rig: Rig) -> None:
    rig.control.assignment = {**ASSIGNMENT, "public": False, "grace": 3.0}
    process = rig.start(A)
    rig.until(A, "ready")
    eventually(lambda: status(rig) == ENTERED)
    newer = {"version": 2, "preview_token": "u"}
    rig.control.assignment = {**rig.control.assignment, **newer}
    eventually(lambda: status(rig) == UNKNOWN)
    rig.stop(A, process)


def test_after_the_grace_nobody_enters_until_control_is_back(rig: Rig) -> None:
    rig.control.assignment = {**ASSIGNMENT, "public": False, "grace": 3.0}
    process = rig.start(A)
    rig.until(A, "renew", times=3)
    assert status(rig) == ENTERED
    assignment = rig.control.assignment
    rig.control.close()
    eventually(lambda: status(rig) == CUT_OFF)
    assert process.poll() is None
    rig.control = FakeControl(rig.data)
    rig.control.assignment = assignment
    eventually(lambda: status(rig) == ENTERED)
    rig.stop(A, process)
