"""Who keeps the server running, and that it is kept running."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from control.cli import ports, supervisor
from control.cli.children import (
    LOG_BYTES,
    Program,
    keep_running,
    killed_with_us,
    open_log,
    put_aside,
)
from control.errors import ConflictError

pytestmark = pytest.mark.contract


def spawn(code: str, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


HOLD = """
import sys, time
from pathlib import Path
from control.cli.supervisor import take_lock
with take_lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_the_kernel_names_the_supervisor_and_forgets_it_when_it_is_killed(tmp_path: Path) -> None:
    assert supervisor.running(tmp_path) is None
    with spawn(HOLD, str(tmp_path)) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        assert supervisor.running(tmp_path) == process.pid
        with pytest.raises(ConflictError, match=f"pid {process.pid}"):
            supervisor.take_lock(tmp_path)
        process.kill()
    assert supervisor.running(tmp_path) is None
    supervisor.take_lock(tmp_path).close()


def program(tmp_path: Path, script: str) -> Program:
    def prepare() -> list[str]:
        return killed_with_us(["sh", "-c", script])

    return Program("test", prepare, {"PATH": os.defpath, "OUT": str(tmp_path)}, tmp_path / "log")


async def eventually(path: Path, lines: int) -> list[str]:
    for _ in range(500):
        if path.exists() and path.read_text().count("\n") >= lines:
            return path.read_text().split()
        await asyncio.sleep(0.01)
    message = f"{path} has not {lines} lines"
    raise AssertionError(message)


async def test_what_dies_is_started_again_within_a_second(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    running = program(tmp_path, "echo $$ >>$OUT/pids; exec sleep 60")
    task = asyncio.create_task(keep_running(running))
    (first,) = await eventually(pids, 1)
    begin = time.monotonic()
    os.kill(int(first), signal.SIGKILL)
    _, second = await eventually(pids, 2)
    assert time.monotonic() - begin < 1
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert not Path(f"/proc/{second}").exists()


async def test_what_keeps_dying_is_started_less_and_less_often(tmp_path: Path) -> None:
    task = asyncio.create_task(keep_running(program(tmp_path, "echo x >>$OUT/starts; exit 1")))
    await asyncio.sleep(1)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert 2 <= (tmp_path / "starts").read_text().count("x") <= 5


def test_a_child_is_killed_with_whoever_started_it(tmp_path: Path) -> None:
    code = """
import subprocess, sys, time
from control.cli.children import killed_with_us
print(subprocess.Popen(killed_with_us(["sleep", "60"])).pid, flush=True)
time.sleep(60)
"""
    with spawn(code) as parent:
        assert parent.stdout is not None
        child = Path("/proc", parent.stdout.readline().strip())
        deadline = time.monotonic() + 5
        while (child / "comm").read_text() != "sleep\n":
            assert time.monotonic() < deadline
        parent.kill()
    while child.exists() and "Z" not in (child / "stat").read_text().rpartition(")")[2]:
        assert time.monotonic() < deadline


def test_a_large_log_is_put_aside_under_its_writer(tmp_path: Path) -> None:
    log = tmp_path / "log" / "x.log"
    with open_log(log) as file:
        os.truncate(log, LOG_BYTES + 1)
        put_aside(log)
        file.write(b"new")
    assert log.read_bytes() == b"new"
    assert (tmp_path / "log" / "x.log.1").stat().st_size > LOG_BYTES
    put_aside(log)
    assert log.read_bytes() == b"new"


def test_whoever_holds_a_port_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert not ports.can_listen("127.0.0.1", port)
        assert ports.holder(port).endswith(f"(pid {os.getpid()})")
    assert ports.can_listen("127.0.0.1", port)
