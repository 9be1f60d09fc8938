"""Disks and volumes of which no record knows: reported, never deleted.

One may be left over by a node that was away while its sandbox was deleted, or belong to a record
that was lost with a database: only the operator can tell.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from control.errors import UnavailableError
from control.model import VolumeState

if TYPE_CHECKING:
    from control.store import SandboxStore, VolumeStore
    from jobs.scheduler import Scheduler

logger = logging.getLogger(__name__)


async def stray_disks(
    scheduler: Scheduler, store: SandboxStore, volumes: VolumeStore
) -> dict[str, list[str]]:
    """Return the ids of disks and volumes without a record, by node; for each node that answers.

    Raises:
        UnavailableError: the nodes or the records cannot be listed.
    """
    found = {}
    for node in await scheduler.nodes():
        if not node.is_ready:
            continue
        try:
            listed = await scheduler.work("inventory", {}, node=node.name)
        except UnavailableError as error:
            extra = {"node": node.name, "error": str(error)}
            logger.warning("a node does not list its disks", extra=extra)
            continue
        found[node.name] = {*listed.get("disks", ()), *listed.get("volumes", ())}
    # Records last: a sandbox made meanwhile is no stray.
    known: set[str] = {outline.id for outline in await store.survey()}
    known |= {volume.id for volume in await volumes.all(frozenset(VolumeState))}
    return {node: sorted(disks - known) for node, disks in found.items()}
