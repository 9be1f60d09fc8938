"""The loop that ends what nobody uses: it stops, archives, deletes, and warns before.

It changes records, as users do, and reconcile does the rest. A stop has two phases: the gate lets
nobody in any more, or refuses as somebody came meanwhile; only then the record changes.
"""

from __future__ import annotations

import asyncio
import logging
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from control import lifecycle
from control.archives import new_archive_key
from control.errors import ConflictError, NotFoundError, UnavailableError, YurtError
from control.listing import Filter
from control.model import State
from control.reconcile.apply import SCHEDULER_SECONDS, World, bounded, send
from control.reconcile.clock import Clock, steady_seconds
from control.reconcile.collect import Archive, Budget, Delete, Limits, Stop, Use, Warn, verdict
from control.reconcile.queue import KeyedQueue

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime

    from control.model import Sandbox
    from control.naming import SandboxId
    from control.reconcile.collect import Action
    from control.store import SandboxStore
    from jobs.scheduler import Allocation

logger = logging.getLogger(__name__)

WORKERS = 8
FEED_SECONDS = 5.0
# So long a gate stays closed by itself, and so soon after asking the record must have changed.
_QUIET_SECONDS, _DECIDE_SECONDS = 20.0, 10.0
# Stops are confirmed by each gate, and cost a start; what else timers do costs more.
_STOP_SHARE, _FEW_STOPS, _FEW_ENDS = 0.5, 50, 10
_HELD_BACK = timedelta(seconds=10)
_LATER = timedelta(minutes=10)
_SOON = timedelta(seconds=1)


