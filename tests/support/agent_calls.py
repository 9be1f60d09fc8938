"""The calls that tests of the agent's process side make, and the shells they make them with."""

from __future__ import annotations

import os
import shutil
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from websockets.sync.client import ClientConnection, connect

from tests.support.agent_rig import SECRET, AgentRig, running_agent

if TYPE_CHECKING:
    from collections.abc import Iterator

NEWEST = {"X-Daytona-SDK-Version": "0.226.1"}
MIDDLE = {"X-Daytona-SDK-Version": "0.115.0"}
OLD = {"X-Daytona-SDK-Version": "0.21.0"}

SHELLS = {"bash": "/bin/bash", "dash": "/bin/dash", "ash": "/bin/busybox"}
_TOOLS = "cat cut echo env grep head pwd printf rm sed seq setsid sh sleep sort tr true wc"


def shell_params() -> list[Any]:
    """Return pytest parameters, one for each shell that is here."""
    return [
        pytest.param(
            path,
            id=name,
            marks=[] if Path(path).exists() else [pytest.mark.skip(reason=f"{path} is not here")],
        )
        for name, path in SHELLS.items()
    ]


@contextmanager
def agent_with_shell(shell: str, programs: Path) -> Iterator[AgentRig]:
    """Run an agent in whose ``PATH`` (made at ``programs``) this shell is the only one.

    The shell is called bash there, because the agent would find the machine's own bash else.
    """
    programs.mkdir()
    for name in _TOOLS.split():
        if (found := shutil.which(name)) is not None:
            (programs / name).symlink_to(found)
    if shell.endswith("busybox"):  # it goes by its own name
        (programs / "bash").write_text('#!/bin/busybox sh\nexec /bin/busybox sh "$@"\n')
        (programs / "bash").chmod(0o755)
    else:
        (programs / "bash").symlink_to(shell)
    with running_agent(env={"PATH": str(programs)}) as rig:
        yield rig


def run(agent: AgentRig, command: str, headers: dict[str, str] = NEWEST, **more: Any) -> Any:
    """Execute a command and return the answer's object."""
    body = {"command": command, **more}
    answer = agent.request("POST", "/process/execute", body, headers=headers)
    assert answer.status == 200, answer.body
    return answer.json()


def create(agent: AgentRig, headers: dict[str, str] = NEWEST) -> str:
    """Make a session and return its id."""
    name = os.urandom(6).hex()
    body = {"sessionId": name}
    assert agent.request("POST", "/process/session", body, headers=headers).status == 201
    return name


def perform(agent: AgentRig, session: str, command: str, **more: Any) -> Any:
    """Run a command in a session and return the answer's object."""
    headers = more.pop("headers", NEWEST)
    answer = agent.request(
        "POST", f"/process/session/{session}/exec", {"command": command, **more}, headers=headers
    )
    assert answer.status == (202 if more.get("runAsync") or more.get("async") else 200), answer
    return answer.json()


def socket_to(agent: AgentRig, path: str, **more: Any) -> ClientConnection:
    """Open a WebSocket."""
    headers = {"X-Yurt-Secret": SECRET, **more.pop("headers", NEWEST)}
    link: ClientConnection = connect(
        f"ws://127.0.0.1:{agent.port}{path}",
        additional_headers=headers,
        max_size=None,
        proxy=None,
        **more,
    )
    return link


def lives(pid: int) -> bool:
    """Tell whether a process has not ended; a zombie has."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"


def children(agent: AgentRig) -> list[int]:
    """Return the pids of the agent's children, zombies included."""
    pid = agent.process.pid
    return [int(c) for c in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
