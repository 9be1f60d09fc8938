"""Metrics from both versions of control groups, and without any."""

from __future__ import annotations

import os

import pytest

from yurt_agent.info import listening_ports
from yurt_agent.metrics import cpu_cores, cpu_seconds, memory

pytestmark = pytest.mark.unit

MACHINE = {
    "/proc/meminfo": "MemTotal: 1000 kB\nMemFree: 100 kB\nMemAvailable: 400 kB\nCached: 200 kB\n",
    "/proc/stat": "cpu 100 100 200 9999 0 0 0\n",
}
V2 = MACHINE | {
    "/sys/fs/cgroup/cpu.max": "50000 100000\n",
    "/sys/fs/cgroup/cpu.stat": "usage_usec 2500000\nuser_usec 1\n",
    "/sys/fs/cgroup/memory.max": "512000\n",
    "/sys/fs/cgroup/memory.current": "300000\n",
    "/sys/fs/cgroup/memory.stat": "anon 1\nfile 100000\n",
}
V1 = MACHINE | {
    "/sys/fs/cgroup/cpu/cpu.cfs_quota_us": "50000\n",
    "/sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
    "/sys/fs/cgroup/cpuacct/cpuacct.usage": "2500000000\n",
    "/sys/fs/cgroup/memory/memory.limit_in_bytes": "512000\n",
    "/sys/fs/cgroup/memory/memory.usage_in_bytes": "300000\n",
    "/sys/fs/cgroup/memory/memory.stat": "cache 1\ntotal_cache 100000\n",
}


@pytest.mark.parametrize("files", [V2, V1], ids=["v2", "v1"])
def test_a_limited_group_is_read_in_either_version(files: dict[str, str]) -> None:
    def read(path: str) -> str:
        return files.get(path, "")

    assert cpu_cores(read) == 0.5
    assert cpu_seconds(read) == 2.5
    assert memory(read) == (512000, 200000, 100000)


@pytest.mark.parametrize(
    "changes",
    [
        {"/sys/fs/cgroup/cpu.max": "max 100000\n", "/sys/fs/cgroup/memory.max": "max\n"},
        {
            "/sys/fs/cgroup/cpu.max": "",
            "/sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1",
            "/sys/fs/cgroup/memory.max": str(2**63 - 4096),
        },
    ],
)
def test_without_a_limit_the_machine_is_the_limit(changes: dict[str, str]) -> None:
    files = V2 | changes
    assert cpu_cores(lambda path: files.get(path, "")) == len(os.sched_getaffinity(0))
    assert memory(lambda path: files.get(path, ""))[0] == 1000 * 1024


def test_without_groups_the_machine_answers() -> None:
    def read(path: str) -> str:
        return MACHINE.get(path, "")

    assert cpu_cores(read) == len(os.sched_getaffinity(0))
    assert cpu_seconds(read) == 400 / os.sysconf("SC_CLK_TCK")
    assert memory(read) == (1000 * 1024, 600 * 1024, 200 * 1024)


def test_without_anything_there_are_zeros() -> None:
    assert memory(lambda _: "") == (0, 0, 0)
    assert cpu_seconds(lambda _: "") == 0


def test_the_kernels_socket_tables_can_be_read() -> None:
    assert all(0 < port < 65536 for port in listening_ports())
