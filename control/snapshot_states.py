"""Every change of a snapshot, each a pure function from the old one to the new one.

A function raises if the change is not allowed; the texts of refusals are the wire's own.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from control import lifecycle
from control.errors import ForbiddenError, InvalidError
from control.model import Snapshot, SnapshotState, State

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime

    from control.model import Sandbox

MAX_REASON = 2000
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/:@+-]{0,254}")
_FAILED = {SnapshotState.ERROR, SnapshotState.BUILD_FAILED}
# Where something is still to be done by the server.
_MAKING = frozenset({SnapshotState.PENDING, SnapshotState.PULLING, SnapshotState.BUILDING})
UNFINISHED = _MAKING | {SnapshotState.REMOVING}


def check_name(name: str | None) -> str:
    """Check the name of a new snapshot.

    Raises:
        InvalidError: it is not possible.
    """
    if not name or _NAME.fullmatch(name) is None:
        raise InvalidError(
            "name must have 1 to 255 letters, digits or any of ._/:@+-, and begin with a letter or "
            "digit"
        )
    return name


def making(snapshot: Snapshot, now: datetime) -> Snapshot:
    """Note that the image is being fetched or built."""
    if snapshot.state is not SnapshotState.PENDING:
        return snapshot
    state = SnapshotState.BUILDING if snapshot.build else SnapshotState.PULLING
    return replace(snapshot, state=state, updated_at=now)


def again(snapshot: Snapshot, now: datetime) -> Snapshot:
    """Try once more what has failed."""
    if snapshot.state not in _FAILED:
        return snapshot
    return replace(snapshot, state=SnapshotState.PENDING, error_reason=None, updated_at=now)


def made(snapshot: Snapshot, image: Mapping[str, Any], now: datetime) -> Snapshot:
    """Note that the image is there; one that was deleted meanwhile stays so."""
    if snapshot.state not in _MAKING:
        return snapshot
    return replace(
        snapshot,
        state=SnapshotState.ACTIVE,
        image_id=image["id"],
        user=snapshot.user or image["user"] or "root",
        size_bytes=image["size_bytes"],
        error_reason=None,
        updated_at=now,
    )


def failed(snapshot: Snapshot, reason: str, now: datetime) -> Snapshot:
    """Note why there will be no image."""
    if snapshot.state not in _MAKING:
        return snapshot
    reason = reason[:MAX_REASON]
    state = SnapshotState.BUILD_FAILED if snapshot.build else SnapshotState.ERROR
    return replace(snapshot, state=state, error_reason=reason, updated_at=now)


def activate(snapshot: Snapshot, now: datetime) -> Snapshot:
    """Let sandboxes be made from it again.

    Raises:
        ForbiddenError: it is the server's own, and shared by all.
        InvalidError: it is not inactive.
    """
    _own(snapshot)
    if snapshot.state is SnapshotState.ACTIVE:
        raise InvalidError(f"Snapshot {snapshot.name} is already active")
    if snapshot.state is not SnapshotState.INACTIVE:
        raise InvalidError(f"Snapshot {snapshot.name} cannot be activated: {snapshot.state.value}")
    return replace(snapshot, state=SnapshotState.ACTIVE, updated_at=now)


def deactivate(snapshot: Snapshot, now: datetime) -> Snapshot:
    """Let no more sandboxes be made from it; those that there are go on.

    Raises:
        ForbiddenError: it is the server's own, and shared by all.
        InvalidError: it is neither active nor inactive.
    """
    _own(snapshot)
    if snapshot.state is SnapshotState.INACTIVE:
        return snapshot
    if snapshot.state is not SnapshotState.ACTIVE:
        message = f"Snapshot {snapshot.name} cannot be deactivated: {snapshot.state.value}"
        raise InvalidError(message)
    return replace(snapshot, state=SnapshotState.INACTIVE, updated_at=now)


def remove(snapshot: Snapshot, now: datetime) -> Snapshot:
    """Ask for the end, in every state; the name is free at once.

    Raises:
        ForbiddenError: it is the server's own, and shared by all.
    """
    _own(snapshot)
    if snapshot.state is SnapshotState.REMOVING:
        return snapshot
    name = f"REMOVING_{snapshot.id}"
    return replace(snapshot, name=name, state=SnapshotState.REMOVING, updated_at=now)


def await_image(
    sandbox: Sandbox, snapshot: Snapshot | None, now: datetime
) -> Callable[[Sandbox], Sandbox] | None:
    """Tell what becomes of a sandbox that waits for a snapshot; None if it waits on."""
    is_made = snapshot is not None and snapshot.state is SnapshotState.ACTIVE
    is_being_made = snapshot is not None and snapshot.state in _MAKING
    if sandbox.snapshotting:
        if is_being_made:
            return None
        return lambda record: lifecycle.snapshotted(record, sandbox.snapshotting, now)
    if snapshot is not None and is_made:
        return lambda record: lifecycle.built(record, snapshot, now)
    if not is_being_made:
        reason = (snapshot and snapshot.error_reason) or "its image was deleted"
        return lambda record: lifecycle.build_failed(record, reason, now)
    if snapshot is not None and snapshot.state is not SnapshotState.PENDING:
        if sandbox.state is not State.PENDING_BUILD:
            return None
        return lambda record: lifecycle.building(record, now)
    return None


def used(snapshot: Snapshot, now: datetime) -> Snapshot:
    """Note that a sandbox is made from it."""
    return replace(snapshot, last_used_at=now)


def _own(snapshot: Snapshot) -> None:
    if snapshot.general:
        raise ForbiddenError(f"Snapshot {snapshot.name} is the server's own and stays as it is")
