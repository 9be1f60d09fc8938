"""The loop that brings every sandbox to where it is wanted.

Level triggered: a wake-up carries only an id, and what is done depends only on what there is. So
wake-ups may be lost, merged or doubled, and this process may die anywhere.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

from control.errors import UnavailableError, YurtError
from control.naming import SandboxId
from control.reconcile.apply import SCHEDULER_SECONDS, World, apply, bounded, send
from control.reconcile.plan import Seen, is_quiet, plan, should_ask
from control.reconcile.queue import KeyedQueue
from control.reconcile.strays import stray_disks

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from control.model import Sandbox
    from control.store import SandboxStore

logger = logging.getLogger(__name__)

T = TypeVar("T")

WORKERS = 64
STRAYS_SECONDS = 1800.0
_MOST_STEPS = 20
_PAUSE = timedelta(seconds=1)
_RETRY_SECONDS, _MOST_RETRY_SECONDS = 1.0, 15.0
_MOST_FAILURES = 10
# More orphans than this at once, and most of all there is: rather our records are wrong.
_FEW = 5


class Reconciler:
    """Takes ids from a queue and does what ``plan`` says until it says nothing more.

    Attributes:
        queue: the ids.
        troubles: what did not answer when it was last asked for everything, by its name.
        failures: how often a sandbox had to wait, by the name of the error.
        silences: how often a part did not answer when asked for everything, by its name.
        is_running: whether ``run`` is at work.
        resynced_at: when everything was last compared, by the monotonic clock.
    """

    def __init__(
        self,
        world: World,
        store: SandboxStore,
        *,
        resync: timedelta,
        chore: Callable[[], Awaitable[None]],
        waited: Callable[[float], None] = lambda _: None,
    ) -> None:
        """Prepare.

        Args:
            world: what is read and changed.
            store: the records, for the resync.
            resync: how often everything is looked at.
            chore: done at each resync.
            waited: told how long each sandbox waited for a worker, in seconds.
        """
        self._world, self._store = world, store
        self._resync_seconds = resync.total_seconds()
        self._chore = chore
        self._orphans: set[str] = set()
        self._sure: set[str] = set()
        self.queue = KeyedQueue(waited)
        self.troubles: dict[str, str] = {}
        self.failures: Counter[str] = Counter()
        self.silences: Counter[str] = Counter()
        self.is_running = False
        self.resynced_at: float | None = None

    def wake(self, sandbox_id: SandboxId) -> None:
        """Have a look at a sandbox soon."""
        self.queue.put(sandbox_id)

    async def run(self) -> None:
        """Work until cancelled; if one part fails, all end."""
        self.is_running = True
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._resync_for_ever())
                tasks.create_task(self._follow())
                tasks.create_task(self._look_for_strays())
                for _ in range(WORKERS):
                    tasks.create_task(self.queue.serve(self.reconcile, self._failed))
        finally:
            self.is_running = False
            self.queue.close()
            self.troubles.clear()

    async def reconcile(self, sandbox_id: SandboxId) -> timedelta | None:
        """Do what there is to do for one sandbox; return when to look again, if ever.

        Raises:
            YurtError: something cannot be done now; try again later.
        """
        for _ in range(_MOST_STEPS):
            sandbox, seen = await self._observe(sandbox_id)
            step = plan(sandbox, seen, self._world.now(), self._world.limits)
            if step.action is not None:
                await apply(self._world, sandbox_id, sandbox, seen, step.action)
            if not step.again:
                return step.wait
        return _PAUSE

    async def _observe(self, sandbox_id: SandboxId) -> tuple[Sandbox | None, Seen]:
        world = self._world
        sandbox = await world.records.get(sandbox_id)
        async with bounded("allocation", SCHEDULER_SECONDS):
            allocation = await world.scheduler.allocation(sandbox_id)
        seen = Seen(allocation, world.routes.get(sandbox_id), is_orphan=sandbox_id in self._sure)
        if sandbox is not None and should_ask(sandbox, seen, world.now(), world.limits):
            seen = Seen(allocation, seen.route, await self._ask(sandbox, seen))
        return sandbox, seen

    async def _ask(self, sandbox: Sandbox, seen: Seen) -> str | None:
        try:
            said = await send(self._world, sandbox, seen.allocation, {"op": "hello"})
        except UnavailableError:
            return None
        return str(said.get("phase"))

    async def _resync_for_ever(self) -> None:
        failures = 0
        while True:
            try:
                await self.resync()
                self.resynced_at = time.monotonic()
                await self._chore()
            except UnavailableError as error:
                logger.warning("resync failed", extra={"error": str(error)})
                await asyncio.sleep(min(_RETRY_SECONDS * 2**failures, _MOST_RETRY_SECONDS))
                failures = min(failures + 1, _MOST_FAILURES)
            else:
                failures = 0
                await asyncio.sleep(self._resync_seconds)

    async def resync(self) -> None:
        """Compare everything that there is with the records, and wake what does not fit.

        Raises:
            UnavailableError: a list was not complete; nothing was concluded from it.
        """
        world = self._world
        # Records last: a sandbox made meanwhile must not look like an orphan.
        listed = await self._asked("scheduler", world.scheduler.allocations)
        jobs = {found.sandbox_id: found for found in listed}
        routes = await self._asked("routes", world.routes.refresh)
        outlines = await self._store.survey()
        now = world.now()
        for outline in outlines:
            seen = Seen(jobs.get(outline.id), routes.get(outline.id))
            if not is_quiet(outline, seen, now, world.limits):
                self.queue.put(outline.id)
        everything = jobs.keys() | routes.keys()
        orphans = everything - {outline.id for outline in outlines}
        if len(orphans) > max(_FEW, len(everything) // 2):
            extra = {"orphans": len(orphans), "known": len(outlines)}
            logger.error("most sandboxes have no record: none is touched", extra=extra)
            orphans = set()
        # What was created by another control may be ahead of our records once, not twice.
        self._sure = orphans & self._orphans
        self._orphans = orphans
        for sandbox_id in self._sure:
            self.queue.put(SandboxId(sandbox_id))

    async def _asked(self, part: str, ask: Callable[[], Awaitable[T]]) -> T:
        """Ask for everything, and keep whether that was answered."""
        try:
            async with bounded(f"listing of {part}", SCHEDULER_SECONDS):
                everything = await ask()
        except UnavailableError as error:
            self.troubles[part] = str(error)
            self.silences[part] += 1
            raise
        self.troubles.pop(part, None)
        return everything

    async def _look_for_strays(self) -> None:
        while True:
            await asyncio.sleep(STRAYS_SECONDS)
            try:
                found = await stray_disks(
                    self._world.scheduler, self._store, self._world.volumes.store
                )
            except UnavailableError as error:
                logger.warning("disks cannot be listed", extra={"error": str(error)})
                continue
            for node, disks in found.items():
                if disks:
                    extra = {"node": node, "sandboxes": disks}
                    logger.warning("disks have no record; they are left alone", extra=extra)

    async def _follow(self) -> None:
        while True:
            try:
                async for sandbox_id in self._world.scheduler.changes():
                    self.queue.put(SandboxId(sandbox_id))
            except UnavailableError as error:
                self.silences["scheduler"] += 1
                logger.warning("the scheduler's changes are cut off", extra={"error": str(error)})
            await asyncio.sleep(_RETRY_SECONDS)

    def _failed(self, sandbox_id: SandboxId, error: Exception) -> None:
        self.failures[type(error).__name__] += 1
        if isinstance(error, YurtError):
            extra = {"sandbox_id": sandbox_id, "error": str(error)}
            logger.warning("a sandbox has to wait", extra=extra)
        else:
            logger.exception("reconcile failed", extra={"sandbox_id": sandbox_id})
