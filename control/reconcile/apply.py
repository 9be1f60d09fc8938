"""Carry out one action. Each may be cut off anywhere and begun again."""

from __future__ import annotations

import asyncio
import logging
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from control import lifecycle
from control.errors import InvalidError, NoCapacityError, UnavailableError
from control.model import BYTES_PER_GIB, MIB_PER_GIB, Archive
from control.mounts import has_room
from control.reconcile import plan
from control.reconcile.turns import Turns
from jobs.runner.message import FOR_THE_START
from jobs.scheduler import Job

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
    from datetime import datetime

    from control.archives import Archives
    from control.gates import Gates
    from control.model import Sandbox
    from control.naming import SandboxId
    from control.reconcile.routes import Routes
    from control.reconcile.volumes import VolumeKeeper
    from control.records import Records
    from jobs.scheduler import Allocation, Scheduler

logger = logging.getLogger(__name__)

SCHEDULER_SECONDS = 20.0
_STOP_GRACE_SECONDS = 10.0
_STOP_SECONDS = 120.0
_WORK_SECONDS = 120.0
_PACK_SECONDS = 6 * 3600.0
# At once on one node, whose cores and disks it takes, and in all: each has a worker of the loop.
_PACK_EACH, _PACK_MOST = 2, 16


@dataclass(frozen=True, slots=True)
class World:
    """Everything that reconciling reads and changes.

    Attributes:
        archives: where files are that are on no node.
        assignment: builds a sandbox's assignment with the keys of now.
        now: tells the time.
        control_url: where runners report.
        volumes: brings the volumes of a sandbox to one node.
        disks: sums up the disks of each node, in GiB; None if the scheduler does that itself.
        packing: whose turn it is to be archived.
    """

    records: Records
    archives: Archives
    scheduler: Scheduler
    routes: Routes
    gates: Gates
    assignment: Callable[[Sandbox], Awaitable[Mapping[str, Any]]]
    now: Callable[[], datetime]
    control_url: str
    volumes: VolumeKeeper
    pids: int
    limits: plan.Limits
    disks: Callable[[], Awaitable[Mapping[str, int]]] | None = None
    packing: Turns = field(default_factory=lambda: Turns(each=_PACK_EACH, most=_PACK_MOST))


def job_of(sandbox: Sandbox, world: World, node: str) -> Job:
    """Describe the job of a sandbox's newest generation; without ``node`` it may run anywhere."""
    resources = sandbox.resources
    return Job(
        sandbox_id=sandbox.id,
        generation=sandbox.run.generation,
        image_id=sandbox.image_id,
        cpu=resources.cpu,
        memory_mib=resources.memory_gib * MIB_PER_GIB,
        disk_bytes=resources.disk_gib * BYTES_PER_GIB,
        pids=world.pids,
        domain=world.limits.domain,
        control_url=world.control_url,
        node=node,
        restore=sandbox.is_in_archive,
    )


@asynccontextmanager
async def bounded(what: str, seconds: float) -> AsyncIterator[None]:
    """Give up after a while.

    Raises:
        UnavailableError: it took too long; what became of it is to be looked at.
    """
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError as error:
        raise UnavailableError(f"no answer within {seconds:.0f} s: {what}") from error


async def apply(
    world: World,
    sandbox_id: SandboxId,
    sandbox: Sandbox | None,
    seen: plan.Seen,
    action: plan.Action,
) -> None:
    """Carry out an action on what was seen.

    Raises:
        UnavailableError: something cannot be asked now.
        ConflictError: what was seen is not so any more.
    """
    name = type(action).__name__
    logger.info("reconcile", extra={"sandbox_id": sandbox_id, "action": name})
    if isinstance(action, plan.Register):
        async with bounded("register", SCHEDULER_SECONDS):
            await world.routes.register(action.route)
        return
    if sandbox is not None and type(action) in _ON_RECORD:
        await _ON_RECORD[type(action)](world, sandbox, seen, action)
        return
    await _ON_ID[type(action)](world, sandbox_id)


# -- on what there is, with or without a record ------------------------------------------------


async def _deregister(world: World, sandbox_id: SandboxId) -> None:
    async with bounded("deregister", SCHEDULER_SECONDS):
        await world.routes.deregister(sandbox_id)


async def _stop_job(world: World, sandbox_id: SandboxId) -> None:
    async with bounded("stop", _STOP_SECONDS):
        await world.scheduler.stop(sandbox_id, grace_seconds=_STOP_GRACE_SECONDS)


async def _forget(world: World, sandbox_id: SandboxId) -> None:
    async with bounded("forget", SCHEDULER_SECONDS):
        await world.scheduler.forget(sandbox_id)


