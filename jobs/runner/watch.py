"""Notice when a sandbox runs into one of its own limits, and say so in words."""

from __future__ import annotations

import os

from jobs.runner import boot, cgroup

_EVERY_SECONDS = 2.0
_FD_LOOKS = 20_000
_INOTIFY_LIMIT = "/proc/sys/fs/inotify/max_user_instances"

MEMORY = "out of memory: a process was killed at the memory limit; use less or a larger sandbox"
PIDS = "too many processes: the limit was reached and new ones were refused"
DISK = "disk full: delete files or use a larger disk"
INOTIFY = "too many inotify instances: a user of the sandbox has used up the kernel's limit"


class Watch:
    """Compares the kernel's counters with what was last seen."""

    def __init__(self, sandbox_id: str, sandbox: boot.Sandbox) -> None:
        self._id, self._sandbox = sandbox_id, sandbox
        self._next = 0.0
        self._kills, self._refused = boot.read_counters(sandbox_id)
        self._full = self._hogged = False

    def look(self, now: float) -> list[tuple[str, str]]:
        """Return what happened since the last look, as (kind, message); at most every 2 s."""
        if now < self._next:
            return []
        self._next = now + _EVERY_SECONDS
        notices = []
        kills, refused = boot.read_counters(self._id)
        if kills > self._kills:
            notices.append(("memory", MEMORY))
        if refused > self._refused:
            notices.append(("pids", PIDS))
        self._kills, self._refused = kills, refused
        full = self._sandbox.disk_is_full()
        if full and not self._full:
            notices.append(("disk", DISK))
        hogged = inotify_hogged(self._id)
        if hogged and not self._hogged:
            notices.append(("inotify", INOTIFY))
        self._full, self._hogged = full, hogged
        return notices


def inotify_hogged(name: str) -> bool:
    """Tell whether one user of the sandbox holds as many inotify instances as the kernel allows.

    The kernel keeps the count per user namespace and uid but shows it nowhere, so the open files
    are counted; a sandbox with very many is counted in part.
    """
    with open(_INOTIFY_LIMIT) as file:
        limit = int(file.read())
    counts: dict[int, int] = {}
    looks = 0
    pids = [pid for directory in cgroup.directories(name)[:1] for pid in cgroup.pids(directory)]
    for pid in pids:
        try:
            owner = os.stat(f"/proc/{pid}").st_uid
            files = [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")]
        except OSError:
            continue  # the process ended, or closed a file meanwhile
        counts[owner] = counts.get(owner, 0) + files.count("anon_inode:inotify")
        looks += len(files)
        if looks > _FD_LOOKS:
            break
    return any(count >= limit for count in counts.values())
