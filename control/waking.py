"""Sandboxes that stopped by themselves start again for whoever wants to use them.

Who that is, is a pure decision about a request; of many who wait, one starts the sandbox.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from control import lifecycle
from control.errors import UnavailableError
from control.model import STARTING_STATES, State
from jobs.runner.gate_cookie import is_navigation

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime

    from control.model import Sandbox
    from control.naming import SandboxId
    from control.records import Records

logger = logging.getLogger(__name__)

MOST_WAITING = 1024
MOST_WAITING_FOR_ONE = 256
_ASLEEP_STATES = frozenset({State.STOPPED, State.ARCHIVING, State.ARCHIVED})


def is_use(fields: Mapping[bytes, bytes], *, is_preview: bool, has_credential: bool) -> bool:
    """Tell whether a request that may enter starts a sandbox that stopped by itself.

    What pages ask for in the background does not: one that was left open would keep its sandbox
    up for ever. Programs send a credential, browsers tell where a request comes from.
    """
    if fields.get(b"x-daytona-skip-last-activity-update", b"").lower() == b"true":
        return False
    if not is_preview or fields.get(b"upgrade", b"").lower() == b"websocket":
        return True
    is_background = b"sec-fetch-site" in fields
    return is_navigation(fields) or (has_credential and not is_background)


def wake(sandbox: Sandbox, now: datetime) -> Sandbox:
    """Start a sandbox that stopped by itself; any other stays as it is.

    Raises:
        NotFoundError: it was deleted.
    """
    if sandbox.state not in _ASLEEP_STATES or not sandbox.wakes:
        return sandbox
    return lifecycle.start(sandbox, now)


class Waker:
    """Starts sandboxes, each once for all who wait, and lets only so many wait.

    Args:
        look: has a look taken at a sandbox soon.
        seconds: how long a start is waited for.
    """

    def __init__(
        self,
        records: Records,
        look: Callable[[SandboxId], None],
        now: Callable[[], datetime],
        seconds: float,
    ) -> None:
        self._records, self._look, self._now, self._seconds = records, look, now, seconds
        self._waking: dict[SandboxId, asyncio.Task[Sandbox]] = {}
        self._waiting: dict[SandboxId, int] = {}

    async def wait(
        self, sandbox: Sandbox, *, wakes: bool, most_seconds: float | None = None
    ) -> Sandbox:
        """Return the record when it is up, has failed, or is as it is when that takes too long.

        One that sleeps and may be woken is started if ``wakes``; else only what is starting
        anyway is waited for.

        Raises:
            UnavailableError: too many wait already, or something cannot be asked.
            InvalidError: its organisation may not use that much.
            NotFoundError: it is gone.
        """
        sandbox_id = sandbox.id
        sleeps = sandbox.wakes and sandbox.state in {*_ASLEEP_STATES, State.STOPPING}
        if sandbox.state not in STARTING_STATES and not (wakes and sleeps):
            return sandbox
        if (
            self._waiting.get(sandbox_id, 0) >= MOST_WAITING_FOR_ONE
            or sum(self._waiting.values()) >= MOST_WAITING
        ):
            raise UnavailableError("too many requests wait for sandboxes to start; try again")
        self._waiting[sandbox_id] = self._waiting.get(sandbox_id, 0) + 1
        try:
            waking = self._begun(sandbox)
            done, _ = await asyncio.wait({waking}, timeout=most_seconds)
            return waking.result() if done else await self._records.get(sandbox_id) or sandbox
        finally:
            self._waiting[sandbox_id] -= 1
            if not self._waiting[sandbox_id]:
                del self._waiting[sandbox_id]

    def _begun(self, sandbox: Sandbox) -> asyncio.Task[Sandbox]:
        known = self._waking.get(sandbox.id)
        if known is not None:
            return known
        waking = asyncio.ensure_future(self._bring_up(sandbox))
        self._waking[sandbox.id] = waking
        waking.add_done_callback(lambda ended: self._end(sandbox.id, ended))
        return waking

    def _end(self, sandbox_id: SandboxId, ended: asyncio.Task[Sandbox]) -> None:
        del self._waking[sandbox_id]
        if not ended.cancelled():
            ended.exception()  # nobody may have waited to the end

    async def _bring_up(self, sandbox: Sandbox) -> Sandbox:
        stopped = await self._records.wait(
            sandbox, lambda s: s.state is not State.STOPPING, self._seconds
        )
        now = self._now()
        woken = await self._records.change(stopped.id, lambda record: wake(record, now))
        if woken.run.generation != stopped.run.generation:
            logger.info("wake", extra={"sandbox_id": sandbox.id})
            self._look(sandbox.id)
        return await self._records.wait(
            woken, lambda s: s.state not in STARTING_STATES, self._seconds
        )

    def close(self) -> None:
        """Let nobody wait any longer."""
        for waking in self._waking.values():
            waking.cancel()
