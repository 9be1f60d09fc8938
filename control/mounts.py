"""Where volumes may be in a sandbox, and on which node they can be. Pure.

What is checked here are words; the node, which sees the files, follows no link in them.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from control.errors import InvalidError, NoCapacityError
from control.model import MIB_PER_GIB, Mount

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from jobs.scheduler import NodeStatus

MOST_MOUNTS = 16
_MAX_PATH, _MAX_PART = 1024, 255
# What a sandbox needs to run as it is; /opt/yurt holds its agent.
_RESERVED = (
    *("/proc", "/sys", "/dev", "/boot", "/etc", "/bin", "/sbin", "/lib", "/lib32", "/lib64"),
    "/opt/yurt",
)


def checked_mount(volume: str, path: str, subpath: str | None) -> Mount:
    """Read where a volume, by id or name, is to be.

    Raises:
        InvalidError: it cannot be there; the text says what to write.
    """
    if not volume:
        raise InvalidError("volumes: volumeId is empty")
    parts = _parts(path.removesuffix("/"))
    if not path.startswith("/") or parts is None or parts[0] or len(parts) == 1:
        raise InvalidError(
            f"Invalid mount path {path[:200]!r}: write an absolute path below /, without empty "
            "parts, . or .., like /data"
        )
    where = "/".join(parts)
    for reserved in _RESERVED:
        if _overlap(where, reserved):
            raise InvalidError(
                f"Invalid mount path {where!r}: {reserved} belongs to the system; write another "
                "one, like /data"
            )
    below = _parts((subpath or "").removesuffix("/")) if subpath else []
    if below is None or "" in below:
        raise InvalidError(
            f"Invalid subpath {str(subpath)[:200]!r}: write a path inside the volume, without "
            "empty parts, . or .., like team/data"
        )
    return Mount(volume, where, "/".join(below))


def _parts(path: str) -> list[str] | None:
    """Split a path; only the first part may be empty. None if one cannot be a file's name."""
    parts = path.split("/")
    is_odd = any(part in {".", ".."} or "\0" in part for part in parts) or "" in parts[1:]
    is_long = len(path.encode("utf-8", "replace")) > _MAX_PATH or any(
        len(part.encode("utf-8", "replace")) > _MAX_PART for part in parts
    )
    return None if is_odd or is_long else parts


def _overlap(one: str, other: str) -> bool:
    return f"{one}/".startswith(f"{other}/") or f"{other}/".startswith(f"{one}/")


def check_together(mounts: Collection[Mount]) -> None:
    """Check that volumes do not cover one another.

    Raises:
        InvalidError: one is where another one is, or inside it; or there are too many.
    """
    if len(mounts) > MOST_MOUNTS:
        raise InvalidError(f"volumes: a sandbox can have at most {MOST_MOUNTS}")
    paths = sorted(f"{mount.path}/" for mount in mounts)
    for before, after in pairwise(paths):
        if after.startswith(before):
            raise InvalidError(
                f"volumes: {after[:-1]!r} is not apart from {before[:-1]!r}: mount volumes side "
                "by side"
            )


def has_room(disk_mib: int, kept_gib: int, gib: int) -> bool:
    """Tell whether the limits of all disks on a node leave so many GiB; 0 MiB is unknown."""
    return disk_mib == 0 or (kept_gib + gib) * MIB_PER_GIB <= disk_mib


def choose_node(nodes: Iterable[NodeStatus], kept: Mapping[str, int], gib: int) -> str:
    """Name the node where new volumes go: with room for them, and the most free memory.

    Args:
        nodes: all there are.
        kept: the GiB that all disks on each may grow to.
        gib: what is needed.

    Raises:
        NoCapacityError: there is none.
    """
    fit = [
        node
        for node in nodes
        if node.is_ready
        and not node.is_cordoned
        and has_room(node.disk_mib, kept.get(node.name, 0), gib)
    ]
    if not fit:
        raise NoCapacityError(
            f"no room: no node has {gib} GiB left for disks; delete sandboxes or volumes, or "
            "enlarge the volume of the host"
        )
    return max(fit, key=lambda node: (node.memory_mib - node.memory_reserved_mib, node.name)).name
