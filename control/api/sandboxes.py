"""The calls around sandboxes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from control.api.bodies import (
    CreateBody,
    LabelsBody,
    NetworkBody,
    ResizeBody,
    SandboxSnapshotBody,
    integer,
    read_body,
    truth,
)
from control.api.build_logs import build_log
from control.api.caller import AnyCaller, Caller, Deleter, Writer
from control.api.description import takes
from control.api.lists import cursor_order, page_order, read_filter
from control.api.wire import answer, sandbox_json
from control.errors import NotFoundError, UnsupportedError
from control.listing import Filter, Order, encode_cursor
from control.model import Intervals, Sandbox
from control.sandboxes import with_new_file_key
from control.wishes import check_labels, checked_intervals

router = APIRouter(prefix="/api/sandbox")


def _json(caller: Caller, sandbox: Sandbox) -> dict[str, Any]:
    return sandbox_json(sandbox, caller.sdk, caller.service.settings.toolbox_url)


def _one(caller: Caller, sandbox: Sandbox) -> Response:
    return answer(_json(caller, sandbox))


@router.post("", openapi_extra=takes(CreateBody))
async def create(request: Request, caller: Writer) -> Response:
    """Create a sandbox and answer when it is started."""
    body = await read_body(request, CreateBody)
    return _one(caller, await caller.sandboxes.create(body.wish()))


@router.get("")
async def list_sandboxes(request: Request, caller: AnyCaller) -> Response:
    """List sandboxes: an old SDK gets all as an array, others a page and a cursor."""
    wanted = read_filter(request.query_params)
    if caller.sdk.lists_arrays:
        every = await caller.sandboxes.page(wanted, Order()) if wanted else None
        return answer([_json(caller, sandbox) for sandbox in (every.sandboxes if every else ())])
    order = cursor_order(request.query_params)
    if wanted is None:
        return answer({"items": [], "nextCursor": None})
    page = await caller.sandboxes.page(wanted, order)
    cursor = encode_cursor(order, page.next) if page.next else None
    items = [_json(caller, sandbox) for sandbox in page.sandboxes]
    return answer({"items": items, "nextCursor": cursor})


@router.get("/paginated")
async def list_pages(request: Request, caller: AnyCaller) -> Response:
    """List sandboxes by numbered pages."""
    wanted = read_filter(request.query_params)
    order, number = page_order(request.query_params)
    items: list[dict[str, Any]] = []
    total = 0
    if wanted is not None:
        items, total = await _numbered(caller, wanted, order)
    pages = -(-total // (order.limit or 1))
    return answer({"items": items, "total": total, "page": number, "totalPages": pages})


async def _numbered(
    caller: Caller, wanted: Filter, order: Order
) -> tuple[list[dict[str, Any]], int]:
    page = await caller.sandboxes.page(wanted, order)
    total = await caller.sandboxes.count(wanted)
    return [_json(caller, sandbox) for sandbox in page.sandboxes], total


@router.get("/{name}")
async def get(name: str, caller: AnyCaller) -> Response:
    """Show a sandbox."""
    return _one(caller, await caller.sandboxes.get(name))


@router.delete("/{name}")
async def delete(name: str, caller: Deleter) -> Response:
    """Have a sandbox removed."""
    return _one(caller, await caller.sandboxes.delete(name))


@router.post("/{name}/start")
async def start(name: str, caller: Writer) -> Response:
    """Start a sandbox and answer when it is."""
    return _one(caller, await caller.sandboxes.start(name))


@router.post("/{name}/stop")
async def stop(name: str, caller: Writer) -> Response:
    """Stop a sandbox and answer when it is."""
    return _one(caller, await caller.sandboxes.stop(name))


@router.post("/{name}/archive")
async def archive(name: str, caller: Writer) -> Response:
    """Have the files of a stopped sandbox moved off its node."""
    caller.service.archives.require()
    return _one(caller, await caller.sandboxes.archive(name))


@router.post("/{name}/recover")
async def recover(name: str, caller: Writer) -> Response:
    """Start a sandbox anew whose start failed."""
    return _one(caller, await caller.sandboxes.recover(name))


@router.post("/{name}/resize", openapi_extra=takes(ResizeBody))
async def resize(name: str, request: Request, caller: Writer) -> Response:
    """Give a sandbox more cores or memory, and a stopped one also more disk."""
    body = await read_body(request, ResizeBody)
    may = caller.service.require_growth
    return _one(caller, await caller.sandboxes.resize(name, body.size, may))


@router.put("/{name}/labels", openapi_extra=takes(LabelsBody))
async def set_labels(name: str, request: Request, caller: Writer) -> Response:
    """Replace all labels."""
    labels = (await read_body(request, LabelsBody)).labels
    check_labels(labels)
    return await _amend(caller, name, lambda sandbox: replace(sandbox, labels=labels))


@router.post("/{name}/public/{value}")
async def set_public(name: str, value: str, caller: Writer) -> Response:
    """Open previews to everybody, or close them."""
    public = truth("public", value)
    return await _amend(caller, name, lambda sandbox: replace(sandbox, public=public))


@router.post("/{name}/autostop/{minutes}")
async def set_auto_stop(name: str, minutes: str, caller: Writer) -> Response:
    """Say after how long without activity it is stopped."""
    asked = checked_intervals(integer("interval", minutes), None, None)
    return await _set_interval(caller, name, lambda known: replace(known, stop=asked.stop))


@router.post("/{name}/autoarchive/{minutes}")
async def set_auto_archive(name: str, minutes: str, caller: Writer) -> Response:
    """Say after how long it is archived when stopped."""
    asked = checked_intervals(None, integer("interval", minutes), None)
    return await _set_interval(caller, name, lambda known: replace(known, archive=asked.archive))


@router.post("/{name}/autodelete/{minutes}")
async def set_auto_delete(name: str, minutes: str, caller: Writer) -> Response:
    """Say after how long it is deleted when stopped."""
    asked = checked_intervals(None, None, integer("interval", minutes))
    return await _set_interval(caller, name, lambda known: replace(known, delete=asked.delete))


@router.post("/{name}/ttl/{minutes}")
async def set_ttl(name: str, minutes: str, caller: Writer) -> Response:
    """Say after how long from now it is deleted, whatever it does; 0 is never."""
    asked = checked_intervals(None, None, None, integer("ttlMinutes", minutes))
    return _one(caller, await caller.sandboxes.set_ttl(name, asked.ttl))


@router.post("/{name}/autopause/{minutes}")
async def set_auto_pause(name: str, minutes: str, caller: Writer) -> Response:
    """Refuse to pause; not to pause is what every sandbox does."""
    sandbox = await caller.sandboxes.get(name)
    if integer("interval", minutes) != 0:
        raise UnsupportedError("This version does not support pausing: use autostop instead")
    return _one(caller, sandbox)


@router.post("/{name}/pause")
async def pause(name: str, caller: Writer) -> Response:
    """Refuse to pause."""
    await caller.sandboxes.get(name)
    raise UnsupportedError("Pausing is not supported for this sandbox: use stop instead")


@router.post("/{name}/fork")
async def fork(name: str, caller: Writer) -> Response:
    """Refuse to fork."""
    await caller.sandboxes.get(name)
    raise UnsupportedError(
        "Forking is not supported for this sandbox: make a snapshot of it and create from that"
    )


async def _set_interval(
    caller: Caller, name: str, change: Callable[[Intervals], Intervals]
) -> Response:
    return await _amend(caller, name, lambda s: replace(s, intervals=change(s.intervals)))


async def _amend(caller: Caller, name: str, change: Callable[[Sandbox], Sandbox]) -> Response:
    return _one(caller, await caller.sandboxes.amend(name, change))


@router.post("/{name}/snapshot", openapi_extra=takes(SandboxSnapshotBody))
async def make_snapshot(name: str, request: Request, caller: Writer) -> Response:
    """Make a snapshot of a sandbox's files."""
    body = await read_body(request, SandboxSnapshotBody)
    return _one(caller, await caller.sandboxes.snapshot(name, body.wanted()))


