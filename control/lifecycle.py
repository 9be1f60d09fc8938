"""Every change of a sandbox's record, each a pure function from the old record to the new one.

A function raises if the change is not allowed from where the record is; the texts of refusals are
the wire's own, which clients look for.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

from control.errors import (
    ConflictError,
    ForbiddenError,
    InvalidError,
    NotFoundError,
    UnavailableError,
)
from control.model import (
    BUILDING_STATES,
    LIVE_STATES,
    STARTING_STATES,
    DesiredState,
    Run,
    Sandbox,
    State,
    StoppedBy,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from control.model import Archive, Size, Snapshot
    from jobs.runner.message import Head
    from jobs.scheduler import Allocation

MAX_REASON = 2000
MAX_PHASE = 20
# From the start on, however long an image goes on to arrive, or others to start first.
MOST_WAITING = timedelta(minutes=15)
_SAME_MOMENT = timedelta(seconds=2)
_RUNNING = LIVE_STATES | {State.STOPPING}
_DELAYABLE = frozenset({State.STOPPING, State.DESTROYING, State.ARCHIVING})


def not_found(id_or_name: str) -> NotFoundError:
    """Say that there is no such sandbox, in the wire's words."""
    return NotFoundError(f"Sandbox with ID or name {id_or_name} not found")


def _moved(sandbox: Sandbox, state: State, desired: DesiredState, now: datetime) -> Sandbox:
    return replace(sandbox, state=state, desired_state=desired, changed_at=now, updated_at=now)


# -- what users ask for ------------------------------------------------------------------------


def start(sandbox: Sandbox, now: datetime) -> Sandbox:
    """Begin a new generation; a sandbox that is started or starting stays as it is.

    One that is stopping starts when it has stopped. An archive that is not finished is given up.
    One whose start failed may be started again, too: older SDKs have no other call for it.

    Raises:
        NotFoundError: it was deleted.
        ConflictError: it is on its way to somewhere else.
        InvalidError: it failed for good.
    """
    exists(sandbox)
    if sandbox.state in LIVE_STATES and sandbox.desired_state is DesiredState.STARTED:
        return sandbox
    if sandbox.state is State.STOPPING:
        return replace(sandbox, desired_state=DesiredState.STARTED, updated_at=now)
    if sandbox.state is State.ARCHIVING:
        return _begin(sandbox, now)
    if sandbox.state is State.BUILD_FAILED:
        raise InvalidError("Sandbox is in an errored state")
    if sandbox.state is State.ERROR and not sandbox.recoverable:
        raise InvalidError("Sandbox is in an errored state")
    if not sandbox.is_settled:
        raise ConflictError("Sandbox state change in progress")
    if sandbox.state not in {State.STOPPED, State.ARCHIVED, State.ERROR}:
        raise InvalidError("Sandbox is not in valid state")
    return _begin(sandbox, now)


def recover(sandbox: Sandbox, now: datetime) -> Sandbox:
    """Start a sandbox anew whose start failed.

    Raises:
        NotFoundError: it was deleted.
        ConflictError: it is on its way to somewhere else.
        InvalidError: it did not fail, or not in a way that a new start can mend.
    """
    exists(sandbox)
    if not sandbox.is_settled and sandbox.state is not State.UNKNOWN:
        raise ConflictError("Sandbox state change in progress")
    if sandbox.state is not State.ERROR or not sandbox.recoverable:
        raise InvalidError("Sandbox is not in a recoverable state")
    return _begin(sandbox, now)


def _begin(sandbox: Sandbox, now: datetime) -> Sandbox:
    state = State.RESTORING if sandbox.is_in_archive else State.STARTING
    moved = _moved(sandbox, state, DesiredState.STARTED, now)
    return replace(
        moved,
        error_reason=None,
        recoverable=False,
        stopped_by=None,
        stopped_at=None,
        last_activity_at=now,
        run=Run(generation=sandbox.run.generation + 1),
    )


