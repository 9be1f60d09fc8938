"""Run one step of a build in a sandbox of its own, and make an image of what it left.

The sandbox is hidden, of the organisation whose build it is, and confined and limited as every
other one; the step is its entrypoint. So nothing that a tenant writes runs anywhere else.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from control import lifecycle
from control.errors import InvalidError, NotFoundError, UnavailableError
from control.listing import Filter, Order
from control.model import STARTING_STATES, Intervals, Sandbox, Secrets, State
from control.naming import new_sandbox_id

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

    from control.model import Resources, Snapshot
    from control.naming import SandboxId
    from control.reconcile.apply import World
    from control.reconcile.images import Images
    from control.step_output import StepOutput
    from control.store import Store

MARK = "yurt.build"
STEP_SECONDS = 1800
_START_SECONDS = 300.0
_STOP_SECONDS = 120.0
_LOOK_SECONDS = 1.0
_LIFE_MINUTES = 60  # should everybody forget it
_NO_SANDBOX = "the sandbox of this step"


@dataclass(frozen=True, slots=True)
class Step:
    """What is run: on which image, as whom, where, and with which environment."""

    image_id: str
    command: tuple[str, ...]
    user: str
    workdir: str
    env: Mapping[str, str] = field(default_factory=dict)


class Steps:
    """Runs the steps of one build after each other."""

    def __init__(
        self,
        world: World,
        store: Store,
        images: Images,
        output: StepOutput,
        wake: Callable[[SandboxId], None],
    ) -> None:
        self._world, self._store, self._images = world, store, images
        self._output, self._wake = output, wake

    async def run(
        self,
        build: Snapshot,
        step: Step,
        resources: Resources,
        say: Callable[[bytes], Awaitable[None]],
    ) -> dict[str, Any]:
        """Run a step and return the description of the image that it makes.

        Args:
            build: whose step it is.
            step: what is run.
            resources: of the sandbox.
            say: is given what the step says.

        Raises:
            InvalidError: it failed, or could not be run; the text says why.
            WorkError: no image can be made of what it left.
            UnavailableError: not now.
        """
        sandbox = self._described(build, step, resources)
        await self._world.records.insert(sandbox, most=1 << 30)
        self._wake(sandbox.id)
        try:
            started = await self._until(
                sandbox, lambda s: s.state not in STARTING_STATES, _START_SECONDS
            )
            if started.state is not State.STARTED:
                raise InvalidError(f"{_NO_SANDBOX} did not start: {started.error_reason}")
            await self._watch(started, say)
            return await self._images.committed(await self._stopped(started))
        finally:
            await self._delete(sandbox.id)

    def _described(self, build: Snapshot, step: Step, resources: Resources) -> Sandbox:
        now, sandbox_id = self._world.now(), new_sandbox_id()
        intervals = Intervals(stop=0, ttl=_LIFE_MINUTES)
        return Sandbox(
            id=sandbox_id,
            name=f"_{sandbox_id}",
            organization_id=build.organization_id,
            snapshot=build.name,
            image_id=step.image_id,
            user=step.user or "root",
            entrypoint=step.command,
            workdir=step.workdir,
            labels={MARK: build.id},
            resources=resources,
            intervals=intervals,
            destroy_at=intervals.end(now),
            hidden=True,
            created_at=now,
            updated_at=now,
            changed_at=now,
            last_activity_at=now,
            secrets=Secrets(env=step.env),
        )

    async def _watch(self, sandbox: Sandbox, say: Callable[[bytes], Awaitable[None]]) -> None:
        """Pass on what the step says until it has ended.

        Raises:
            InvalidError: it failed, took too long, or its sandbox ended.
        """
        heard = _Heard(say)
        try:
            async with asyncio.timeout(STEP_SECONDS):
                while (code := await self._listen(sandbox, heard)) is None:
                    await self._require_started(sandbox.id)
                    await asyncio.sleep(_LOOK_SECONDS)
        except TimeoutError as error:
            raise InvalidError(f"it took longer than {STEP_SECONDS // 60} minutes") from error
        if code:
            raise InvalidError(f"it failed with exit code {code}")

    async def _listen(self, sandbox: Sandbox, heard: _Heard) -> int | None:
        """Listen as long as that goes, and return how the step ended, if it has."""
        try:
            allocation = await self._world.scheduler.allocation(sandbox.id)
            if allocation is None:
                return None
            await heard.all(self._output.follow(sandbox, allocation))
            return await self._output.exit_code(sandbox, allocation)
        except UnavailableError:
            return None

    async def _require_started(self, sandbox_id: SandboxId) -> None:
        there = await self._world.records.get(sandbox_id)
        if there is None or there.state not in {State.STARTED, State.UNKNOWN}:
            reason = (there and there.error_reason) or "it was deleted"
            raise InvalidError(f"{_NO_SANDBOX} ended: {reason}")

    async def _stopped(self, sandbox: Sandbox) -> Sandbox:
        records, now = self._world.records, self._world.now()
        await records.change(sandbox.id, lambda record: lifecycle.stop(record, now))
        self._wake(sandbox.id)
        stopped = await self._until(sandbox, lambda s: s.state is not State.STOPPING, _STOP_SECONDS)
        if stopped.state is not State.STOPPED:
            raise InvalidError(f"{_NO_SANDBOX} did not stop: {stopped.error_reason}")
        return stopped

    async def _until(
        self, sandbox: Sandbox, done: Callable[[Sandbox], bool], seconds: float
    ) -> Sandbox:
        return await self._world.records.wait(sandbox, done, seconds)

    async def clear(self, build: Snapshot) -> None:
        """Delete what earlier attempts left."""
        wanted = Filter(labels={MARK: build.id}, with_hidden=True)
        for left in (await self._store.sandboxes.page(wanted, Order())).sandboxes:
            await self._delete(left.id)

    async def _delete(self, sandbox_id: SandboxId) -> None:
        now = self._world.now()
        with suppress(NotFoundError):
            await self._world.records.change(
                sandbox_id, lambda record: lifecycle.delete(record, now)
            )
        self._wake(sandbox_id)


class _Heard:
    """Passes on what is heard; who listens anew is told everything again, which is left out."""

    def __init__(self, say: Callable[[bytes], Awaitable[None]]) -> None:
        self._say, self._heard = say, 0

    async def all(self, pieces: AsyncIterator[bytes]) -> None:
        told = 0
        async for piece in pieces:
            told += len(piece)
            new = told - self._heard
            if new > 0:
                await self._say(piece[-new:])
                self._heard = told
