"""What a build says, as text that grows while it is followed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from fastapi import Request
from starlette.responses import Response, StreamingResponse

from control.api.bodies import truth
from control.api.caller import Caller
from control.errors import UnavailableError
from control.model import Snapshot, SnapshotState
from control.snapshot_states import UNFINISHED

_LOOK_SECONDS = 0.5


def build_log(caller: Caller, snapshot: Snapshot, request: Request) -> Response:
    """Answer with the log of a snapshot; with ``follow=true`` until the build is over."""
    asked = request.query_params.get("follow")
    follows = truth("follow", asked) if asked else False
    pieces = _pieces(caller, snapshot, follows=follows)
    return StreamingResponse(pieces, media_type="text/plain; charset=utf-8")


async def _pieces(caller: Caller, snapshot: Snapshot, *, follows: bool) -> AsyncIterator[str]:
    logs, last = caller.service.store.build_logs, -1
    while True:
        is_over = not follows or await _is_over(caller, snapshot)
        # Asked before the log is read: nothing is said after the end.
        while found := await logs.read(snapshot.id, last):
            for number, text in found:
                last = number
                yield text
        if is_over:
            return
        await asyncio.sleep(_LOOK_SECONDS)


async def _is_over(caller: Caller, snapshot: Snapshot) -> bool:
    snapshots = caller.service.store.snapshots
    try:
        found = await snapshots.get(caller.organization_id, snapshot.id)
    except UnavailableError:
        return False
    return found is None or found.state not in UNFINISHED - {SnapshotState.REMOVING}
