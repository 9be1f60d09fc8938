"""The records of sandboxes for everything in this process, with a bell for those who wait.

All changes go through here, so whoever waits for one is woken by it and nobody polls.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

from control.lifecycle import not_found
from control.model import STARTING_STATES
from control.naming import is_sandbox_id

if TYPE_CHECKING:
    from collections.abc import Callable

    from control.model import DesiredState, Sandbox, State
    from control.naming import SandboxId
    from control.store import SandboxStore


class Records:
    """Reads, changes and waits.

    Attributes:
        listener: told of each record whose state or desired state changed, by whatever process:
            which these were, None for a new one, and what the record is now.
    """

    def __init__(self, store: SandboxStore) -> None:
        self._store = store
        self._closing = False
        self._bells: dict[SandboxId, set[_Bell]] = {}
        self._seen: dict[SandboxId, tuple[State, DesiredState]] = {}
        self.listener: Callable[[tuple[State, DesiredState] | None, Sandbox], None] | None = None

    async def get(self, sandbox_id: SandboxId) -> Sandbox | None:
        """Return the record, None if there is none."""
        return await self._store.get(sandbox_id)

    async def find(self, organization_id: str, id_or_name: str) -> Sandbox:
        """Return the record with this id or name that an organisation has.

        Raises:
            NotFoundError: it has none; another's is none.
        """
        if is_sandbox_id(id_or_name):
            sandbox = await self._store.get(id_or_name)
        else:
            sandbox = await self._store.named(organization_id, id_or_name)
        if sandbox is None or sandbox.organization_id != organization_id or sandbox.hidden:
            raise not_found(id_or_name)
        return sandbox

    async def insert(self, sandbox: Sandbox, *, most: int) -> None:
        """See ``SandboxStore.insert``."""
        await self._store.insert(sandbox, most=most)
        self._tell(sandbox, None)

    async def change(self, sandbox_id: SandboxId, mutate: Callable[[Sandbox], Sandbox]) -> Sandbox:
        """See ``SandboxStore.change``."""
        old: Sandbox | None = None

        def noted(record: Sandbox) -> Sandbox:
            nonlocal old
            old = record
            return mutate(record)

        changed = await self._store.change(sandbox_id, noted)
        self._tell(changed, old)
        self._ring(sandbox_id, changed)
        return changed

    async def remove(self, sandbox_id: SandboxId) -> None:
        """See ``SandboxStore.remove``."""
        await self._store.remove(sandbox_id)
        self._seen.pop(sandbox_id, None)
        self._ring(sandbox_id)

    async def wait(
        self, sandbox: Sandbox, until: Callable[[Sandbox], bool], seconds: float
    ) -> Sandbox:
        """Return the record as soon as ``until`` holds for it, else as it is after ``seconds``.

        Raises:
            NotFoundError: it was removed meanwhile.
        """
        bell = _Bell()
        bells = self._bells.setdefault(sandbox.id, set())
        bells.add(bell)
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        news = None
        try:
            while not until(sandbox := news or await self._still_there(sandbox.id)):
                if self._closing or loop.time() >= end:
                    break
                # Only this is cut off: a read that is cancelled costs its connection.
                with suppress(TimeoutError):
                    await asyncio.wait_for(bell.wait(), end - loop.time())
                news = bell.take()
        finally:
            bells.discard(bell)
            if not bells:
                self._bells.pop(sandbox.id, None)
        return sandbox

    async def _still_there(self, sandbox_id: SandboxId) -> Sandbox:
        sandbox = await self._store.get(sandbox_id)
        if sandbox is None:
            raise not_found(sandbox_id)
        return sandbox

    async def follow(self, sandbox_id: SandboxId) -> None:
        """Tell of a record that another process changed, and wake those who wait for it.

        Raises:
            UnavailableError: the record cannot be read.
        """
        sandbox = await self._store.get(sandbox_id)
        if sandbox is not None:
            self._tell(sandbox, None)
        self._ring(sandbox_id)

    def _tell(self, sandbox: Sandbox, old: Sandbox | None) -> None:
        """Say what became of a record, against what was said of it, or what it was."""
        if sandbox.hidden:
            return
        said = self._seen.get(sandbox.id)
        if said is None and old is not None:
            said = old.state, old.desired_state
        now = sandbox.state, sandbox.desired_state
        self._seen[sandbox.id] = now
        is_new = said is None and sandbox.run.generation == 1 and sandbox.state in STARTING_STATES
        if self.listener is not None and (is_new or said not in {None, now}):
            self.listener(said, sandbox)

    def close(self) -> None:
        """Let nobody wait any longer: this process is about to end."""
        self._closing = True
        for sandbox_id in list(self._bells):
            self._ring(sandbox_id)

    def _ring(self, sandbox_id: SandboxId, news: Sandbox | None = None) -> None:
        for bell in self._bells.get(sandbox_id, ()):
            # Of two changes at once, the one that is told last need not be the last.
            bell.news = None if bell.is_set() else news
            bell.set()


class _Bell(asyncio.Event):
    """Wakes one who waits for a record; ``news`` is that record, None if it is to be read."""

    news: Sandbox | None = None

    def take(self) -> Sandbox | None:
        """Make ready for the next ring, and return what came with the last."""
        news, self.news = self.news, None
        self.clear()
        return news
