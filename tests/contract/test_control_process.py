"""The service as a process: its sockets, its lock, its end. Needs root, but starts no sandbox."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import httpx
import pytest

from control.vault import load_keys
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.contract


class Process:
    def __init__(self, data: Path) -> None:
        self.data = data
        environment = {k: v for k, v in os.environ.items() if not k.startswith("YURT_")}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "control"],
            env={**environment, "YURT_DATA": str(data)},
            stderr=subprocess.PIPE,
            text=True,
        )

    def get(self, path: str, *, by_socket: bool = False, **headers: str) -> httpx.Response:
        socket = str(self.data / "run" / "control.sock") if by_socket else None
        port = (self.data / "run" / "control.port").read_text().strip()
        with httpx.Client(transport=httpx.HTTPTransport(uds=socket), trust_env=False) as client:
            return client.get(f"http://localhost:{port}{path}", headers=headers)

    def is_up(self) -> bool:
        assert self.process.poll() is None, self.process.communicate()[1]
        with contextlib.suppress(httpx.TransportError, FileNotFoundError):
            return self.get("/api/health").status_code == 200
        return False

    def end(self, number: int) -> int:
        self.process.send_signal(number)
        self.process.communicate(timeout=15)
        return self.process.returncode


@contextlib.contextmanager
def a_process(data: Path) -> Iterator[Process]:
    started = Process(data)
    try:
        eventually(started.is_up, "control answers", seconds=30)
        yield started
    finally:
        if started.process.poll() is None:
            started.process.kill()
        started.process.communicate()


def test_it_serves_on_both_sockets_alone_and_comes_back_where_it_was(tmp_path: Path) -> None:
    with a_process(tmp_path) as first:
        key = load_keys(tmp_path).api_key
        for by_socket in (False, True):
            listed = first.get("/api/sandbox", by_socket=by_socket, authorization=f"Bearer {key}")
            assert (listed.status_code, listed.json()["items"]) == (200, [])
            assert "server" not in listed.headers
        port = (tmp_path / "run" / "control.port").read_text()
        second = Process(tmp_path)
        _, said = second.process.communicate(timeout=30)
        assert second.process.returncode == 1
        assert "another control runs" in said
        first.end(signal.SIGKILL)
    with a_process(tmp_path) as again:
        assert (tmp_path / "run" / "control.port").read_text() == port
        started = time.monotonic()
        assert again.end(signal.SIGTERM) == 0
        assert time.monotonic() - started < 5


def test_a_setting_that_makes_no_sense_ends_it_with_a_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOT_YURT", "1")
    environment = {**os.environ, "YURT_DATA": str(tmp_path), "YURT_LISTEN": "0.0.0.0"}
    ran = subprocess.run(
        [sys.executable, "-m", "control"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert ran.returncode == 1
    assert "YURT_TLS_CERT" in ran.stderr
    assert "Traceback" not in ran.stderr