@router.get("/{name}/build-logs-url")
async def build_logs_url(name: str, caller: AnyCaller) -> Response:
    """Say where the log of its build is."""
    sandbox = await caller.sandboxes.get(name)
    return answer(
        {"url": f"{caller.service.settings.base_url}/api/sandbox/{sandbox.id}/build-logs"}
    )


@router.get("/{name}/build-logs")
async def build_logs(name: str, request: Request, caller: AnyCaller) -> Response:
    """Show the log of its build, on request to its end."""
    sandbox = await caller.sandboxes.get(name)
    if sandbox.build is None:
        raise NotFoundError(f"Sandbox {name} was not built from a Dockerfile")
    return build_log(caller, await caller.snapshots.get(sandbox.snapshot), request)


@router.post("/{name}/network-settings", openapi_extra=takes(NetworkBody))
async def set_network(name: str, request: Request, caller: Writer) -> Response:
    """Say where it may connect to; one that runs is told at once."""
    body = await read_body(request, NetworkBody)
    return await _amend(
        caller, name, lambda sandbox: replace(sandbox, network=body.changed(sandbox.network))
    )


@router.post("/{name}/last-activity", status_code=201)
async def touch(name: str, caller: Writer) -> Response:
    """Note activity."""
    await caller.service.tell_use(await caller.sandboxes.touch(name))
    return Response(status_code=201)


@router.get("/{name}/toolbox-proxy-url")
async def toolbox_url(name: str, caller: AnyCaller) -> Response:
    """Say where the toolbox is: an id and a path are appended to it."""
    await caller.sandboxes.get(name)
    return answer({"url": caller.service.settings.toolbox_url})


@router.get("/{name}/signing-key")
async def signing_key(name: str, caller: Writer) -> Response:
    """Give the key for signed file URLs."""
    sandbox = await caller.sandboxes.get(name)
    return answer(sandbox.secrets.file_signing_key)


@router.post("/{name}/signing-key/rotate")
async def rotate_signing_key(name: str, caller: Writer) -> Response:
    """Replace the key for signed file URLs; older URLs end."""
    sandbox = await caller.sandboxes.amend(name, with_new_file_key)
    return answer(sandbox.secrets.file_signing_key)
