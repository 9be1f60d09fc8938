"""A queue of ids to look at: merged, each handled by one worker at a time, with times to wait."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from datetime import timedelta

    from control.naming import SandboxId

_BACKOFF_SECONDS = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)


class KeyedQueue:
    """Ids that wait for a worker.

    An id that is put while it waits is merged; put while a worker has it, it is handed out again
    afterwards. So a wake-up is never lost and no two workers have the same id.
    """

    def __init__(self, waited: Callable[[float], None] = lambda _: None) -> None:
        """Prepare; ``waited`` is told how many seconds each id was ready before it was taken."""
        self._waited = waited
        self._since: dict[SandboxId, float] = {}
        self._ready: asyncio.Queue[SandboxId] = asyncio.Queue()
        self._waiting: set[SandboxId] = set()
        self._busy: set[SandboxId] = set()
        self._again: set[SandboxId] = set()
        self._timers: dict[SandboxId, asyncio.TimerHandle] = {}
        self._failures: dict[SandboxId, int] = {}

    def put(self, sandbox_id: SandboxId) -> None:
        """Hand out an id as soon as possible."""
        self._cancel(sandbox_id)
        if sandbox_id in self._busy:
            self._again.add(sandbox_id)
        elif sandbox_id not in self._waiting:
            self._waiting.add(sandbox_id)
            self._since[sandbox_id] = time.monotonic()
            self._ready.put_nowait(sandbox_id)

    def put_after(self, sandbox_id: SandboxId, wait: timedelta) -> None:
        """Hand out an id after a while, unless it is handed out sooner for another reason."""
        self._put_later(sandbox_id, wait.total_seconds())

    def put_backoff(self, sandbox_id: SandboxId) -> None:
        """Hand out an id after a while that grows with each failure in a row."""
        failures = self._failures.get(sandbox_id, 0)
        self._failures[sandbox_id] = failures + 1
        self._put_later(sandbox_id, _BACKOFF_SECONDS[min(failures, len(_BACKOFF_SECONDS) - 1)])

    def forget(self, sandbox_id: SandboxId) -> None:
        """Forget the failures of an id."""
        self._failures.pop(sandbox_id, None)

    async def get(self) -> SandboxId:
        """Take the next id; ``done`` must be called with it."""
        sandbox_id = await self._ready.get()
        self._waiting.discard(sandbox_id)
        self._waited(time.monotonic() - self._since.pop(sandbox_id))
        self._busy.add(sandbox_id)
        self._cancel(sandbox_id)
        return sandbox_id

    def done(self, sandbox_id: SandboxId) -> None:
        """Give an id back."""
        self._busy.discard(sandbox_id)
        if sandbox_id in self._again:
            self._again.discard(sandbox_id)
            self.put(sandbox_id)

    async def serve(
        self,
        look: Callable[[SandboxId], Awaitable[timedelta | None]],
        failed: Callable[[SandboxId, Exception], None],
    ) -> None:
        """Look at each id as it comes, until cancelled; what fails is tried again, later and later.

        Args:
            look: returns after what time to look again, None for not by itself.
            failed: is told of each error, while it is handled.
        """
        while True:
            sandbox_id = await self.get()
            try:
                wait = await look(sandbox_id)
            except Exception as error:  # noqa: BLE001 - whoever asked for it says what it was
                failed(sandbox_id, error)
                self.put_backoff(sandbox_id)
            else:
                self.forget(sandbox_id)
                if wait is not None:
                    self.put_after(sandbox_id, wait)
            finally:
                self.done(sandbox_id)

    @property
    def is_idle(self) -> bool:
        """Tell whether nothing is ready and no worker has anything; timers do not count."""
        return not (self._waiting or self._busy)

    @property
    def lengths(self) -> tuple[int, int]:
        """How many ids wait for a worker, and how many have one."""
        return len(self._waiting), len(self._busy)

    def __contains__(self, sandbox_id: object) -> bool:
        """Tell whether an id waits, is in work, or has its time."""
        return any(sandbox_id in ids for ids in (self._waiting, self._busy, self._timers))

    def clear(self) -> None:
        """Drop everything that no worker has."""
        self.close()
        self._waiting.clear()
        self._since.clear()
        self._again.clear()
        self._failures.clear()
        while not self._ready.empty():
            self._ready.get_nowait()

    def close(self) -> None:
        """Drop all timers."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()

    def _put_later(self, sandbox_id: SandboxId, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        timer = self._timers.get(sandbox_id)
        if timer is not None and timer.when() <= loop.time() + seconds:
            return
        self._cancel(sandbox_id)
        self._timers[sandbox_id] = loop.call_later(seconds, self.put, sandbox_id)

    def _cancel(self, sandbox_id: SandboxId) -> None:
        timer = self._timers.pop(sandbox_id, None)
        if timer is not None:
            timer.cancel()