async def _purge(world: World, sandbox_id: SandboxId) -> None:
    await world.records.remove(sandbox_id)


_ON_ID: dict[type, Callable[[World, SandboxId], Awaitable[None]]] = {
    plan.Deregister: _deregister,
    plan.StopJob: _stop_job,
    plan.Forget: _forget,
    plan.Purge: _purge,
}


# -- on a record -------------------------------------------------------------------------------


async def _submit(world: World, sandbox: Sandbox, seen: plan.Seen, action: Any) -> None:
    try:
        node = await world.volumes.prepare(sandbox) or sandbox.node
    except (NoCapacityError, InvalidError) as error:
        await _note(world, sandbox, lifecycle.fail, str(error))
        return
    try:
        async with bounded("submit", SCHEDULER_SECONDS):
            avoid = await _full_nodes(world, sandbox)
            await world.scheduler.submit(job_of(sandbox, world, node), avoid=avoid)
    except NoCapacityError as error:
        await _note(world, sandbox, lifecycle.fail, str(error))


async def _full_nodes(world: World, sandbox: Sandbox) -> list[str]:
    """Name the nodes where the disks of all sandboxes leave no room for one more."""
    if sandbox.node or world.disks is None:
        return []
    kept, sizes = await asyncio.gather(world.disks(), world.scheduler.disk_sizes())
    wanted = sandbox.resources.disk_gib
    return [node for node, mib in sizes.items() if not has_room(mib, kept.get(node, 0), wanted)]


async def _failed(world: World, sandbox: Sandbox, seen: plan.Seen, action: plan.Failed) -> None:
    await _note(world, sandbox, lifecycle.fail, action.reason)


async def _stopped(world: World, sandbox: Sandbox, seen: plan.Seen, action: plan.Stopped) -> None:
    await _note(world, sandbox, lifecycle.stopped, action.reason)


async def _note(
    world: World,
    sandbox: Sandbox,
    change: Callable[[Sandbox, int, str, datetime], Sandbox],
    reason: str,
) -> None:
    generation, now = sandbox.run.generation, world.now()
    await world.records.change(sandbox.id, lambda record: change(record, generation, reason, now))
    if reason:
        extra = {"sandbox_id": sandbox.id, "change": change.__name__, "reason": reason}
        logger.warning("a sandbox is not as it was asked to be", extra=extra)


async def _lost(world: World, sandbox: Sandbox, seen: plan.Seen, action: plan.Lost) -> None:
    await _note(world, sandbox, lifecycle.lost, action.reason)


async def _found(world: World, sandbox: Sandbox, seen: plan.Seen, action: Any) -> None:
    generation, now = sandbox.run.generation, world.now()
    await world.records.change(sandbox.id, lambda record: lifecycle.found(record, generation, now))


async def _placed(world: World, sandbox: Sandbox, seen: plan.Seen, action: plan.Placed) -> None:
    generation, node = sandbox.run.generation, action.node
    await world.records.change(
        sandbox.id, lambda record: lifecycle.placed(record, generation, node)
    )


async def _delayed(world: World, sandbox: Sandbox, seen: plan.Seen, action: plan.Delayed) -> None:
    await _note(world, sandbox, lifecycle.delayed, action.reason)


async def _started(world: World, sandbox: Sandbox, seen: plan.Seen, action: Any) -> None:
    generation, now = sandbox.run.generation, world.now()
    await world.records.change(sandbox.id, lambda record: lifecycle.up(record, generation, now))


async def _ask_to_stop(world: World, sandbox: Sandbox, seen: plan.Seen, action: Any) -> None:
    try:
        await send(world, sandbox, seen.allocation, {"op": "stop"})
    except UnavailableError:
        await _stop_job(world, sandbox.id)


async def _push(world: World, sandbox: Sandbox, seen: plan.Seen, action: Any) -> None:
    whole = await world.assignment(sandbox)
    # A runner keeps the rest from its start on. That may be larger than a message to a gate can be,
    # and then nothing else would arrive any more, no revocation either.
    assignment = {name: whole[name] for name in whole.keys() - FOR_THE_START}
    await send(world, sandbox, seen.allocation, {"op": "assign", "assignment": assignment})
    generation, version = sandbox.run.generation, sandbox.assignment_version
    await world.records.change(
        sandbox.id, lambda record: lifecycle.pushed(record, generation, version)
    )


