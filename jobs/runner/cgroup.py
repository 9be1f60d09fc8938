"""The sandbox's control group: what the kernel counted against its limits.

Works on cgroup v2 and on the v1 hierarchies of older hosts; runc makes the group, here it is only
read, joined, ordered, emptied and removed.
"""

from __future__ import annotations

import os
import time

ROOT = "/sys/fs/cgroup"
PARENT = "yurt"
CPU_PERIOD = 100_000  # microseconds
_FIRST = -20  # the lowest nice value; it counts within a group only


def is_v2(root: str = ROOT) -> bool:
    """Tell whether the host has the unified hierarchy only."""
    return os.path.exists(f"{root}/cgroup.controllers")


def directories(name: str, root: str = ROOT) -> list[str]:
    """Return the existing directories of group ``name``, one per hierarchy."""
    hierarchies = [root] if is_v2(root) else [f"{root}/{entry}" for entry in os.listdir(root)]
    paths = (f"{hierarchy}/{PARENT}/{name}" for hierarchy in hierarchies)
    return [path for path in dict.fromkeys(map(os.path.realpath, paths)) if os.path.isdir(path)]


def enable_controllers(root: str = ROOT) -> None:
    """Let groups below ours limit memory, processor time and processes (cgroup v2 only)."""
    if not is_v2(root):
        return
    os.makedirs(f"{root}/{PARENT}", exist_ok=True)
    for path in (root, f"{root}/{PARENT}"):
        with open(f"{path}/cgroup.subtree_control", "w") as control:
            control.write("+memory +cpu +pids")


def join(name: str, pid: int) -> None:
    """Account ``pid`` to the group in every hierarchy."""
    for directory in directories(name):
        with open(f"{directory}/cgroup.procs", "w") as processes:
            processes.write(str(pid))


def limit(name: str, cpu: int, memory_bytes: int, root: str = ROOT) -> None:
    """Let the group use so many cores and so much memory from now on; no swap, as ever.

    Raises:
        OSError: the kernel refuses; the limits may be as they were.
    """
    if is_v2(root):
        base = f"{root}/{PARENT}/{name}"
        limits = [
            (f"{base}/memory.max", memory_bytes),
            (f"{base}/cpu.max", f"{cpu * CPU_PERIOD} {CPU_PERIOD}"),
        ]
    else:
        memory = f"{root}/memory/{PARENT}/{name}/memory"
        # Never below the limit without swap, which not every kernel counts.
        with_swap = f"{memory}.memsw.limit_in_bytes"
        limits = [(with_swap, memory_bytes)] if os.path.exists(with_swap) else []
        limits += [
            (f"{memory}.limit_in_bytes", memory_bytes),
            (f"{root}/cpu/{PARENT}/{name}/cpu.cfs_quota_us", cpu * CPU_PERIOD),
        ]
    for path, value in limits:
        with open(path, "w") as control:
            control.write(str(value))


def kill(name: str) -> None:
    """Kill everything in the group, also what is frozen or keeps forking."""
    for directory in directories(name):
        switch = f"{directory}/cgroup.kill"
        if os.path.exists(switch):
            with open(switch, "w") as control:
                control.write("1")


def pids(directory: str) -> list[int]:
    """List the processes in one directory and below it."""
    found: list[int] = []
    for path, _, _ in os.walk(directory):
        try:
            with open(f"{path}/cgroup.procs") as processes:
                found += [int(line) for line in processes]
        except OSError:
            continue  # removed since it was listed
    return found


def prefer_members(name: str) -> None:
    """Let what is in the group now run before what joins it later or is started by it."""
    for directory in directories(name)[:1]:
        for pid in pids(directory):
            prefer(pid)


def prefer(pid: int) -> None:
    """Let a process run before the others of its group, but not its children.

    Best effort: it may have ended, and root of a container may be refused.
    """
    try:
        for thread in map(int, os.listdir(f"/proc/{pid}/task")):
            policy = os.SCHED_OTHER | os.SCHED_RESET_ON_FORK
            os.sched_setscheduler(thread, policy, os.sched_param(0))
            os.setpriority(os.PRIO_PROCESS, thread, _FIRST)
    except OSError:
        return


def remove(name: str, wait_seconds: float = 1.0, root: str = ROOT) -> bool:
    """Remove the group's directories once they are empty; tell whether all are gone.

    The kernel refuses as long as a process is in them, also one that no pid in ``cgroup.procs``
    tells of because the reader is in another pid namespace.
    """
    deadline = time.monotonic() + wait_seconds
    while True:
        left = [path for path in directories(name, root) if not _remove_tree(path)]
        if not left or time.monotonic() >= deadline:
            return not left
        time.sleep(0.01)


def _remove_tree(directory: str) -> bool:
    try:
        for path, _, _ in os.walk(directory, topdown=False):
            os.rmdir(path)
    except OSError:
        return not os.path.isdir(directory)
    return True


def _counter(path: str, key: str) -> int:
    """Read ``key value`` from a flat-keyed cgroup file; 0 when there is no such file or key."""
    try:
        with open(path) as lines:
            for line in lines:
                word, _, value = line.partition(" ")
                if word == key:
                    return int(value)
    except OSError:
        pass
    return 0


def out_of_memory_kills(name: str, root: str = ROOT) -> int:
    """Count the processes that the kernel killed because the group was at its memory limit."""
    if is_v2(root):
        return _counter(f"{root}/{PARENT}/{name}/memory.events", "oom_kill")
    return _counter(f"{root}/memory/{PARENT}/{name}/memory.oom_control", "oom_kill")


def refused_forks(name: str, root: str = ROOT) -> int:
    """Count the forks that failed because the group was at its limit of processes."""
    base = root if is_v2(root) else f"{root}/pids"
    return _counter(f"{base}/{PARENT}/{name}/pids.events", "max")


def cpu_seconds(name: str, root: str = ROOT) -> float:
    """Return the processor time that the group has used in all."""
    if is_v2(root):
        return _counter(f"{root}/{PARENT}/{name}/cpu.stat", "usage_usec") / 1e6
    try:
        with open(f"{root}/cpuacct/{PARENT}/{name}/cpuacct.usage") as usage:
            return int(usage.read()) / 1e9
    except OSError:
        return 0.0
