"""Make the images of new snapshots, and drop the images that nothing needs any more.

What there is to do is in the records: a control that was killed begins again where it was.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from control import snapshot_states
from control.errors import InvalidError, NotFoundError, UnavailableError, WorkError
from control.model import SnapshotState
from control.naming import SandboxId
from control.reconcile.builder import Builder
from control.reconcile.images import Images
from control.reconcile.steps import Steps
from control.snapshot_states import await_image
from control.step_output import StepOutput

if TYPE_CHECKING:
    from collections.abc import Callable

    from control.model import Snapshot
    from control.reconcile.apply import World
    from control.settings import Settings
    from control.store import Store

logger = logging.getLogger(__name__)

_LOOK_SECONDS = 2.0
_RETRY_SECONDS = 5.0
_MAKE_SECONDS = 3600.0
_COLLECT_SECONDS = 600.0
_MOST_AT_ONCE = 4  # of builds, and of all else
_MARKED_WITHIN = timedelta(seconds=15)
# How long who builds the same again finds it: names of base images come to mean newer ones.
_KEEP_BUILDS = timedelta(hours=24)


class SnapshotKeeper:
    """Brings every snapshot to where it is wanted."""

    def __init__(self, world: World, store: Store, settings: Settings) -> None:
        self._world, self._store, self._settings = world, store, settings
        self._scheduler, self._now = world.scheduler, world.now
        self.woken: Callable[[SandboxId], None] = lambda _: None
        self._bell = asyncio.Event()
        self._busy: set[str] = set()
        # Builds may take long, and must not hold up what is over soon.
        self._builds = asyncio.Semaphore(_MOST_AT_ONCE)
        self._others = asyncio.Semaphore(_MOST_AT_ONCE)
        # An image is in no record between its making and the note of it: none is dropped then.
        self._making = 0
        self._is_collecting_due = False
        self._images = Images(world.scheduler, settings)
        self.output = StepOutput(settings.domains[0])

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
                    await self._tend()
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
                async with self._builds if snapshot.build else self._others:
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
            self.wake()  # who waits for it

    async def _make(self, snapshot: Snapshot) -> None:
        change, now = self._store.snapshots.change, self._now
        snapshot = await change(snapshot.id, lambda known: snapshot_states.making(known, now()))
        if snapshot.state not in {SnapshotState.PULLING, SnapshotState.BUILDING}:
            return
        self.wake()
        try:
            async with asyncio.timeout(_MAKE_SECONDS):
                image = await self._image(snapshot)
        except (WorkError, InvalidError, TimeoutError) as error:
            reason = _reason(error)
            logger.warning("no snapshot", extra={"snapshot": snapshot.id, "error": str(error)})
            await change(snapshot.id, lambda known: snapshot_states.failed(known, reason, now()))
            return
        await change(snapshot.id, lambda known: snapshot_states.made(known, image, now()))

    async def _image(self, snapshot: Snapshot) -> dict[str, Any]:
        """Make the image of a snapshot, of whatever kind, and return its description."""
        if snapshot.build is not None:
            steps = Steps(self._world, self._store, self._images, self.output, self.woken)
            builder = Builder(self._store, self._settings, self._images, steps)
            return await builder.build(snapshot, self._now())
        if snapshot.source_sandbox_id is not None:
            return await self._committed(snapshot, snapshot.source_sandbox_id)
        return await self._images.fetched(snapshot.image_name)

    async def _committed(self, snapshot: Snapshot, sandbox_id: str) -> dict[str, Any]:
        sandbox = await self._world.records.get(SandboxId(sandbox_id))
        if sandbox is None or sandbox.snapshotting != snapshot.id:
            if self._now() < snapshot.created_at + _MARKED_WITHIN:
                raise UnavailableError("the sandbox's record does not name its snapshot yet")
            raise InvalidError("the sandbox was deleted before its snapshot was made")
        return await self._images.committed(sandbox)

    # -- who waits -----------------------------------------------------------------------------

    async def _tend(self) -> None:
        """Let go on who waited for an image that is there, or will not be."""
        for sandbox in await self._store.sandboxes.awaiting():
            key = sandbox.snapshotting or sandbox.snapshot
            snapshot = await self._store.snapshots.get(sandbox.organization_id, key)
            change = await_image(sandbox, snapshot, self._now())
            if change is not None:
                with suppress(NotFoundError):
                    await self._world.records.change(sandbox.id, change)
                self.woken(sandbox.id)

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
        for old in await self._store.snapshots.outdated(self._now() - _KEEP_BUILDS):
            await self._store.snapshots.remove(old.id)
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


def _reason(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return f"it took longer than {_MAKE_SECONDS / 60:.0f} minutes"
    return error.reason if isinstance(error, WorkError) else str(error)