def stop(sandbox: Sandbox, now: datetime) -> Sandbox:
    """Ask for a stop; an ephemeral sandbox is deleted with it.

    From then on only a start wakes it, also if the collector was about to stop it.

    Raises:
        NotFoundError: it was deleted.
        ConflictError: it is on its way to somewhere else.
        InvalidError: it does not run.
    """
    exists(sandbox)
    if sandbox.state is State.STOPPING and sandbox.desired_state is DesiredState.STOPPED:
        return replace(sandbox, stopped_by=StoppedBy.API)
    if sandbox.state is State.ERROR:
        raise InvalidError("Sandbox is not in a stoppable state")
    if not sandbox.is_settled and sandbox.state is not State.UNKNOWN:
        raise ConflictError("Sandbox state change in progress")
    if sandbox.state not in {State.STARTED, State.UNKNOWN}:
        raise InvalidError("Sandbox is not in a stoppable state")
    if sandbox.intervals.delete == 0:
        return delete(sandbox, now)
    moved = _moved(sandbox, State.STOPPING, DesiredState.STOPPED, now)
    return replace(moved, last_activity_at=now, stopped_by=StoppedBy.API)


def archive(sandbox: Sandbox, now: datetime, key: str) -> Sandbox:
    """Ask for the files to go to the object store, encrypted by a new ``key``.

    Raises:
        NotFoundError: it was deleted.
        ConflictError: it is on its way to somewhere else.
        InvalidError: it is not stopped, or not to be kept.
    """
    exists(sandbox)
    if not sandbox.is_settled and sandbox.state is not State.UNKNOWN:
        raise ConflictError("Sandbox state change in progress")
    if sandbox.intervals.delete == 0:
        raise InvalidError("Ephemeral sandboxes cannot be archived")
    if sandbox.state is not State.STOPPED:
        raise InvalidError("Sandbox is not stopped")
    moved = _moved(sandbox, State.ARCHIVING, DesiredState.ARCHIVED, now)
    secrets = replace(sandbox.secrets, archive_key=key)
    return replace(moved, error_reason=None, archive=None, secrets=secrets)


def snapshot(sandbox: Sandbox, snapshot_id: str, now: datetime) -> Sandbox:
    """Note that a snapshot is being made of it; nothing else is done with it until that is over.

    Raises:
        NotFoundError: it was deleted.
        ConflictError: it is on its way to somewhere else.
        InvalidError: it is neither started nor stopped.
    """
    exists(sandbox)
    if not sandbox.is_settled and sandbox.state is not State.UNKNOWN:
        raise ConflictError("Sandbox state change in progress")
    if sandbox.state not in {State.STARTED, State.STOPPED}:
        raise InvalidError("Sandbox must be started or stopped to make a snapshot of it")
    return replace(sandbox, snapshotting=snapshot_id, updated_at=now)


def resize(sandbox: Sandbox, size: Size, now: datetime) -> Sandbox:
    """Give a sandbox another size: while it runs, more cores and memory, else also more disk.

    Raises:
        NotFoundError: it was deleted.
        ConflictError: it is on its way to somewhere else.
        InvalidError: it cannot have that size, or not now; the text says what to do.
    """
    exists(sandbox)
    if not sandbox.is_settled and sandbox.state is not State.UNKNOWN:
        raise ConflictError("Sandbox state change in progress")
    if sandbox.state not in {State.STARTED, State.STOPPED}:
        raise InvalidError("Sandbox must be started or stopped to be resized")
    known, wanted = sandbox.resources, size.of(sandbox.resources)
    if wanted == known:
        raise InvalidError("Nothing to resize: name cpu, memory or disk, and another value")
    if wanted.disk_gib < known.disk_gib:
        raise InvalidError(f"Disk can only grow: it has {known.disk_gib} GiB already")
    runs = sandbox.state is State.STARTED
    if runs and wanted.disk_gib != known.disk_gib:
        raise InvalidError("Disk can be resized only while the Sandbox is stopped; stop it first")
    if runs and (wanted.cpu < known.cpu or wanted.memory_gib < known.memory_gib):
        raise InvalidError(
            "CPU and memory of a started Sandbox can only be increased; stop it to lower them"
        )
    version = sandbox.assignment_version + runs
    return replace(sandbox, resources=wanted, assignment_version=version, updated_at=now)


