"""Whether a sandbox can grow where its disk is. Pure.

Schedulers decide it again at the next start; by then it cannot be made smaller any more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from control.errors import NoCapacityError
from control.model import MIB_PER_GIB, State
from control.mounts import has_room

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from control.model import Resources, Sandbox
    from jobs.scheduler import NodeStatus


def require_growth(
    sandbox: Sandbox,
    wanted: Resources,
    nodes: Iterable[NodeStatus],
    kept: Mapping[str, int],
    reserve: float,
) -> None:
    """Require that a sandbox's node has room for what it is to have more.

    Args:
        sandbox: as it is.
        wanted: what it is to have.
        nodes: all there are; one that is not among them is not asked.
        kept: the GiB that all disks on each may grow to.
        reserve: share of its memory limit that a started sandbox reserves.

    Raises:
        NoCapacityError: there is none.
    """
    node = next((node for node in nodes if node.name == sandbox.node), None)
    if node is None:
        return
    disk = wanted.disk_gib - sandbox.resources.disk_gib
    if disk > 0 and not has_room(node.disk_mib, kept.get(node.name, 0), disk):
        raise NoCapacityError(
            f"no room: the disks on node {node.name} leave less than {disk} GiB; delete sandboxes "
            "or volumes, or enlarge the volume of the host"
        )
    more = (wanted.memory_gib - sandbox.resources.memory_gib) * MIB_PER_GIB * reserve
    free = node.memory_mib - node.memory_reserved_mib
    if sandbox.state is State.STARTED and more > 0 and node.memory_mib and more > free:
        raise NoCapacityError(
            f"no room: node {node.name} has {free} MiB of memory left, this needs {more:.0f} MiB "
            "more; stop or delete some"
        )
