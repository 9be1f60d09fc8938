"""Make the images of new snapshots, and drop the images that nothing needs any more.

What there is to do is in the records: a control that was killed begins again where it was.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import TYPE_CHECKING

from control import snapshot_states
from control.errors import InvalidError, NotFoundError, UnavailableError, WorkError
from control.model import BYTES_PER_GIB, SnapshotState
from control.reconcile.apply import bounded
from control.references import reference

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from control.model import Snapshot
    from control.settings import Settings
    from control.store import Store
    from jobs.scheduler import Scheduler

logger = logging.getLogger(__name__)

_LOOK_SECONDS = 2.0
_RETRY_SECONDS = 5.0
_MAKE_SECONDS = 3600.0
_COLLECT_SECONDS = 600.0
_MOST_AT_ONCE = 2


class SnapshotKeeper:
    """Brings every snapshot to where it is wanted."""

    def __init__(
        self, store: Store, scheduler: Scheduler, settings: Settings, now: Callable[[], datetime]
    ) -> None:
        self._store, self._scheduler, self._settings = store, scheduler, settings
        self._now = now
        self._bell = asyncio.Event()
        self._busy: set[str] = set()
        self._places = asyncio.Semaphore(_MOST_AT_ONCE)
        # An image is in no record between its making and the note of it: none is dropped then.
        self._making = 0
        self._is_collecting_due = False

    def wake(self) -> None:
        """Have a look soon."""
        self._bell.set()

    async def run(self) -> None:
        """Work until cancelled."""
        self._busy.clear()
        self._making = 0
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._collect_for_ever())
            while True:
                self._bell.clear()
                with suppress(UnavailableError):
                    await self._begin(tasks)
                # Not `wait_for`: rung while it is cancelled, it would forget the cancellation.
                with suppress(TimeoutError):
                    async with asyncio.timeout(_LOOK_SECONDS):
                        await self._bell.wait()

    async def _begin(self, tasks: asyncio.TaskGroup) -> None:
        for snapshot in await self._store.snapshots.in_states(snapshot_states.UNFINISHED):
            if snapshot.id not in self._busy:
                self._busy.add(snapshot.id)
                tasks.create_task(self._finish(snapshot))

    async def _finish(self, snapshot: Snapshot) -> None:
        """Do what one snapshot waits for; what cannot be asked now is tried again."""
        extra = {"snapshot": snapshot.id}
        try:
            if snapshot.state is SnapshotState.REMOVING:
                await self._store.snapshots.remove(snapshot.id)
                self._is_collecting_due = True
            else:
                async with self._places:
                    self._making += 1
                    try:
                        await self._make(snapshot)
                    finally:
                        self._making -= 1
        except NotFoundError:
            pass  # removed meanwhile
        except UnavailableError as error:
            logger.warning("a snapshot has to wait", extra={**extra, "error": str(error)})
            await asyncio.sleep(_RETRY_SECONDS)
        except Exception:
            logger.exception("a snapshot cannot be made", extra=extra)
            await asyncio.sleep(_RETRY_SECONDS)
        finally:
            self._busy.discard(snapshot.id)

    async def _make(self, snapshot: Snapshot) -> None:
        change, now = self._store.snapshots.change, self._now
        snapshot = await change(snapshot.id, lambda known: snapshot_states.pulling(known, now()))
        if snapshot.state is not SnapshotState.PULLING:
            return
        try:
            source = reference(snapshot.image_name, self._settings.allowed_registries)
            arguments = {
                "reference": source.name,
                "plain": source.plain,
                "most_bytes": self._settings.max_image_gib * BYTES_PER_GIB,
            }
            async with bounded(f"image {source.name}", _MAKE_SECONDS):
                done = await self._scheduler.work("import-image", arguments)
        except (WorkError, InvalidError) as error:
            reason = error.reason if isinstance(error, WorkError) else str(error)
            logger.warning("no snapshot", extra={"snapshot": snapshot.id, "error": str(error)})
            await change(snapshot.id, lambda known: snapshot_states.failed(known, reason, now()))
            return
        image = done["image"]
        await change(snapshot.id, lambda known: snapshot_states.made(known, image, now()))

    # -- images --------------------------------------------------------------------------------

    async def _collect_for_ever(self) -> None:
        waited = 0.0
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            waited += _LOOK_SECONDS
            if self._making or not (self._is_collecting_due or waited >= _COLLECT_SECONDS):
                continue
            waited = 0.0
            try:
                await self.collect()
            except UnavailableError as error:
                logger.warning("images are not collected", extra={"error": str(error)})

    async def collect(self) -> list[str]:
        """Drop from every node that answers the images that no record names; return them.

        Raises:
            UnavailableError: what is needed cannot be told.
        """
        self._is_collecting_due = False
        # Snapshots first: a sandbox made from one that is then removed is among the sandboxes.
        keep = await self._store.snapshots.images()
        keep |= await self._store.sandboxes.images()
        dropped: list[str] = []
        for node in await self._scheduler.nodes():
            if self._making:
                break
            if node.is_ready:
                done = await self._scheduler.work(
                    "collect-images", {"keep": sorted(keep)}, node=node.name
                )
                dropped += done.get("removed", ())
        if dropped:
            logger.info("images were dropped", extra={"images": dropped})
        return dropped