def delete(sandbox: Sandbox, now: datetime) -> Sandbox:
    """Ask for the end, from every state; the name is free at once."""
    if sandbox.desired_state is DesiredState.DESTROYED:
        return sandbox
    moved = _moved(sandbox, State.DESTROYING, DesiredState.DESTROYED, now)
    stamp = int(now.timestamp() * 1000)
    return replace(
        moved, name=f"DESTROYED_{sandbox.name}_{stamp}", error_reason=None, snapshotting=""
    )


def amend(change: Callable[[Sandbox], Sandbox], now: datetime) -> Callable[[Sandbox], Sandbox]:
    """Turn a change of what a user may set into one of the record; gates are told if they care."""

    def amended(sandbox: Sandbox) -> Sandbox:
        exists(sandbox)
        new = change(sandbox)
        if new == sandbox:
            return sandbox
        version = sandbox.assignment_version + (_entry(new) != _entry(sandbox))
        return replace(new, updated_at=now, assignment_version=version)

    return amended


def _entry(sandbox: Sandbox) -> tuple[object, ...]:
    return sandbox.public, sandbox.private_ports, sandbox.network, sandbox.secrets


def touch(sandbox: Sandbox, now: datetime) -> Sandbox:
    """Note activity."""
    exists(sandbox)
    return replace(sandbox, last_activity_at=max(now, sandbox.last_activity_at))


def exists(sandbox: Sandbox) -> None:
    """Require that a sandbox was not deleted.

    Raises:
        NotFoundError: it was.
    """
    if sandbox.desired_state is DesiredState.DESTROYED:
        raise not_found(sandbox.id)


# -- what runners report -----------------------------------------------------------------------


def claim(sandbox: Sandbox, head: Head, allocation: Allocation | None, now: datetime) -> Sandbox:
    """Give this generation to the runner that asks first where it was placed; it may ask again.

    Raises:
        ConflictError: the generation is over, or another runner has it.
        ForbiddenError: it was placed on another node, or the report was seen before.
        UnavailableError: the scheduler does not say yet where it was placed.
    """
    sandbox = _claimed(sandbox, head, allocation)
    run = replace(sandbox.run, pushed_version=sandbox.assignment_version)
    return replace(sandbox, run=run, updated_at=now)


def _claimed(sandbox: Sandbox, head: Head, allocation: Allocation | None) -> Sandbox:
    run = sandbox.run
    if head.generation != run.generation or sandbox.state not in STARTING_STATES:
        raise ConflictError("this start of the sandbox is over")
    if run.incarnation not in {None, head.incarnation}:
        raise ConflictError("another runner has this start of the sandbox")
    if allocation is None or not allocation.node or allocation.generation < head.generation:
        raise UnavailableError("the scheduler does not say yet where this start was placed")
    if allocation.generation != head.generation:
        raise ConflictError("this start of the sandbox is over")
    if allocation.node != head.node or sandbox.node not in {"", head.node}:
        raise ForbiddenError("this start of the sandbox was placed on another node")
    claimed = replace(sandbox, node=head.node, run=replace(run, incarnation=head.incarnation))
    return _reported(claimed, head)


def waiting(
    sandbox: Sandbox, head: Head, allocation: Allocation | None, text: str, now: datetime
) -> Sandbox:
    """Note what a start waits for, image or turn, and give it more time, up to a bound.

    It claims the generation, too: it waits before there is anything to assign. A report that
    comes after the end of the wait, as others have been faster to tell of that, changes nothing.

    Raises:
        ConflictError: the generation is over, or another runner has it.
        ForbiddenError: it was placed on another node, or the report was seen before.
        UnavailableError: the scheduler does not say yet where it was placed.
    """
    if sandbox.state not in STARTING_STATES:
        return _reported(own(sandbox, head), head)
    sandbox = _claimed(sandbox, head, allocation)
    goes_on = now < sandbox.last_activity_at + MOST_WAITING
    return replace(
        sandbox,
        changed_at=now if goes_on else sandbox.changed_at,
        updated_at=now,
        error_reason=text[:MAX_REASON],
    )


