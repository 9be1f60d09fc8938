"""The agent's life as the runner sees it: pipes, the assignment, the secret, the end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.support import agent_rig
from tests.support.agent_rig import SECONDS, SECRET, AgentRig, running_agent

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.contract

# What may be loaded until the agent is ready: somebody waits for it at every start. Besides these
# only what the interpreter itself starts with, and modules in C that are part of it.
EARLY = """
collections contextlib copyreg enum functools genericpath itertools json keyword operator os
posixpath re reprlib stat types typing warnings yurt_agent
"""
# And when it serves: every sandbox keeps it in its memory.
ALLOWED = """
array asyncio atexit base64 collections concurrent contextlib contextvars copyreg cython_runtime
enum errno fcntl functools genericpath heapq httptools importlib inspect itertools json keyword
linecache locale logging math operator os posixpath re reprlib select selectors signal socket
stat string struct subprocess textwrap threading time traceback types typing warnings
weakref yurt_agent zipimport
"""
LATER = "yurt_agent.later; yurt_agent.later.defer(yurt_agent.later.FOR_DEBUGGING); import asyncio"
HEAVY = """
ctypes email hashlib hmac http multiprocessing pathlib python_multipart shutil ssl tempfile urllib
uuid websockets
"""


@pytest.fixture
def unassigned() -> Iterator[AgentRig]:
    rig = AgentRig()
    try:
        yield rig
    finally:
        rig.close()


def test_a_request_waits_for_the_assignment(unassigned: AgentRig) -> None:
    with unassigned.connect() as early:
        early.sendall(f"GET /version HTTP/1.1\r\nX-Yurt-Secret: {SECRET}\r\n\r\n".encode())
        early.settimeout(0.2)
        with pytest.raises(TimeoutError):
            early.recv(1)
        assert unassigned.assign() == b"R"
        early.settimeout(SECONDS)
        assert early.recv(100).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("secret", ["", "x", SECRET[:-1], SECRET + "0", SECRET.upper(), "é" * 16])
def test_without_the_secret_nothing_is_answered(secret: str) -> None:
    with running_agent() as agent:
        headers = {"X-Yurt-Secret": secret.encode().decode("latin-1")}
        for route in ("/version", "/files", "/nowhere"):
            answer = agent.request("GET", route, headers=headers)
            assert (answer.status, answer.json()["code"]) == (403, "FORBIDDEN")


def test_an_empty_secret_lets_nobody_in(unassigned: AgentRig) -> None:
    assert unassigned.assign(secret="") == b"R"
    assert unassigned.request("GET", "/version", headers={"X-Yurt-Secret": ""}).status == 403


def test_an_unknown_user_is_told_to_the_runner(unassigned: AgentRig) -> None:
    assert unassigned.assign(user="no such user") == b"U"
    assert unassigned.stop() == 0
    assert "no such user" in unassigned.log()


def test_a_second_assignment_changes_nothing(unassigned: AgentRig) -> None:
    assert unassigned.assign() == b"R"
    unassigned.order(op="assign", secret="other", env={}, user="", workdir="", entrypoint=[])
    assert unassigned.request("GET", "/version").status == 200
    assert unassigned.stop() == 0
    assert unassigned.event() == b""


def test_an_order_may_come_in_pieces_and_be_long(unassigned: AgentRig) -> None:
    order = json.dumps(
        {
            "op": "assign",
            "secret": SECRET,
            "env": {f"NAME_{index}": "v" * 1000 for index in range(100)},
            "user": str(os.getuid()),
            "workdir": "",
            "entrypoint": [],
        }
    )
    assert unassigned.process.stdin is not None
    for at in range(0, len(order), 5000):
        unassigned.process.stdin.write(order[at : at + 5000].encode())
        unassigned.process.stdin.flush()
    unassigned.process.stdin.write(b"\n")
    unassigned.process.stdin.flush()
    assert unassigned.event() == b"R"


def test_a_broken_order_ends_the_agent_with_an_error(unassigned: AgentRig) -> None:
    unassigned.order(op="assign", secret=SECRET, env=[], user="", workdir="", entrypoint=[])
    assert unassigned.process.wait(SECONDS) == 1
    assert "Traceback" in unassigned.log()


@pytest.mark.parametrize("way", ["order", "end of the pipe", "signal"])
@pytest.mark.parametrize("assigned", [True, False])
def test_it_stops_when_told_in_any_way(unassigned: AgentRig, way: str, assigned: bool) -> None:
    if assigned:
        assert unassigned.assign() == b"R"
    connection = unassigned.connect()
    connection.sendall(b"GET /version HTTP/1.1\r\n")
    if way == "order":
        unassigned.order(op="stop")
    elif way == "signal":
        unassigned.process.send_signal(signal.SIGTERM)
    else:
        assert unassigned.process.stdin is not None
        unassigned.process.stdin.close()
    assert unassigned.process.wait(SECONDS) == 0
    connection.close()


def test_its_own_environment_reaches_nothing(tmp_path: Path) -> None:
    rig = AgentRig(env={"PYTHONSTARTUP": "/x", "YURT_LEAK": "leaked"})
    try:
        assert rig.assign(env={"GIVEN": ""}, workdir=str(tmp_path)) == b"R"
        answer = rig.request("POST", "/process/execute", {"command": "env"})
        lines = answer.json()["result"].splitlines()
        assert "GIVEN=" in lines
        assert not any("leak" in line.lower() or line.startswith("PYTHON") for line in lines)
        assert not any(line.startswith("LC_ALL=") for line in lines)
        assert {"HOME", "USER", "LOGNAME", "SHELL", "PATH"} <= {
            line.partition("=")[0] for line in lines
        }
    finally:
        rig.close()


@pytest.mark.parametrize(
    ("modules", "allowed"),
    [
        ("yurt_agent.main", EARLY),
        (f"{LATER}, yurt_agent.service", ALLOWED),
    ],
)
def test_it_loads_only_what_it_is_allowed_to_at_its_start(modules: str, allowed: str) -> None:
    own = {name for name in loaded_by(modules) if not name.startswith("_")}
    assert own - set(allowed.split()) == set()


def test_the_first_request_for_files_loads_nothing_heavy() -> None:
    loaded = loaded_by("yurt_agent.service, yurt_agent.files, yurt_agent.download, yurt_agent.info")
    assert loaded & set(HEAVY.split()) == set()


def loaded_by(modules: str) -> set[str]:
    """Name the top-level modules that importing these adds to a bare interpreter."""
    script = agent_rig.START.replace(
        "from yurt_agent.main import main",
        f"base = set(sys.modules); import {modules}; print(*(set(sys.modules) - base)); sys.exit()",
    )
    command = [sys.executable, "-I", "-S", "-X", "utf8", "-c", script, "0"]
    command += map(str, agent_rig.PLACES)
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return {name.partition(".")[0] for name in done.stdout.split()}
