"""What the sandbox uses of its processor, memory and disk, by its control group.

Inside a sandbox the control group file system shows the sandbox's own group as its root. Both
versions of it are understood; without one the machine's own figures answer.
"""

from __future__ import annotations

import asyncio
import math
import os
import time

from yurt_agent.errors import timestamp
from yurt_agent.http import Response, in_thread

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from yurt_agent.http import Request

SAMPLE_SECONDS = 0.1
"""Time over which the use of the processor is measured."""

UNLIMITED = 1 << 60
"""Version 1 writes a number beyond all memory where there is no limit."""


async def system_metrics(_request: Request) -> Response:
    """Answer ``GET /system/metrics``."""
    before, began = await in_thread(cpu_seconds, _read), time.monotonic()
    await asyncio.sleep(SAMPLE_SECONDS)
    return Response.json(await in_thread(_sample, before, began))


def _sample(before: float, began: float) -> dict[str, object]:
    cores = cpu_cores(_read)
    used = (cpu_seconds(_read) - before) / (time.monotonic() - began)
    total, used_memory, cache = memory(_read)
    disk = os.statvfs("/")
    now = time.time()
    return {
        "cpuCount": math.ceil(cores),
        "cpuUsedPct": round(min(max(used / cores * 100, 0.0), 100.0), 2),
        "memTotal": total,
        "memUsed": used_memory,
        "memCache": cache,
        "diskTotal": disk.f_blocks * disk.f_frsize,
        "diskUsed": (disk.f_blocks - disk.f_bfree) * disk.f_frsize,
        "diskFree": disk.f_bavail * disk.f_frsize,
        "timestamp": timestamp(now),
        "timestampUnix": int(now),
    }


def _read(path: str) -> str:
    try:
        with open(path, encoding="ascii") as file:
            return file.read()
    except OSError:
        return ""


def cpu_cores(read: Callable[[str], str]) -> float:
    """Return how many cores may be used; ``read`` gives a file's text, empty if there is none."""
    everything = float(len(os.sched_getaffinity(0)))
    quota, _, period = read("/sys/fs/cgroup/cpu.max").strip().partition(" ")
    if not quota:
        quota = read("/sys/fs/cgroup/cpu/cpu.cfs_quota_us").strip()
        period = read("/sys/fs/cgroup/cpu/cpu.cfs_period_us").strip()
    if quota.isdecimal() and period.isdecimal() and int(period) > 0:
        return min(int(quota) / int(period), everything) or everything
    return everything


def cpu_seconds(read: Callable[[str], str]) -> float:
    """Return the processor time used so far."""
    micro = _table(read("/sys/fs/cgroup/cpu.stat")).get("usage_usec")
    if micro is not None:
        return micro / 1e6
    nano = read("/sys/fs/cgroup/cpuacct/cpuacct.usage").strip()
    if nano.isdecimal():
        return int(nano) / 1e9
    ticks = read("/proc/stat").partition("\n")[0].split()[1:4]
    return sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")


def memory(read: Callable[[str], str]) -> tuple[int, int, int]:
    """Return limit, use without cache, and cache, in bytes."""
    machine = {
        name.rstrip(":"): value * 1024 for name, value in _table(read("/proc/meminfo")).items()
    }
    total = machine.get("MemTotal", 0)
    for limit, usage, table, cache in (
        ("memory.max", "memory.current", "memory.stat", "file"),
        (
            "memory/memory.limit_in_bytes",
            "memory/memory.usage_in_bytes",
            "memory/memory.stat",
            "total_cache",
        ),
    ):
        current = read(f"/sys/fs/cgroup/{usage}").strip()
        if current.isdecimal():
            most = read(f"/sys/fs/cgroup/{limit}").strip()
            if most.isdecimal() and int(most) < UNLIMITED:
                total = min(total, int(most)) or int(most)
            cached = _table(read(f"/sys/fs/cgroup/{table}")).get(cache, 0)
            return total, max(int(current) - cached, 0), cached
    cached = machine.get("Cached", 0)
    return total, max(total - machine.get("MemAvailable", 0), 0), cached


def _table(text: str) -> dict[str, int]:
    rows = (line.split() for line in text.splitlines())
    return {row[0]: int(row[1]) for row in rows if len(row) >= 2 and row[1].isdecimal()}