def ready(sandbox: Sandbox, head: Head, now: datetime) -> Sandbox:
    """Note that a sandbox is up. Too late, when something else was asked for meanwhile.

    Raises:
        ConflictError: the runner is not the one that has this generation.
        ForbiddenError: the report was seen before.
    """
    sandbox = _reported(own(sandbox, head), head)
    return up(sandbox, head.generation, now)


def up(sandbox: Sandbox, generation: int, now: datetime) -> Sandbox:
    """Note that a starting sandbox is up."""
    if sandbox.run.generation != generation or sandbox.state not in STARTING_STATES:
        return sandbox
    moved = _moved(sandbox, State.STARTED, DesiredState.STARTED, now)
    # From now on the disk is newer than the archive that it may have been made from.
    stale = sandbox.archive and replace(sandbox.archive, is_stale=True)
    return replace(moved, last_activity_at=now, error_reason=None, archive=stale)


def notice(sandbox: Sandbox, head: Head, text: str, now: datetime) -> Sandbox:
    """Note what a runner has to say while the sandbox goes on.

    Raises:
        ConflictError: the runner is not the one that has this generation.
        ForbiddenError: the report was seen before.
    """
    sandbox = _reported(own(sandbox, head), head)
    if sandbox.state not in LIVE_STATES - {State.UNKNOWN}:
        return sandbox
    return replace(sandbox, error_reason=text[:MAX_REASON], updated_at=now)


def exiting(sandbox: Sandbox, head: Head, reason: str, reached: str) -> Sandbox:
    """Note a runner's last word: why it ends, and how far it came.

    That it has ended is the scheduler's to say.

    Raises:
        ConflictError: the runner is not the one that has this generation.
        ForbiddenError: the report was seen before.
    """
    sandbox = _reported(own(sandbox, head), head)
    last = replace(sandbox.run, exit_reason=reason[:MAX_REASON], exit_reached=reached[:MAX_PHASE])
    return replace(sandbox, run=last)


def require_packing(sandbox: Sandbox, head: Head) -> None:
    """Require that a node is to archive this sandbox; it may ask as often as it likes.

    Raises:
        ConflictError: something else was asked for meanwhile.
        ForbiddenError: it is another node's.
    """
    if not _is_archiving(sandbox, head.generation) or sandbox.archive is not None:
        raise ConflictError("the sandbox is not to be archived")
    if head.node != sandbox.node:
        raise ForbiddenError("the sandbox's disk is on another node")


def own(sandbox: Sandbox, head: Head) -> Sandbox:
    """Return the record if a report about it is from the runner that has this generation.

    Raises:
        ConflictError: it is not.
        ForbiddenError: it is from another node.
    """
    if (head.generation, head.incarnation) != (sandbox.run.generation, sandbox.run.incarnation):
        raise ConflictError("this start of the sandbox is over")
    if head.node != sandbox.node:
        raise ForbiddenError("this start of the sandbox was placed on another node")
    return sandbox


def _reported(sandbox: Sandbox, head: Head) -> Sandbox:
    if head.sequence <= sandbox.run.up_sequence:
        raise ForbiddenError("this report was seen before")
    return replace(sandbox, run=replace(sandbox.run, up_sequence=head.sequence))


# -- what the collector decides ----------------------------------------------------------------


def active(sandbox: Sandbox, generation: int, at: datetime) -> Sandbox:
    """Note when a started sandbox was last used, as its gate tells; also earlier than was known.

    The gate does not look at the clock, which may have been set since.
    """
    if sandbox.run.generation != generation or sandbox.state is not State.STARTED:
        return sandbox
    if abs(sandbox.last_activity_at - at) < _SAME_MOMENT:
        return sandbox
    return replace(sandbox, last_activity_at=at)