class Collector:
    """Looks at sandboxes whose timers are due.

    Attributes:
        queue: the ids.
    """

    def __init__(
        self,
        world: World,
        store: SandboxStore,
        wake: Callable[[SandboxId], None],
        *,
        limits: Limits,
        share: float,
        steady: Callable[[], float] = steady_seconds,
    ) -> None:
        """Prepare.

        Args:
            world: what is read and changed.
            store: finds what is due.
            wake: has reconcile look at a sandbox.
            limits: see ``verdict``.
            share: of all sandboxes that may be deleted or archived in one minute.
            steady: a clock that nobody can set, in seconds.
        """
        self._world, self._store, self._wake = world, store, wake
        self._limits, self._steady = limits, steady
        self._clock = Clock(world.now, steady)
        self._jumps: object = None
        self._dues: Mapping[SandboxId, datetime] = {}
        self._stops = Budget(_STOP_SHARE, _FEW_STOPS)
        self._ends = Budget(share, _FEW_ENDS)
        self.queue = KeyedQueue()

    async def run(self) -> None:
        """Work until cancelled."""
        self._jumps = None
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._feed_for_ever())
                for _ in range(WORKERS):
                    tasks.create_task(self.queue.serve(self.look, _failed))
        finally:
            self.queue.clear()

    async def _feed_for_ever(self) -> None:
        while True:
            try:
                await self.feed()
            except UnavailableError as error:
                logger.warning("timers cannot be read", extra={"error": str(error)})
            await asyncio.sleep(FEED_SECONDS)

    async def feed(self) -> None:
        """Put what is due into the queue; after the clock was set, also all that is started.

        What is in the queue has its time by a clock that nobody can set. But that was found for
        the record of then: where it is due by another time now, it is looked at again.

        Raises:
            UnavailableError: the records cannot be read.
        """
        times = self._clock.look()
        is_news = times.jumps != self._jumps
        if is_news and times.jumps:
            extra = {"was": times.jumps[-1].left, "is": times.jumps[-1].landed}
            logger.warning("the clock was set; timers go on as if it was not", extra=extra)
        dues = await self._store.due(times.now, running=is_news)
        for sandbox_id, due in dues.items():
            if sandbox_id not in self.queue or self._dues.get(sandbox_id) != due:
                self.queue.put(sandbox_id)
        self._dues, self._jumps = dues, times.jumps

    async def look(self, sandbox_id: SandboxId) -> timedelta | None:
        """Do what the timers of a sandbox ask for; return when to look again.

        Raises:
            YurtError: something cannot be done now; nothing was ended.
        """
        sandbox = await self._world.records.get(sandbox_id)
        if sandbox is None:
            return None
        use, allocation = Use(), None
        if sandbox.state is State.STARTED:
            async with bounded("allocation", SCHEDULER_SECONDS):
                allocation = await self._world.scheduler.allocation(sandbox_id)
            sandbox, use = await self._ask(sandbox, allocation)
        found = verdict(sandbox, use, self._clock.look(), self._limits)
        if found.action is not None:
            wait = await self._do(found.action, sandbox, allocation)
            if wait is not None:
                return wait
        # What is due by its record alone would come again with every feed.
        return _LATER if found.wait is None else found.wait

    async def _ask(self, sandbox: Sandbox, allocation: Allocation | None) -> tuple[Sandbox, Use]:
        """Ask a gate when its sandbox was last used, and note that."""
        if allocation is None or not allocation.running or not allocation.reachable:
            return sandbox, Use()
        try:
            said = await send(self._world, sandbox, allocation, {"op": "idle"})
        except UnavailableError:
            return sandbox, Use()
        if said.get("phase") != "ready" or "idle_seconds" not in said:
            return sandbox, Use()  # it comes up or ends, or is older than this
        use = Use(timedelta(seconds=said["idle_seconds"]), bool(said["warned"]))
        at, generation = self._world.now() - (use.idle or _SOON), sandbox.run.generation
        noted = await self._world.records.change(
            sandbox.id, lambda record: lifecycle.active(record, generation, at)
        )
        return noted, use

    async def _do(
        self, action: Action, sandbox: Sandbox, allocation: Allocation | None
    ) -> timedelta | None:
        match action:
            case Warn(left):
                return await self._warn(sandbox, allocation, left)
            case Stop(idle):
                if not await self._may(self._stops, sandbox, action):
                    return _HELD_BACK
                return await self._stop(sandbox, allocation, idle)
            case Delete(why):
                if not await self._may(self._ends, sandbox, action):
                    return _HELD_BACK
                return await self._delete(sandbox, why)
            case Archive():
                if not await self._may(self._ends, sandbox, action):
                    return _HELD_BACK
                return await self._archive(sandbox)

    async def _may(self, budget: Budget, sandbox: Sandbox, action: Action) -> bool:
        everything = await self._store.count(Filter())
        allowed = budget.take(self._steady(), everything)
        if not allowed:
            extra = {"sandbox_id": sandbox.id, "action": type(action).__name__}
            logger.error("too many timers are over at once: the rest waits", extra=extra)
        return allowed

    async def _warn(
        self, sandbox: Sandbox, allocation: Allocation | None, left: timedelta
    ) -> timedelta | None:
        at = (self._world.now() + left).isoformat(timespec="seconds")
        await send(self._world, sandbox, allocation, {"op": "warn", "at": at})
        extra = {"sandbox_id": sandbox.id, "at": at}
        logger.info("a sandbox will be stopped unless somebody uses it", extra=extra)
        return None

    async def _stop(
        self, sandbox: Sandbox, allocation: Allocation | None, idle: timedelta
    ) -> timedelta | None:
        asked = self._steady()
        wanted = idle.total_seconds()
        order = {"op": "quiesce", "idle_seconds": wanted, "seconds": _QUIET_SECONDS}
        said = await send(self._world, sandbox, allocation, order)
        if not said.get("closed"):
            return _still_used(said, wanted)
        now = self._world.now()

        def collected(record: Sandbox) -> Sandbox:
            if self._steady() > asked + _DECIDE_SECONDS:
                raise ConflictError("the gate may be open again")
            return lifecycle.collect(record, sandbox, now)

        try:
            await self._world.records.change(sandbox.id, collected)
        except (ConflictError, NotFoundError):
            await send(self._world, sandbox, allocation, {"op": "reopen"})
            return _SOON
        extra = {"sandbox_id": sandbox.id, "idle_seconds": round(said["idle_seconds"])}
        logger.info("stopped as nobody used it", extra=extra)
        self._wake(sandbox.id)
        return None

    async def _archive(self, sandbox: Sandbox) -> timedelta | None:
        now, key = self._world.now(), new_archive_key()
        return await self._end(
            sandbox, lambda record: lifecycle.shelve(record, sandbox, now, key), "stopped for long"
        )

    async def _delete(self, sandbox: Sandbox, why: str) -> timedelta | None:
        now = self._world.now()
        return await self._end(sandbox, lambda record: lifecycle.expire(record, sandbox, now), why)

    async def _end(
        self, sandbox: Sandbox, change: Callable[[Sandbox], Sandbox], why: str
    ) -> timedelta | None:
        try:
            changed = await self._world.records.change(sandbox.id, change)
        except (ConflictError, NotFoundError):
            return _SOON
        extra = {"sandbox_id": sandbox.id, "state": changed.state.value, "why": why}
        logger.info("ended by its timer", extra=extra)
        self._wake(sandbox.id)
        return None


def _still_used(said: Mapping[str, Any], wanted: float) -> timedelta:
    """Return when it could be idle for long enough."""
    return max(_SOON, timedelta(seconds=wanted - float(said.get("idle_seconds", wanted))))


def _failed(sandbox_id: SandboxId, error: Exception) -> None:
    if isinstance(error, YurtError):
        extra = {"sandbox_id": sandbox_id, "error": str(error)}
        logger.info("a timer has to wait", extra=extra)
    else:
        logger.exception("collect failed", extra={"sandbox_id": sandbox_id})
