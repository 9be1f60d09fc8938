"""What ``yurt ps`` sees of one machine: run directories are read, and nothing is done to them."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from typing import TYPE_CHECKING

import pytest

from control.cli.world import open_sight
from control.errors import InvalidError, NotFoundError
from control.settings import Settings
from control.vault import load_keys
from jobs.local import GATE_ADDRESS, NODE
from jobs.local_view import LocalView
from jobs.runner import locks
from jobs.scheduler import Job

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.unit

LIVE, ENDED, KILLED, EMPTY = "live", "ended", "killed", "empty"


def a_run(data: Path, sandbox_id: str) -> Path:
    directory = data / "run" / "sandboxes" / sandbox_id
    directory.mkdir(parents=True)
    job = Job(sandbox_id, 3, "0" * 64, 1, 1024, 1 << 30, 100, "localhost", "unix:x")
    spec = asdict(job) | {"address": GATE_ADDRESS, "port": 20001, "data": str(data)}
    (directory / "spec.json").write_text(json.dumps(spec))
    (directory / "lock").touch()
    return directory


async def test_what_lives_and_what_has_ended_is_told_apart(tmp_path: Path) -> None:
    lock = locks.take(str(a_run(tmp_path, LIVE) / "lock"))
    assert lock is not None
    ended = {"reason": "no more", "code": 1, "phase": "ready", "at": 1.0}
    (a_run(tmp_path, ENDED) / "exit.json").write_text(json.dumps(ended))
    a_run(tmp_path, KILLED)
    (tmp_path / "run" / "sandboxes" / EMPTY).mkdir()
    try:
        found = {one.sandbox_id: one for one in await LocalView(tmp_path).allocations()}
    finally:
        os.close(lock)
    assert found.keys() == {LIVE, ENDED, KILLED}
    live = found[LIVE]
    assert (live.running, live.exit, live.generation) == (True, None, 3)
    assert (live.node, live.address, live.port) == (NODE, GATE_ADDRESS, 20001)
    for name, reason in ((ENDED, "no more"), (KILLED, "the runner was killed")):
        told = found[name]
        assert not told.running
        assert told.exit is not None
        assert told.exit.reason == reason


async def test_there_is_one_node(tmp_path: Path) -> None:
    view = LocalView(tmp_path)
    assert [(node.name, node.is_ready, node.is_cordoned) for node in await view.nodes()] == [
        (NODE, True, False)
    ]
    with pytest.raises(NotFoundError, match="only local"):
        await view.work("inventory", {}, node="other")


async def test_a_machine_without_a_server_and_half_a_cluster_are_told(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="YURT_DATA"):
        async with open_sight(Settings(data=tmp_path)):
            pass
    load_keys(tmp_path)
    with pytest.raises(InvalidError, match="YURT_NOMAD_URL"):
        async with open_sight(Settings(data=tmp_path, consul_url="http://127.0.0.1:1")):
            pass
    (tmp_path / "traefik" / "dynamic").mkdir(parents=True)
    async with open_sight(Settings(data=tmp_path)) as sight:
        assert await sight.routes.routes() == []
        assert await sight.scheduler.allocations() == []
