"""Which of several controls reconciles: the one that holds the lease."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

from control.errors import UnavailableError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

logger = logging.getLogger(__name__)

LEASE_SECONDS = 15.0
_RENEWALS = 3  # tries within the time of one lease


class Leases(Protocol):
    """Where leases are kept."""

    async def lease(self, name: str, holder: str, seconds: float) -> bool:
        """Take or renew a lease; False while another has it."""
        ...

    async def release(self, name: str, holder: str) -> None:
        """Give a lease back; one that is another's stays so."""
        ...


class Leader:
    """Lets something run only while this process holds a lease."""

    def __init__(
        self, leases: Leases, name: str, holder: str, *, seconds: float = LEASE_SECONDS
    ) -> None:
        """Prepare; a ``holder`` that was killed has its lease again at once under its old name."""
        self._leases, self._name, self._holder = leases, name, holder
        self._seconds, self._pause = seconds, seconds / _RENEWALS
        self.leads = False

    async def lead(self, work: Callable[[], Awaitable[None]], stand_by: Callable[[], None]) -> None:
        """Run ``work`` whenever the lease is ours, until cancelled or ``work`` fails.

        Args:
            work: is cancelled as soon as the lease may be another's.
            stand_by: called each time that the lease is not to be had.
        """
        clock = asyncio.get_running_loop().time
        while True:
            asked = clock()
            if not await self._ask(self._seconds):
                stand_by()
                await asyncio.sleep(self._pause)
                continue
            logger.info("this control reconciles", extra={"holder": self._holder})
            await self._work(work, asked + self._seconds)
            logger.warning("this control stands by", extra={"holder": self._holder})

    async def _work(self, work: Callable[[], Awaitable[None]], until: float) -> None:
        self.leads = True
        working = asyncio.ensure_future(work())
        keeping = asyncio.ensure_future(self._keep(until))
        try:
            await asyncio.wait({working, keeping}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self.leads = False
            working.cancel()
            keeping.cancel()
            await asyncio.gather(working, keeping, return_exceptions=True)
            with suppress(UnavailableError, TimeoutError):
                async with asyncio.timeout(self._pause):
                    await self._leases.release(self._name, self._holder)
        for task in (working, keeping):
            if not task.cancelled():
                task.result()

    async def _keep(self, until: float) -> None:
        """Renew the lease; return when it is lost, or may be."""
        clock = asyncio.get_running_loop().time
        while (left := until - clock()) > 0:
            await asyncio.sleep(min(self._pause, left))
            asked = clock()
            is_ours = await self._ask(until - asked)
            if is_ours:
                until = asked + self._seconds
            elif is_ours is not None:
                return

    async def _ask(self, most: float) -> bool | None:
        """Take or renew the lease; None if nobody can tell whether that was done."""
        try:
            async with asyncio.timeout(max(most, 0)):
                return await self._leases.lease(self._name, self._holder, self._seconds)
        except (UnavailableError, TimeoutError) as error:
            logger.warning("the lease cannot be asked for", extra={"error": str(error)})
            return None
