"""How long what was called back still opens something, by the gate of a live sandbox."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import httpx

from tests.bench.figures import Row
from tests.e2e.test_revocation import is_open, open_terminal
from tests.support.api import Api, Sandbox
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.bench.rows import Bench

PORT = 8766
KEY = "bench"
PAUSE_SECONDS = 0.001
TARGET = "≤ 1000"


def revoke(bench: Bench) -> Iterator[Row]:
    """Revoke a key, and make a preview private; both from the call on."""
    with bench.sandbox() as sandbox:
        refused, closed = zip(*(_key(bench, sandbox) for _ in range(bench.times)), strict=True)
        private = _private(bench, sandbox)
    yield Row("key revoked → refused by the gate", list(refused), "ms", TARGET)
    yield Row("key revoked → its terminal is closed", list(closed), "ms", TARGET)
    yield Row("made private → refused by the gate", private, "ms", TARGET)


def _key(bench: Bench, sandbox: Sandbox) -> tuple[float, float]:
    body = {"name": KEY, "permissions": ["write:sandboxes"]}
    key = bench.api.call("POST", "/api-keys", json=body).json()["value"]
    other = Api(bench.instance, key)
    theirs = Sandbox(other, sandbox.id)

    def status() -> int:
        return theirs.toolbox("GET", "/project-dir").status_code

    eventually(lambda: status() == 200, "entry with the new key")
    with open_terminal(sandbox, key, f"t{time.monotonic_ns()}") as terminal:
        started = time.perf_counter()
        assert bench.api.call("DELETE", f"/api-keys/{KEY}").status_code == 204
        refused = _until(lambda: status() == 401, started)
        closed = _until(lambda: not is_open(terminal), started)
    other.close()
    return refused, closed


def _private(bench: Bench, sandbox: Sandbox) -> list[float]:
    sandbox.background(f"python3 -m http.server {PORT}")
    url, _ = sandbox.preview(PORT)
    samples = []
    with httpx.Client(trust_env=False) as visitor:
        for _ in range(bench.times):
            assert bench.api.call("POST", f"/sandbox/{sandbox.id}/public/true").status_code == 200
            eventually(lambda: visitor.get(url).status_code == 200, "the public page", seconds=30)
            started = time.perf_counter()
            assert bench.api.call("POST", f"/sandbox/{sandbox.id}/public/false").status_code == 200
            samples.append(_until(lambda: visitor.get(url).status_code == 401, started))
    return samples


def _until(check: Callable[[], bool], started: float) -> float:
    """Milliseconds from a start until something is so."""
    eventually(check, "an end", pause_seconds=PAUSE_SECONDS)
    return (time.perf_counter() - started) * 1000
