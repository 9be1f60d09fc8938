"""A scheduler in memory: for tests of control, and for trying it without root.

It starts nothing. What a runner would do is done by ``on_submit``, or by the test.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from control.errors import (
    ConflictError,
    NoCapacityError,
    NotFoundError,
    UnavailableError,
    WorkError,
)
from jobs.scheduler import Allocation, Exit, NodeStatus

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Collection, Mapping

    from jobs.scheduler import Job

NODE = "local"
_ADDRESS = "127.0.0.1"
_FIRST_PORT = 20000
DISK_MIB = 1 << 40


class MemoryScheduler:
    """``Scheduler`` over a dictionary.

    Attributes:
        most: how many jobs may run at once; 0 has room for none.
        is_away: every call raises ``UnavailableError``.
        is_hanging: every call waits until it is cancelled.
        on_submit: called with each job that was started.
        on_stop: called with the id of each job that is to stop; ends it by ``end``, or does not,
            and then it is killed. Without it every job ends as asked.
        disks: the sandboxes that have a disk.
        volumes: the volumes that were made, and their size in bytes.
        lost: the nodes that it cannot reach; their jobs go on.
        cordoned: the nodes that get no more jobs.
        images: what ``import-image`` finds, by reference.
        kept: the images that were last to be kept.
        held: verbs that wait, each for its event.
        at_work: the verbs that wait so.
        disk_mib: what it says that there is on its node for disks; it does not count itself.
    """

    def __init__(
        self,
        *,
        most: int | None = None,
        on_submit: Callable[[Job], None] | None = None,
        on_stop: Callable[[str], None] | None = None,
    ) -> None:
        self.most = most
        self.is_away = False
        self.is_hanging = False
        self.on_submit, self.on_stop = on_submit, on_stop
        self.disks: set[str] = set()
        self.volumes: dict[str, int] = {}
        self.lost: set[str] = set()
        self.cordoned: set[str] = set()
        self.disk_mib = DISK_MIB
        self.images: dict[str, Mapping[str, Any]] = {}
        self.kept: set[str] | None = None
        self._made = 0
        self.jobs: dict[str, Job] = {}
        self._allocations: dict[str, Allocation] = {}
        self._changes: asyncio.Queue[str] = asyncio.Queue()
        self._placed = 0
        self.held: dict[str, asyncio.Event] = {}
        self.at_work: list[str] = []

    async def submit(self, job: Job, *, avoid: Collection[str] = ()) -> Allocation:
        """See ``Scheduler.submit``."""
        await self._reach()
        there = self._seen(job.sandbox_id)
        if there is not None and there.generation == job.generation:
            return there
        if there is not None and there.running:
            raise ConflictError(f"generation {there.generation} of the sandbox still runs")
        running = sum(allocation.running for allocation in self._allocations.values())
        if self.most is not None and running >= self.most:
            raise NoCapacityError(f"no room: {running} sandboxes run; stop or delete some")
        self._require_node(job, avoid)
        port = _FIRST_PORT + self._placed
        self._placed += 1
        placed = Allocation(job.sandbox_id, job.generation, NODE, _ADDRESS, port, True, None)
        self._allocations[job.sandbox_id] = placed
        self.jobs[job.sandbox_id] = job
        self.disks.add(job.sandbox_id)
        if self.on_submit is not None:
            self.on_submit(job)
        return placed

    async def stop(self, sandbox_id: str, *, grace_seconds: float) -> None:
        """See ``Scheduler.stop``; the grace is nothing here."""
        await self._reach()
        there = self._seen(sandbox_id)
        if there is not None and there.running and not there.reachable:
            raise UnavailableError(f"node {there.node} is lost: its jobs end when it is back")
        if self.on_stop is None:
            self.end(sandbox_id, "", phase="stopping")
            return
        self.on_stop(sandbox_id)
        self.end(sandbox_id, "the runner was killed", code=137, phase="unknown")

    async def allocation(self, sandbox_id: str) -> Allocation | None:
        """See ``Scheduler.allocation``."""
        await self._reach()
        return self._seen(sandbox_id)

    async def allocations(self) -> list[Allocation]:
        """See ``Scheduler.allocations``."""
        await self._reach()
        return [there for name in self._allocations if (there := self._seen(name)) is not None]

    async def forget(self, sandbox_id: str) -> None:
        """See ``Scheduler.forget``."""
        await self._reach()
        there = self._allocations.get(sandbox_id)
        if there is not None and there.running:
            raise ConflictError(f"the runner of {sandbox_id} still runs")
        self._allocations.pop(sandbox_id, None)
        self.jobs.pop(sandbox_id, None)

    async def changes(self) -> AsyncIterator[str]:
        """See ``Scheduler.changes``."""
        while True:
            yield await self._changes.get()

    async def work(
        self, verb: str, arguments: Mapping[str, Any], *, node: str = ""
    ) -> dict[str, Any]:
        """See ``Scheduler.work``; it knows disks, archives, volumes, images and ``inventory``."""
        await self._reach()
        if node in self.lost:
            raise UnavailableError(f"node {node} is lost: {verb} waits until it is back")
        if verb in self.held:
            self.at_work.append(verb)
            try:
                await self.held[verb].wait()
            finally:
                self.at_work.remove(verb)
        if verb == "remove-disk":
            sandbox_id = str(arguments["sandbox_id"])
            there = self._allocations.get(sandbox_id)
            if there is not None and there.running:
                raise UnavailableError(f"remove-disk failed: the disk of {sandbox_id} is in use")
            self.disks.discard(sandbox_id)
        if verb == "make-volume":
            self.volumes[str(arguments["volume_id"])] = int(arguments["size"])
        if verb == "remove-volume":
            self.volumes.pop(str(arguments["volume_id"]), None)
        if verb == "archive-disk":
            return self._archived(arguments)
        if verb.endswith(("-image", "-images")) or verb == "commit-disk":
            return self._with_images(verb, arguments)
        if verb == "inventory":
            running = [name for name, there in self._allocations.items() if there.running]
            volumes: dict[str, object] = {name: {} for name in self.volumes}
            disks: dict[str, object] = {name: {} for name in self.disks}
            return {"disks": disks, "volumes": volumes, "running": running, "free": 0}
        return {}

    def _archived(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        sandbox_id = str(arguments["sandbox_id"])
        if sandbox_id not in self.disks:
            raise UnavailableError(f"archive-disk failed: there is no disk of {sandbox_id}")
        return {"name": f"{sandbox_id}/{arguments['generation']}", "digest": "0" * 64, "size": 1}

    def _with_images(self, verb: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        if verb == "import-image":
            named = str(arguments["reference"])
            if named not in self.images:
                raise WorkError(verb, f"there is no image {named}")
            return {"image": self.images[named], "node": NODE}
        if verb == "collect-images":
            self.kept = set(arguments["keep"])
            return {"removed": []}
        known = {image["id"]: image for image in self.images.values()}
        base = known.get(str(arguments["image_id"]), {"user": "", "size_bytes": 1 << 30})
        self._made += 1
        made = {**base, **arguments.get("defaults", {}), "id": f"{self._made:064x}"}
        self.images[made["id"]] = made
        return {"image": made, "node": NODE}

    async def nodes(self) -> list[NodeStatus]:
        """See ``Scheduler.nodes``: there is one."""
        await self._reach()
        is_ready, is_cordoned = NODE not in self.lost, NODE in self.cordoned
        return [NodeStatus(NODE, _ADDRESS, is_ready, is_cordoned, "", "", 0, 0, self.disk_mib)]

    async def disk_sizes(self) -> dict[str, int]:
        """See ``Scheduler.disk_sizes``."""
        await self._reach()
        return {NODE: self.disk_mib}

    async def cordon(self, node: str, *, on: bool) -> None:
        """See ``Scheduler.cordon``."""
        await self._reach()
        if node != NODE:
            raise NotFoundError(f"no such node: {node}")
        (self.cordoned.add if on else self.cordoned.discard)(node)

    def _seen(self, sandbox_id: str) -> Allocation | None:
        """What is there, as it looks from here: on a lost node it is out of reach."""
        there = self._allocations.get(sandbox_id)
        if there is None or not there.running:
            return there
        return replace(there, reachable=there.node not in self.lost)

    def _require_node(self, job: Job, avoid: Collection[str]) -> None:
        if job.node not in {"", NODE}:
            raise NoCapacityError(f"no room: there is no node {job.node}, where the disk is")
        if NODE in self.lost:
            raise NoCapacityError(f"no room: node {NODE} is lost")
        if NODE in self.cordoned:
            raise NoCapacityError(f"no room: node {NODE} is cordoned; uncordon it")
        if NODE in avoid:
            raise NoCapacityError(f"no room: the disks on node {NODE} leave no room for another")

    def end(self, sandbox_id: str, reason: str, *, code: int = 0, phase: str = "ready") -> None:
        """End a job as its runner would; one that has ended stays as it is."""
        there = self._allocations.get(sandbox_id)
        if there is None or not there.running:
            return
        ended = Exit(reason, code, phase, datetime.now(UTC))
        self._allocations[sandbox_id] = replace(there, running=False, exit=ended)
        self._changes.put_nowait(sandbox_id)

    async def _reach(self) -> None:
        await asyncio.sleep(0)
        if self.is_hanging:
            await asyncio.Event().wait()
        if self.is_away:
            raise UnavailableError("the scheduler does not answer")
