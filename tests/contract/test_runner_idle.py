"""What a runner and its gate tell of the use of their sandbox, and how they agree to a stop."""

from __future__ import annotations

import concurrent.futures
import http.client
import json
import socket
from typing import Any

import pytest

from jobs.runner import message
from jobs.runner.channel import connect_unix
from tests.support.runner_rig import KEY, NEEDS, Rig, eventually

pytestmark = [pytest.mark.contract, *NEEDS]
A = "a" * 26


class Line:
    """The way from control to one runner."""

    def __init__(self, rig: Rig) -> None:
        self.port, self.sequence = rig.last_port, 0
        fd = connect_unix(str(rig.directory(A) / "sock")).detach()
        with socket.socket(fileno=fd) as link:
            self.incarnation = json.loads(link.recv(4096))["incarnation"]

    def say(self, op: str, **more: Any) -> dict[str, Any]:
        self.sequence += 1
        head = message.Head("local", A, 1, self.incarnation, self.sequence)
        body = json.dumps({"op": op, **more}).encode()
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        sealed = message.seal(KEY, message.DOWN, head, body)
        connection.request("POST", "/_yurt/message", body, sealed)
        answer = connection.getresponse()
        text = answer.read()
        connection.close()
        assert answer.status == 200, text
        fields = {name.lower(): value for name, value in answer.getheaders()}
        answered = message.unseal(KEY, message.DOWN_ANSWER, fields, text)
        assert answered.fields() == head.fields()
        said: dict[str, Any] = json.loads(text)
        return said

    def visit(self) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        connection.request("GET", "/", headers={"Host": f"8080-{A}.localhost"})
        status = connection.getresponse().status
        connection.close()
        return status


def test_a_runner_warns_closes_and_opens_again_as_it_is_told(rig: Rig) -> None:
    process = rig.start(A)
    rig.until(A, "ready")
    line = Line(rig)
    said = line.say("idle")
    assert said["phase"] == "ready"
    assert not said["warned"]
    eventually(lambda: line.say("idle")["idle_seconds"] > said["idle_seconds"])

    assert line.say("warn", at="2026-01-02T03:04:05+00:00")["warned"]
    shown = "cat /run/yurt/stopping-soon; echo x >/run/yurt/mine || echo refused"
    assert rig.inside(A, shown).stdout == "2026-01-02T03:04:05+00:00\nrefused\n"
    line.say("touch")
    eventually(lambda: not line.say("idle")["warned"])
    eventually(lambda: rig.inside(A, "ls /run/yurt").stdout == "")

    assert not line.say("quiesce", idle_seconds=600, seconds=20).get("closed")
    assert line.visit() == 502  # let in; nothing listens there
    assert line.say("quiesce", idle_seconds=0, seconds=20)["closed"]
    with concurrent.futures.ThreadPoolExecutor() as visitors:
        waiting = visitors.submit(line.visit)
        assert not concurrent.futures.wait([waiting], 0.3).done
        line.say("reopen")
        assert waiting.result() == 502
    rig.stop(A, process)


def test_a_runner_counts_the_processor_time_of_its_sandbox(rig: Rig) -> None:
    from jobs.runner import cgroup

    process = rig.start(A)
    rig.until(A, "ready")
    before = cgroup.cpu_seconds(A)
    assert before > 0
    rig.inside(A, "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done")
    assert cgroup.cpu_seconds(A) >= before
    rig.stop(A, process)
