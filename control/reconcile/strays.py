"""Disks of which no record knows: reported, never deleted.

One may be left over by a node that was away while its sandbox was deleted, or belong to a record
that was lost with a database: only the operator can tell.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from control.errors import UnavailableError

if TYPE_CHECKING:
    from control.store import SandboxStore
    from jobs.scheduler import Scheduler

logger = logging.getLogger(__name__)


async def stray_disks(scheduler: Scheduler, store: SandboxStore) -> dict[str, list[str]]:
    """Return the sandboxes that have a disk but no record, by node; for each node that answers.

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
        found[node.name] = set(listed.get("disks", ()))
    # Records last: a sandbox made meanwhile is no stray.
    known = {outline.id for outline in await store.survey()}
    return {node: sorted(disks - known) for node, disks in found.items()}
