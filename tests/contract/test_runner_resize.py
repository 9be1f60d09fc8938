"""A sandbox of another size: while it runs, by its control group; its disk at the next start."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from jobs.runner import cgroup, disk
from tests.contract.test_runner_idle import Line
from tests.support.runner_rig import ASSIGNMENT, NEEDS, Rig

pytestmark = [pytest.mark.contract, *NEEDS]
A = "a" * 26
LARGER = {"cpu": 3, "memory_mib": 512}


def holds(mebibytes: int) -> bool:
    """Tell whether a process of the sandbox can have so much memory."""
    done = subprocess.run(
        [sys.executable, "-c", f"b'x' * {mebibytes << 20}"],
        preexec_fn=lambda: cgroup.join(A, os.getpid()),
        check=False,
    )
    assert done.returncode in {0, -signal.SIGKILL}
    return done.returncode == 0


def quota() -> str:
    root = cgroup.ROOT
    if cgroup.is_v2(root):
        return Path(f"{root}/yurt/{A}/cpu.max").read_text().split()[0]
    return Path(f"{root}/cpu/yurt/{A}/cpu.cfs_quota_us").read_text().strip()


def test_more_memory_and_cores_come_while_it_runs(rig: Rig) -> None:
    process = rig.start(A)
    rig.until(A, "ready")
    assert not holds(200)
    line = Line(rig)
    line.say("assign", assignment={**ASSIGNMENT, "version": 2, "limits": LARGER})
    assert holds(200)
    assert not holds(600)
    assert quota() == "300000"
    line.say("assign", assignment={**ASSIGNMENT, "version": 1, "limits": {"cpu": 1}})  # late
    line.say("assign", assignment={**ASSIGNMENT, "version": 3})  # by an older control
    assert quota() == "300000"
    rig.stop(A, process)


def room(rig: Rig) -> int:
    """Return how many MiB the file system of the sandbox has in all."""
    return int(rig.inside(A, "busybox df -m / | busybox tail -n 1").stdout.split()[-5])


def test_a_disk_grows_at_the_next_start_and_keeps_what_is_on_it(rig: Rig) -> None:
    process = rig.start(A)
    rig.until(A, "ready")
    before = room(rig)
    rig.inside(A, "echo kept > /kept")
    rig.stop(A, process)
    process = rig.start(A, 2, disk_bytes=300 << 20)
    rig.until(A, "ready", times=2)
    assert room(rig) > before + 150
    assert rig.inside(A, "cat /kept").stdout == "kept\n"
    rig.stop(A, process)
    image, _ = disk.paths(str(rig.data), A)
    os.truncate(image, 400 << 20)  # a runner was killed before the file system grew
    process = rig.start(A, 3, disk_bytes=400 << 20)
    rig.until(A, "ready", times=3)
    assert room(rig) > before + 250
    rig.stop(A, process)
    process = rig.start(A, 4, disk_bytes=100 << 20)  # never smaller
    rig.until(A, "ready", times=4)
    assert room(rig) > before + 250
    assert rig.inside(A, "cat /kept").stdout == "kept\n"
    rig.stop(A, process)
