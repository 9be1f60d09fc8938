"""A whole sandbox (runner, gate, agent) whose image is one static busybox and nothing else."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
from typing import TYPE_CHECKING, Any

import pytest

from jobs.images import ensure_bundle
from tests.support.runner_rig import ASSIGNMENT, NEEDS, Rig, eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.contract, *NEEDS]
ID, KEY = "q" * 26, "a key"
NEWEST = {"X-Daytona-SDK-Version": "0.226.1"}


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    rig = Rig(tmp_path_factory.mktemp("busybox") / "data")
    rig.use_bundle(ensure_bundle(rig.data, lambda _text: None))
    digest = hashlib.sha256(KEY.encode()).hexdigest()
    rig.control.assignment = {
        **ASSIGNMENT,
        "keys": [{"hash": digest, "expires_at": None}],
        "env": {"GREETING": "hello", "EMPTY": ""},
    }
    process = rig.start(ID)
    rig.until(ID, "ready")
    yield Sandbox(rig)
    assert rig.stop(ID, process)["reason"] == ""
    rig.close()


class Sandbox:
    """Calls the toolbox through the gate, as a client does."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self._port = rig.last_port

    def call(self, method: str, path: str, body: Any = None, key: str = KEY) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=20)
        headers = {"Authorization": f"Bearer {key}", **NEWEST}
        text = json.dumps(body) if isinstance(body, dict) else body
        try:
            connection.request(method, f"/toolbox/{ID}{path}", text, headers)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def post(self, path: str, body: dict[str, Any]) -> Any:
        status, text = self.call("POST", path, body)
        assert status in {200, 201, 202}, text
        return json.loads(text) if text else None


def test_commands_run(sandbox: Sandbox) -> None:
    said = sandbox.post("/process/execute", {"command": 'id -u; echo "$GREETING-${EMPTY-unset}"'})
    assert said == {"exitCode": 0, "result": "0\nhello-\n"}


def test_sessions_keep_their_shell(sandbox: Sandbox) -> None:
    sandbox.post("/process/session", {"sessionId": "s"})
    sandbox.post("/process/session/s/exec", {"command": "cd /etc; X=kept"})
    said = sandbox.post("/process/session/s/exec", {"command": "pwd; echo $X; exit 6"})
    assert (said["exitCode"], said["stdout"]) == (6, "/etc\nkept\n")
    assert sandbox.post("/process/session/s/exec", {"command": "echo on"})["stdout"] == "on\n"


def test_files_come_and_go(sandbox: Sandbox) -> None:
    content = os.urandom(3_000_000)
    status, _ = sandbox.call("POST", "/files/upload-v2?path=/new/deep/file.bin", content)
    assert status == 200
    status, back = sandbox.call("GET", "/files/download?path=/new/deep/file.bin")
    assert (status, back) == (200, content)
    listed = json.loads(sandbox.call("GET", "/files?path=/new/deep")[1])
    assert [(f["name"], f["size"]) for f in listed] == [("file.bin", len(content))]
    assert sandbox.call("DELETE", "/files?path=/new&recursive=true")[0] == 204
    assert sandbox.call("GET", "/files/info?path=/new")[0] == 404


def test_the_gate_lets_nobody_else_in(sandbox: Sandbox) -> None:
    assert sandbox.call("GET", "/version", key="another")[0] == 401


def test_the_agent_answers_nobody_but_the_gate(sandbox: Sandbox) -> None:
    fetched = sandbox.rig.inside(ID, "wget -qO- http://127.0.0.1:2280/files?path=/ 2>&1; echo $?")
    assert "403" in fetched.stdout


def test_init_agent_and_gate_run_before_what_the_user_starts(sandbox: Sandbox) -> None:
    values = [os.getpriority(os.PRIO_PROCESS, pid) for pid in sandbox.rig.pids(ID)]
    assert values.count(-20) == 3
    said = sandbox.post(
        "/process/execute", {"command": "busybox cut -d' ' -f19 /proc/self/stat; true"}
    )
    assert said["result"] == "0\n"


def test_what_was_started_outlives_the_call(sandbox: Sandbox) -> None:
    sandbox.post("/process/execute", {"command": "sleep 400 & echo $! > /pid"})
    alive = "kill -0 $(cat /pid) && echo alive"
    eventually(lambda: "alive" in sandbox.post("/process/execute", {"command": alive})["result"])