async def _destroy(world: World, sandbox: Sandbox, seen: plan.Seen, action: Any) -> None:
    if sandbox.node:
        await _remove_disk(world, sandbox, {})
    if sandbox.secrets.archive_key:
        try:
            await world.archives.remove_all(sandbox.id)
        except UnavailableError as error:
            await _delay(world, sandbox, f"the archive cannot be removed yet: {error}")
            raise
    now = world.now()
    await world.records.change(sandbox.id, lambda record: lifecycle.destroyed(record, now))


async def _remove_disk(world: World, sandbox: Sandbox, fence: Mapping[str, int]) -> None:
    try:
        async with bounded("remove-disk", _WORK_SECONDS):
            what = {"sandbox_id": sandbox.id, **fence}
            await world.scheduler.work("remove-disk", what, node=sandbox.node)
    except UnavailableError as error:
        reason = f"the disk on node {sandbox.node} cannot be removed yet: {error}"
        await _delay(world, sandbox, reason)
        raise


async def _delay(world: World, sandbox: Sandbox, reason: str) -> None:
    if sandbox.error_reason != reason:
        await _note(world, sandbox, lifecycle.delayed, reason)


async def _pack(world: World, sandbox: Sandbox, seen: plan.Seen, action: Any) -> None:
    generation, now = sandbox.run.generation, world.now()
    try:
        with world.packing.take(sandbox.node):
            packed = await _unless_moved(world, sandbox, _packing(world, sandbox))
    except UnavailableError as error:
        await _delay(world, sandbox, f"it is not archived yet, and loses nothing: {error}")
        raise
    if packed is not None:
        archive = Archive(packed["name"], packed["digest"], packed["size"])
        await world.records.change(
            sandbox.id, lambda record: lifecycle.packed(record, generation, archive, now)
        )


async def _packing(world: World, sandbox: Sandbox) -> dict[str, Any]:
    what = {
        "sandbox_id": sandbox.id,
        "generation": sandbox.run.generation,
        "control_url": world.control_url,
    }
    async with bounded("archive-disk", _PACK_SECONDS):
        return await world.scheduler.work("archive-disk", what, node=sandbox.node)


async def _unless_moved(
    world: World, sandbox: Sandbox, doing: Coroutine[Any, Any, dict[str, Any]]
) -> dict[str, Any] | None:
    """Do something long, or give it up when the sandbox is wanted otherwise meanwhile."""

    def is_moved(record: Sandbox) -> bool:
        return (record.state, record.run.generation) != (sandbox.state, sandbox.run.generation)

    work = asyncio.create_task(doing)
    moved = asyncio.create_task(world.records.wait(sandbox, is_moved, _PACK_SECONDS))
    try:
        await asyncio.wait({work, moved}, return_when=asyncio.FIRST_COMPLETED)
        return work.result() if work.done() else None
    finally:
        for task in (work, moved):
            task.cancel()
        await asyncio.gather(work, moved, return_exceptions=True)


async def _archived(world: World, sandbox: Sandbox, seen: plan.Seen, action: Any) -> None:
    generation, now = sandbox.run.generation, world.now()
    # A start may come meanwhile: its disk must not go.
    await _remove_disk(world, sandbox, {"generation": generation})
    await world.records.change(
        sandbox.id, lambda record: lifecycle.archived(record, generation, now)
    )


async def _drop_archive(world: World, sandbox: Sandbox, seen: plan.Seen, action: Any) -> None:
    archive = sandbox.archive
    if archive is not None:
        await world.archives.remove(archive.name)
        await world.records.change(sandbox.id, lambda record: lifecycle.unarchived(record, archive))


_ON_RECORD: dict[type, Callable[[World, Sandbox, plan.Seen, Any], Awaitable[None]]] = {
    plan.Submit: _submit,
    plan.Failed: _failed,
    plan.Stopped: _stopped,
    plan.Started: _started,
    plan.Lost: _lost,
    plan.Found: _found,
    plan.Placed: _placed,
    plan.Delayed: _delayed,
    plan.AskToStop: _ask_to_stop,
    plan.Push: _push,
    plan.Destroy: _destroy,
    plan.Pack: _pack,
    plan.Archived: _archived,
    plan.DropArchive: _drop_archive,
}


async def send(
    world: World, sandbox: Sandbox, allocation: Allocation | None, order: Mapping[str, Any]
) -> dict[str, Any]:
    """Send an order to the runner of a sandbox; its number is stored first.

    Raises:
        UnavailableError: it did not answer, or did not take the order.
    """
    if allocation is None:
        raise UnavailableError(f"no runner of {sandbox.id} is known")
    numbered = await world.records.change(sandbox.id, lifecycle.next_message)
    return await world.gates.send(allocation, numbered.run, order)
