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

_STOP_ROUNDS = 8
_FIRST_PAUSE, _LONGEST_PAUSE = 0.001, 0.05
_GONE = {b"Z", b"X"}


class Name(NamedTuple):
    """What identifies a process for ever."""

    pid: int
    started: int


class Process(NamedTuple):
    """One living process; ``session`` is the pid of its session's leader, so for ``group``."""

    name: Name
    parent: int
    group: int
    session: int


class Family(NamedTuple):
    """Processes, and the process groups that have no other members.

    A group is signalled as a whole: no member can start another one meanwhile, as it could
    between our looking and our signalling one by one.
    """

    names: frozenset[Name]
    groups: frozenset[int] = frozenset()


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
    parent, group, session = map(int, fields[1:4])
    return Process(Name(pid, int(fields[19])), parent, group, session)


def family(leaders: Iterable[Name], known: Iterable[Name] = (), *, whole_session: bool) -> Family:
    """Find processes and their living descendants.

    Args:
        leaders: each leads a session.
        known: further processes to begin with.
        whole_session: also what has lost its parent but is in a session that one of them leads.
    """
    table = living()
    found = {n.pid for n in (*leaders, *known) if n.pid in table and table[n.pid].name == n}
    # A session outlives its leader; if its number names another process, it is another session.
    sessions = {n.pid for n in leaders if n.pid not in table or table[n.pid].name == n}
    if not whole_session:
        found = _with_descendants(found, table)
        return Family(frozenset(table[pid].name for pid in found))
    size = -1
    while len(found) > size:
        size = len(found)
        found |= {pid for pid, process in table.items() if process.session in sessions}
        found = _with_descendants(found, table)
        sessions |= {pid for pid in found if table[pid].session == pid}
    groups = {table[pid].group for pid in found if table[pid].session in sessions}
    return Family(frozenset(table[pid].name for pid in found), frozenset(groups))


def everything() -> Family:
    """Find all processes but the first one and this one."""
    table = living()
    ours = {1, os.getpid()}
    spared = {table[pid].group for pid in ours if pid in table}
    others = [process for pid, process in table.items() if pid not in ours]
    groups = {process.group for process in others} - spared
    return Family(frozenset(process.name for process in others), frozenset(groups))


def _with_descendants(found: set[int], table: Mapping[int, Process]) -> set[int]:
    children: dict[int, list[int]] = {}
    for pid, process in table.items():
        children.setdefault(process.parent, []).append(pid)
    waiting, found = list(found), set(found)
    while waiting:
        for child in children.get(waiting.pop(), ()):
            if child not in found:
                found.add(child)
                waiting.append(child)
    return found


def send(number: int, targets: Family) -> set[Name]:
    """Send a signal; return those that are another user's and not ours to signal."""
    for group in targets.groups:
        try:
            os.killpg(group, number)
        except (ProcessLookupError, PermissionError):
            continue
    refused = set()
    for name in targets.names:
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


async def kill(find: Callable[[set[Name]], Family]) -> set[Name]:
    """Kill what ``find`` returns, also what it starts meanwhile; return what could not be.

    Args:
        find: returns the victims, given those that were found before.
    """
    known: set[Name] = set()
    refused: set[Name] = set()
    loop = asyncio.get_running_loop()
    deadline = loop.time() + KILL_SECONDS
    while (victims := _stopped(find, known)).names - refused and loop.time() < deadline:
        known |= victims.names
        refused |= send(signal.SIGKILL, victims)
        await gone(victims.names - refused, KILL_SECONDS)
    return refused


def _stopped(find: Callable[[set[Name]], Family], known: set[Name]) -> Family:
    """Stop the victims until there are no new ones: what is stopped starts nothing."""
    victims = find(known)
    held: set[Name] = set()
    for _ in range(_STOP_ROUNDS):
        if not victims.names - held:
            break
        send(signal.SIGSTOP, victims)
        held |= victims.names
        victims = find(known | held)
    return victims
