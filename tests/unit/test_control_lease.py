"""At most one control reconciles, and another soon after that one is gone."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, ClassVar

import pytest

from control.errors import UnavailableError
from control.reconcile.lease import Leader
from tests.support.control_rig import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.unit

SECONDS = 0.15


class Leases:
    """One lease, on the clock of the loop."""

    def __init__(self) -> None:
        self.holder, self.until = "", 0.0
        self.is_away = self.is_hanging = False

    async def lease(self, name: str, holder: str, seconds: float) -> bool:
        await asyncio.sleep(0)
        if self.is_hanging:
            await asyncio.Event().wait()
        if self.is_away:
            raise UnavailableError("the database does not answer")
        now = asyncio.get_running_loop().time()
        if self.holder not in {"", holder} and now < self.until:
            return False
        self.holder, self.until = holder, now + seconds
        return True

    async def release(self, name: str, holder: str) -> None:
        await asyncio.sleep(0)
        if self.is_away:
            raise UnavailableError("the database does not answer")
        if self.holder == holder:
            self.holder = ""


class Control:
    """Something that may work in one place at a time."""

    working: ClassVar[list[str]] = []

    def __init__(self, leases: Leases, name: str) -> None:
        self.name, self.stood_by = name, 0
        self.leader = Leader(leases, "reconcile", name, seconds=SECONDS)

    async def work(self) -> None:
        assert self.working == []
        self.working.append(self.name)
        try:
            await asyncio.Event().wait()
        finally:
            self.working.remove(self.name)

    def stand_by(self) -> None:
        self.stood_by += 1


@asynccontextmanager
async def leading(*controls: Control) -> AsyncIterator[list[asyncio.Task[None]]]:
    tasks = [asyncio.create_task(c.leader.lead(c.work, c.stand_by)) for c in controls]
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert Control.working == []


async def works(name: str) -> None:
    async def does() -> bool:
        await asyncio.sleep(0)
        return Control.working == [name]

    await eventually(does)


async def test_one_works_and_the_other_follows_when_it_ends() -> None:
    leases = Leases()
    first, second = Control(leases, "first"), Control(leases, "second")
    async with leading(first, second) as (task, _):
        await works("first")
        await asyncio.sleep(3 * SECONDS)
        assert Control.working == ["first"]
        assert (first.leader.leads, second.leader.leads) == (True, False)
        assert second.stood_by > 1
        task.cancel()
        await works("second")


async def test_a_lease_that_another_took_ends_the_work_at_once() -> None:
    leases = Leases()
    async with leading(Control(leases, "first")):
        await works("first")
        leases.holder, leases.until = "other", asyncio.get_running_loop().time() + SECONDS
        await asyncio.sleep(SECONDS / 2)
        assert Control.working == []
        await works("first")


@pytest.mark.parametrize("fault", ["is_away", "is_hanging"])
async def test_who_cannot_renew_a_lease_works_no_longer_than_it_lasts(fault: str) -> None:
    leases = Leases()
    async with leading(Control(leases, "first")):
        await works("first")
        setattr(leases, fault, True)
        await asyncio.sleep(SECONDS / 3)
        assert Control.working == ["first"]
        await asyncio.sleep(SECONDS)
        assert Control.working == []
        setattr(leases, fault, False)
        await works("first")


async def test_work_that_fails_is_not_hidden() -> None:
    async def fail() -> None:
        await asyncio.sleep(0)
        raise ValueError("broken")

    leases = Leases()
    with pytest.raises(ValueError, match="broken"):
        await Leader(leases, "reconcile", "first", seconds=SECONDS).lead(fail, lambda: None)
    assert leases.holder == ""