def collect(sandbox: Sandbox, judged: Sandbox, now: datetime) -> Sandbox:
    """Stop a sandbox that nobody uses; an ephemeral one is deleted with it.

    Raises:
        ConflictError: it is not as it was when that was decided.
    """
    _unchanged(sandbox, judged)
    if sandbox.intervals.delete == 0:
        return delete(sandbox, now)
    moved = _moved(sandbox, State.STOPPING, DesiredState.STOPPED, now)
    return replace(moved, stopped_by=StoppedBy.COLLECTOR)


def shelve(sandbox: Sandbox, judged: Sandbox, now: datetime, key: str) -> Sandbox:
    """Archive a sandbox that was stopped for long, encrypted by a new ``key``.

    Raises:
        ConflictError: it is not as it was when that was decided.
    """
    _unchanged(sandbox, judged)
    return archive(sandbox, now, key)


def expire(sandbox: Sandbox, judged: Sandbox, now: datetime) -> Sandbox:
    """Delete a sandbox whose time is over.

    Raises:
        ConflictError: it is not as it was when that was decided.
    """
    _unchanged(sandbox, judged)
    return delete(sandbox, now)


def _unchanged(sandbox: Sandbox, judged: Sandbox) -> None:
    if sandbox.snapshotting:
        raise ConflictError("a snapshot is being made of it")
    if _timed(sandbox) != _timed(judged):
        raise ConflictError("the sandbox was used, started or changed meanwhile")


def _timed(sandbox: Sandbox) -> tuple[object, ...]:
    wanted = sandbox.state, sandbox.desired_state, sandbox.run.generation, sandbox.intervals
    return *wanted, sandbox.destroy_at, sandbox.stopped_at, sandbox.last_activity_at


# -- what becomes of images --------------------------------------------------------------------


def building(sandbox: Sandbox, now: datetime) -> Sandbox:
    """Note that its image is being made."""
    if sandbox.state is not State.PENDING_BUILD:
        return sandbox
    return _moved(sandbox, State.BUILDING_SNAPSHOT, sandbox.desired_state, now)


def built(sandbox: Sandbox, image: Snapshot, now: datetime) -> Sandbox:
    """Begin its first start: its image is there."""
    if sandbox.state not in BUILDING_STATES:
        return sandbox
    moved = _moved(sandbox, State.CREATING, DesiredState.STARTED, now)
    return replace(
        moved,
        image_id=image.image_id,
        user=sandbox.user or image.user,
        entrypoint=image.entrypoint,
        last_activity_at=now,
    )


def build_failed(sandbox: Sandbox, reason: str, now: datetime) -> Sandbox:
    """Note why it will have no image."""
    if sandbox.state not in BUILDING_STATES:
        return sandbox
    moved = _moved(sandbox, State.BUILD_FAILED, sandbox.desired_state, now)
    return replace(moved, error_reason=reason[:MAX_REASON])


def snapshotted(sandbox: Sandbox, snapshot_id: str, now: datetime) -> Sandbox:
    """Note that the snapshot that was being made of it is, or has failed."""
    if sandbox.snapshotting != snapshot_id:
        return sandbox
    return replace(sandbox, snapshotting="", updated_at=now)


# -- what reconcile finds ----------------------------------------------------------------------


def fail(sandbox: Sandbox, generation: int, reason: str, now: datetime) -> Sandbox:
    """Note that a start failed; a new one may be tried."""
    if sandbox.run.generation != generation or sandbox.state not in STARTING_STATES:
        return sandbox
    moved = _moved(sandbox, State.ERROR, DesiredState.STARTED, now)
    return replace(moved, error_reason=reason[:MAX_REASON], recoverable=True)


