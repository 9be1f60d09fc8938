"""Find processes by descent and end them, whatever they do meanwhile to escape.

Knows pids and sessions only, and reads ``/proc``. A process is named by its pid and its start, so
that a pid that was given away again is never hit.
"""

from __future__ import annotations

import asyncio
import os
import signal
from typing import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

KILL_SECONDS = 2.0
"""How long to wait for what was killed; a process in an uninterruptible call may take longer."""

_FIRST_PAUSE, _LONGEST_PAUSE = 0.001, 0.05
_GONE = {b"Z", b"X"}


class Name(NamedTuple):
    """What identifies a process for ever."""

    pid: int
    started: int


class Process(NamedTuple):
    """One living process; ``session`` is the pid of its session's leader."""

    name: Name
    parent: int
    session: int


def living() -> dict[int, Process]:
    """Read the process table, without zombies."""
    found = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit() and (process := read(int(entry))) is not None:
            found[process.name.pid] = process
    return found


def read(pid: int) -> Process | None:
    """Read one process; None if it has ended."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            # The name stands in parentheses and may contain any others.
            fields = file.read().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    if fields[0] in _GONE:
        return None
    return Process(Name(pid, int(fields[19])), int(fields[1]), int(fields[3]))


def family(
    leaders: Iterable[Name], known: Iterable[Name] = (), *, whole_session: bool
) -> set[Name]:
    """Return processes and their living descendants.

    Args:
        leaders: each leads a session.
        known: further processes to begin with.
        whole_session: also what has lost its parent but is still in a session that they lead.
    """
    table = living()
    sessions = set()
    found = set()
    for name in leaders:
        process = table.get(name.pid)
        if process is not None and process.name == name:
            found.add(name.pid)
        if process is None or process.name == name:  # else the number was given away again
            sessions.add(name.pid)
    found |= {name.pid for name in known if name.pid in table and table[name.pid].name == name}
    if whole_session:
        found |= {pid for pid, process in table.items() if process.session in sessions}
    return {table[pid].name for pid in _with_descendants(found, table)}


def _with_descendants(found: set[int], table: Mapping[int, Process]) -> set[int]:
    children: dict[int, list[int]] = {}
    for pid, process in table.items():
        children.setdefault(process.parent, []).append(pid)
    waiting = list(found)
    while waiting:
        for child in children.get(waiting.pop(), ()):
            if child not in found:
                found.add(child)
                waiting.append(child)
    return found


def send(number: int, targets: Iterable[Name]) -> set[Name]:
    """Send a signal; return those that are another user's and not ours to signal."""
    refused = set()
    for name in targets:
        try:
            os.kill(name.pid, number)
        except ProcessLookupError:
            continue
        except PermissionError:
            refused.add(name)
    return refused


async def gone(targets: Iterable[Name], seconds: float) -> set[Name]:
    """Wait until all of them have ended; return those that have not after ``seconds``."""
    left = set(targets)
    deadline = asyncio.get_running_loop().time() + seconds
    pause = _FIRST_PAUSE
    while True:
        left = {name for name in left if (p := read(name.pid)) is not None and p.name == name}
        if not left or asyncio.get_running_loop().time() >= deadline:
            return left
        await asyncio.sleep(pause)
        pause = min(pause * 2, _LONGEST_PAUSE)


async def kill(find: Callable[[set[Name]], set[Name]]) -> set[Name]:
    """Kill what ``find`` returns, also what it starts meanwhile; return what could not be.

    Args:
        find: returns the victims, given those that were found before.
    """
    known: set[Name] = set()
    refused: set[Name] = set()
    deadline = asyncio.get_running_loop().time() + KILL_SECONDS
    while victims := _held(find, known) - refused:
        known |= victims
        refused |= send(signal.SIGKILL, victims)
        await gone(victims - refused, KILL_SECONDS)
        if asyncio.get_running_loop().time() >= deadline:
            break
    return refused


def _held(find: Callable[[set[Name]], set[Name]], known: set[Name]) -> set[Name]:
    """Stop the victims until there are no new ones: what is stopped starts nothing."""
    held: set[Name] = set()
    while new := find(known | held) - held:
        send(signal.SIGSTOP, new)
        held |= new
    return held
