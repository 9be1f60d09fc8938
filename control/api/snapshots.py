"""The calls around snapshots and regions."""

from __future__ import annotations

from datetime import UTC, datetime

from fastapi import APIRouter, Request
from starlette.responses import Response

from control.api.bodies import SnapshotBody, read_body
from control.api.build_logs import build_log
from control.api.caller import AnyCaller, SnapshotDeleter, SnapshotWriter
from control.api.description import takes
from control.api.lists import snapshot_query
from control.api.wire import answer, iso, snapshot_json
from control.model import REGION

router = APIRouter(prefix="/api")

_BEGINNING = datetime(2025, 1, 1, tzinfo=UTC)


@router.post("/snapshots", openapi_extra=takes(SnapshotBody))
async def create_snapshot(request: Request, caller: SnapshotWriter) -> Response:
    """Create a snapshot; it is made soon."""
    body = await read_body(request, SnapshotBody)
    made = await caller.snapshots.create(
        body.name, body.image_name, body.wish(), body.entrypoint or ()
    )
    return answer(snapshot_json(made))


@router.get("/snapshots")
async def list_snapshots(request: Request, caller: AnyCaller) -> Response:
    """List snapshots by numbered pages."""
    wanted, number = snapshot_query(request.query_params)
    page = await caller.snapshots.page(wanted)
    return answer(
        {
            "items": [snapshot_json(snapshot) for snapshot in page.snapshots],
            "total": page.total,
            "page": number,
            "totalPages": -(-page.total // wanted.limit),
        }
    )


@router.post("/snapshots/{name:path}/activate")
async def activate_snapshot(name: str, caller: SnapshotWriter) -> Response:
    """Let sandboxes be made from it again."""
    return answer(snapshot_json(await caller.snapshots.activate(name)))


@router.post("/snapshots/{name:path}/deactivate", status_code=204)
async def deactivate_snapshot(name: str, caller: SnapshotWriter) -> Response:
    """Let no more sandboxes be made from it."""
    await caller.snapshots.deactivate(name)
    return Response(status_code=204)


@router.get("/snapshots/{name:path}/build-logs-url")
async def build_logs_url(name: str, caller: AnyCaller) -> Response:
    """Say where the log of its build is."""
    found = await caller.snapshots.get(name)
    return answer(
        {"url": f"{caller.service.settings.base_url}/api/snapshots/{found.id}/build-logs"}
    )


@router.get("/snapshots/{name:path}/build-logs")
async def build_logs(name: str, request: Request, caller: AnyCaller) -> Response:
    """Show the log of its build, on request to its end."""
    return build_log(caller, await caller.snapshots.get(name), request)


@router.get("/snapshots/{name:path}")
async def get_snapshot(name: str, caller: AnyCaller) -> Response:
    """Show a snapshot; names may have slashes."""
    return answer(snapshot_json(await caller.snapshots.get(name)))


@router.delete("/snapshots/{name:path}")
async def delete_snapshot(name: str, caller: SnapshotDeleter) -> Response:
    """Have a snapshot removed."""
    await caller.snapshots.delete(name)
    return Response(status_code=200)


@router.get("/regions")
@router.get("/shared-regions")
async def list_regions(caller: AnyCaller) -> Response:
    """List regions: there is one."""
    settings = caller.service.settings
    return answer(
        [
            {
                "id": REGION,
                "name": REGION,
                "regionType": "shared",
                "organizationId": None,
                "proxyUrl": settings.base_url,
                "createdAt": iso(_BEGINNING),
                "updatedAt": iso(_BEGINNING),
            }
        ]
    )
