"""Directory trees: reading them in bounded memory, and removing them.

Symbolic links are never followed below the top. Everything here blocks and runs in a thread.
"""

from __future__ import annotations

import errno
import os
from itertools import islice
from typing import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

SORTED_ENTRIES = 50_000
"""Entries of one directory that are held in memory to sort them; what is beyond follows as is."""

VIRTUAL = frozenset((b"/proc", b"/sys", b"/dev"))
"""Not entered from above: endless, and nothing that a user stored."""

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def walk(top: bytes, depth: int | None = None) -> Iterator[os.DirEntry[bytes]]:
    """Yield what is below ``top``, each directory before its contents, sorted by name.

    Directories that cannot be read are yielded and not entered.

    Args:
        top: an absolute path.
        depth: how many levels; None is all.

    Raises:
        OSError: ``top`` itself cannot be read.
    """
    levels = [_entries(top)]
    while levels:
        entry = next(levels[-1], None)
        if entry is None:
            levels.pop()
            continue
        yield entry
        inside = entry.is_dir(follow_symlinks=False) and entry.path not in VIRTUAL
        if inside and (depth is None or len(levels) < depth):
            try:
                levels.append(_entries(entry.path))
            except OSError:
                continue


def _entries(directory: bytes) -> Iterator[os.DirEntry[bytes]]:
    found = os.scandir(directory)
    return _in_turn(sorted(islice(found, SORTED_ENTRIES), key=_name, reverse=True), found)


def _in_turn(
    first: list[os.DirEntry[bytes]], rest: Iterator[os.DirEntry[bytes]]
) -> Iterator[os.DirEntry[bytes]]:
    # An entry keeps what was asked of it, so it is let go as soon as it has been yielded.
    while first:
        yield first.pop()
    yield from rest


def _name(entry: os.DirEntry[bytes]) -> bytes:
    return entry.name


def remove_tree(path: bytes) -> None:
    """Remove a directory with everything in it.

    Works on descriptors and goes up by ``..``, so neither a swapped name nor a tree that is deeper
    than the longest path misleads it, and it holds few descriptors whatever the depth.

    Raises:
        OSError: something could not be removed; the rest stays.
    """
    here = os.open(path, _DIRECTORY)
    trail: list[tuple[tuple[int, int], bytes]] = []
    levels = [_clear(here)]
    try:
        while True:
            level = levels[-1]
            if level.names:
                name = level.names.pop()
                trail.append((_identity(here), name))
                here = _move(here, name)
                levels.append(_clear(here))
            elif level.more:
                levels[-1] = _clear(here)
            elif trail:
                levels.pop()
                above, name = trail.pop()
                here = _move(here, b"..")
                if _identity(here) != above:
                    raise OSError(errno.EBUSY, "moved while it was removed", path)
                os.rmdir(name, dir_fd=here)
            else:
                break
    finally:
        os.close(here)
    os.rmdir(path)


class _Level(NamedTuple):
    """Directories that are left in a directory; ``more`` if there may be others."""

    names: list[bytes]
    more: bool


def _clear(directory: int) -> _Level:
    """Remove all that is no directory; return the directories, or the first so many of them."""
    names: list[bytes] = []
    with os.scandir(directory) as found:
        for entry in found:
            name = os.fsencode(entry.name)
            if not entry.is_dir(follow_symlinks=False):
                os.unlink(name, dir_fd=directory)
            elif len(names) == SORTED_ENTRIES:
                return _Level(names, more=True)
            else:
                names.append(name)
    return _Level(names, more=False)


def _move(here: int, name: bytes) -> int:
    there = os.open(name, _DIRECTORY, dir_fd=here)
    os.close(here)
    return there


def _identity(directory: int) -> tuple[int, int]:
    status = os.fstat(directory)
    return status.st_dev, status.st_ino