def stopped(sandbox: Sandbox, generation: int, reason: str, now: datetime) -> Sandbox:
    """Note that a sandbox runs no more; ``reason`` is empty if that was asked for."""
    if sandbox.run.generation != generation or sandbox.state not in _RUNNING:
        return sandbox
    if sandbox.state is State.STOPPING and sandbox.desired_state is DesiredState.STARTED:
        return _begin(sandbox, now)
    if sandbox.intervals.delete == 0:
        return delete(sandbox, now)
    moved = _moved(sandbox, State.STOPPED, DesiredState.STOPPED, now)
    by = sandbox.stopped_by if sandbox.state is State.STOPPING else None
    return replace(
        moved,
        error_reason=reason[:MAX_REASON] or None,
        stopped_by=by or StoppedBy.CRASH,
        stopped_at=now,
    )


def lost(sandbox: Sandbox, generation: int, reason: str, now: datetime) -> Sandbox:
    """Note that nobody can tell whether a started sandbox runs."""
    if sandbox.run.generation != generation or sandbox.state is not State.STARTED:
        return sandbox
    moved = _moved(sandbox, State.UNKNOWN, sandbox.desired_state, now)
    return replace(moved, error_reason=reason[:MAX_REASON])


def found(sandbox: Sandbox, generation: int, now: datetime) -> Sandbox:
    """Note that a lost sandbox runs."""
    if sandbox.run.generation != generation or sandbox.state is not State.UNKNOWN:
        return sandbox
    moved = _moved(sandbox, State.STARTED, sandbox.desired_state, now)
    return replace(moved, error_reason=None)


def packed(sandbox: Sandbox, generation: int, archive: Archive, now: datetime) -> Sandbox:
    """Note that the files are in the object store, verified; from now on the disk may go."""
    if not _is_archiving(sandbox, generation) or sandbox.archive is not None:
        return sandbox
    return replace(sandbox, archive=archive, error_reason=None, updated_at=now)


def archived(sandbox: Sandbox, generation: int, now: datetime) -> Sandbox:
    """Note that the disk is gone and the archive is all there is."""
    if not _is_archiving(sandbox, generation) or sandbox.archive is None:
        return sandbox
    moved = _moved(sandbox, State.ARCHIVED, DesiredState.ARCHIVED, now)
    return replace(moved, node="", error_reason=None)


def _is_archiving(sandbox: Sandbox, generation: int) -> bool:
    return sandbox.state is State.ARCHIVING and sandbox.run.generation == generation


def unarchived(sandbox: Sandbox, archive: Archive) -> Sandbox:
    """Note that an archive which the disk has outlived is gone."""
    if sandbox.archive != archive:
        return sandbox
    return replace(sandbox, archive=None, secrets=replace(sandbox.secrets, archive_key=""))


def placed(sandbox: Sandbox, generation: int, node: str) -> Sandbox:
    """Note where a start was placed that never reported itself."""
    if sandbox.run.generation != generation or sandbox.node:
        return sandbox
    return replace(sandbox, node=node)


def delayed(sandbox: Sandbox, generation: int, reason: str, now: datetime) -> Sandbox:
    """Note why a stop, a deletion or an archive has to wait."""
    if sandbox.run.generation != generation or sandbox.state not in _DELAYABLE:
        return sandbox
    return replace(sandbox, error_reason=reason[:MAX_REASON], updated_at=now)


def destroyed(sandbox: Sandbox, now: datetime) -> Sandbox:
    """Note that nothing is left of a deleted sandbox but its record."""
    if sandbox.state is not State.DESTROYING:
        return sandbox
    moved = _moved(sandbox, State.DESTROYED, DesiredState.DESTROYED, now)
    return replace(moved, error_reason=None)


def next_message(sandbox: Sandbox) -> Sandbox:
    """Take the next number for a message to the runner."""
    run = sandbox.run
    return replace(sandbox, run=replace(run, down_sequence=run.down_sequence + 1))


def pushed(sandbox: Sandbox, generation: int, version: int) -> Sandbox:
    """Note which version of the assignment a gate has."""
    run = sandbox.run
    if run.generation != generation or version <= run.pushed_version:
        return sandbox
    return replace(sandbox, run=replace(run, pushed_version=version))
