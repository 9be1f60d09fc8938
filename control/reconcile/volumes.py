"""Bring volumes to where they are wanted: a place at the first use, and the end when deleted.

Level triggered, as sandboxes are: what is done depends only on the record, each step may be cut off
anywhere and is begun again.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from control.errors import InvalidError, NoCapacityError, NotFoundError, UnavailableError, YurtError
from control.model import BYTES_PER_GIB, USABLE_VOLUMES, Sandbox, Volume, VolumeState
from control.mounts import choose_node
from control.volumes import check_place

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from datetime import datetime, timedelta

    from control.store import VolumeStore
    from jobs.scheduler import Scheduler

logger = logging.getLogger(__name__)

# Another control may have taken the call, or the last try have failed.
_LOOK_SECONDS = 5.0
_WORK_SECONDS = 120.0
_MAX_REASON = 2000
_PENDING = frozenset(VolumeState) - {VolumeState.READY, VolumeState.ERROR}


class VolumeKeeper:
    """Makes, finds and removes volumes by the verbs of the nodes.

    Attributes:
        store: the records.
    """

    def __init__(
        self,
        store: VolumeStore,
        scheduler: Scheduler,
        kept: Callable[[], Awaitable[Mapping[str, int]]],
        now: Callable[[], datetime],
        *,
        keep_deleted: timedelta,
    ) -> None:
        """Prepare.

        Args:
            store: the records.
            scheduler: where the nodes are, and work on them is done.
            kept: sums up the disks of each node, volumes included, in GiB.
            now: tells the time.
            keep_deleted: how long a deleted volume can still be looked at.
        """
        self.store, self._scheduler, self._kept, self._now = store, scheduler, kept, now
        self._keep_deleted = keep_deleted
        self._awake = asyncio.Event()
        self._busy: set[str] = set()

    def wake(self) -> None:
        """Have a look soon."""
        self._awake.set()

    async def run(self) -> None:
        """Work until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            while True:
                self._awake.clear()
                for volume in await self._pending():
                    self._busy.add(volume.id)
                    tasks.create_task(self._advance(volume))
                with suppress(TimeoutError):
                    async with asyncio.timeout(_LOOK_SECONDS):
                        await self._awake.wait()

    async def _pending(self) -> list[Volume]:
        try:
            every = await self.store.all(_PENDING)
        except UnavailableError as error:
            logger.warning("volumes cannot be listed", extra={"error": str(error)})
            return []
        return [volume for volume in every if volume.id not in self._busy]

    async def _advance(self, volume: Volume) -> None:
        extra = {"volume_id": volume.id, "state": volume.state.value}
        try:
            await self.advance(volume)
        except YurtError as error:
            logger.warning("a volume has to wait", extra={**extra, "error": str(error)})
        except Exception:
            logger.exception("a volume cannot be reconciled", extra=extra)
        finally:
            self._busy.discard(volume.id)

    async def advance(self, volume: Volume) -> None:
        """Do what there is to do for one volume.

        Raises:
            YurtError: it cannot be done now; try again later.
        """
        if volume.state in {VolumeState.PENDING_CREATE, VolumeState.CREATING}:
            await self._accept(volume)
        elif volume.state in {VolumeState.PENDING_DELETE, VolumeState.DELETING}:
            if await self.store.is_free(volume.id):
                await self._remove(volume)
        elif self._now() >= volume.updated_at + self._keep_deleted:
            await self.store.remove(volume.id)

    async def _accept(self, volume: Volume) -> None:
        """Take a new volume for ready if a node has room for it; which one, its first use says."""
        state, reason = VolumeState.READY, None
        try:
            choose_node(await self._scheduler.nodes(), await self._kept(), volume.size_gib)
        except NoCapacityError as error:
            state, reason = VolumeState.ERROR, str(error)
        await self._move(volume, state, reason)

    async def _remove(self, volume: Volume) -> None:
        if volume.node:
            try:
                await self._work("remove-volume", volume, {})
            except UnavailableError as error:
                reason = f"the files on node {volume.node} cannot be removed yet: {error}"
                await self._move(volume, volume.state, reason[:_MAX_REASON])
                raise
        await self._move(volume, VolumeState.DELETED, None)
        self.wake()

    async def _move(self, volume: Volume, state: VolumeState, reason: str | None) -> None:
        now = self._now()

        def moved(record: Volume, _: object) -> Volume:
            if record.state is not volume.state or (record.state, record.error_reason) == (
                state,
                reason,
            ):
                return record
            return replace(record, state=state, error_reason=reason, updated_at=now)

        await self.store.change(volume.id, moved)

    async def _work(self, verb: str, volume: Volume, arguments: Mapping[str, object]) -> None:
        told = {"volume_id": volume.id, **arguments}
        try:
            async with asyncio.timeout(_WORK_SECONDS):
                await self._scheduler.work(verb, told, node=volume.node)
        except TimeoutError as error:
            raise UnavailableError(f"no answer within {_WORK_SECONDS:.0f} s: {verb}") from error

    # -- a start that needs volumes --------------------------------------------------------------

    async def prepare(self, sandbox: Sandbox) -> str:
        """Have the volumes of a sandbox in one place, made, and return the node.

        The first use of a volume decides where it is: where the other ones are, else where the
        sandbox's disk is, else where there is room. Without volumes the answer is empty.

        Raises:
            InvalidError: they are in different places, or not where the sandbox's disk is.
            NoCapacityError: no node has room for them.
            UnavailableError: a node cannot make them now.
        """
        wanted = sorted({mount.volume_id for mount in sandbox.volumes})
        if not wanted:
            return ""
        found = [await self._usable(volume_id) for volume_id in wanted]
        check_place(found)
        node = next((volume.node for volume in found if volume.node), sandbox.node)
        new = [volume.size_gib for volume in found if not volume.node]
        if new:
            node = await self._choose(node, sum(new), sandbox)
        placed = [await self._placed(volume.id, node) for volume in found]
        check_place(placed)  # another sandbox's first use may have come first
        node = placed[0].node
        if sandbox.node not in {"", node}:
            raise InvalidError(
                f"the sandbox's disk is on node {sandbox.node}, its volume "
                f"'{placed[0].name}' on node {node}"
            )
        for volume in placed:
            if not volume.is_made:
                await self._make(volume)
        return node

    async def _choose(self, node: str, gib: int, sandbox: Sandbox) -> str:
        """Choose where new volumes go; if ``node`` is known already, there or nowhere."""
        nodes = [each for each in await self._scheduler.nodes() if node in {"", each.name}]
        own = 0 if sandbox.node else sandbox.resources.disk_gib
        return choose_node(nodes, await self._kept(), gib + own)

    async def _usable(self, volume_id: str) -> Volume:
        volume = await self.store.get(volume_id)
        if volume is None or volume.state not in USABLE_VOLUMES:
            raise InvalidError(f"Volume '{volume_id}' was deleted")
        return volume

    async def _placed(self, volume_id: str, node: str) -> Volume:
        now = self._now()

        def placed(volume: Volume, _: object) -> Volume:
            if volume.state not in USABLE_VOLUMES:
                raise InvalidError(f"Volume '{volume_id}' was deleted")
            # Used is ready, whoever looked at it first.
            return replace(
                volume, node=volume.node or node, state=VolumeState.READY, last_used_at=now
            )

        try:
            return await self.store.change(volume_id, placed)
        except NotFoundError as error:
            raise InvalidError(f"Volume '{volume_id}' was deleted") from error

    async def _make(self, volume: Volume) -> None:
        await self._work("make-volume", volume, {"size": volume.size_gib * BYTES_PER_GIB})
        await self.store.change(volume.id, lambda record, _: replace(record, is_made=True))
