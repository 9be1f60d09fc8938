"""The calls around snapshots and regions."""

from __future__ import annotations

from datetime import UTC, datetime

from fastapi import APIRouter, Request
from starlette.responses import Response

from control.api.caller import AnyCaller, Caller
from control.api.lists import read_limit, read_page
from control.api.wire import answer, iso, snapshot_json
from control.model import REGION, Snapshot
from control.snapshots import existing_snapshot

router = APIRouter(prefix="/api")

_BEGINNING = datetime(2025, 1, 1, tzinfo=UTC)


@router.get("/snapshots")
async def list_snapshots(request: Request, caller: AnyCaller) -> Response:
    """List snapshots by numbered pages."""
    query = request.query_params
    number, limit = read_page(query), read_limit(query)
    page = await caller.service.store.snapshots.page(
        caller.organization_id, name=query.get("name", ""), limit=limit, offset=(number - 1) * limit
    )
    return answer(
        {
            "items": [snapshot_json(snapshot) for snapshot in page.snapshots],
            "total": page.total,
            "page": number,
            "totalPages": -(-page.total // limit),
        }
    )


@router.get("/snapshots/{name:path}")
async def get_snapshot(name: str, caller: AnyCaller) -> Response:
    """Show a snapshot; names may have slashes."""
    return answer(snapshot_json(await _existing(caller, name)))


async def _existing(caller: Caller, name: str) -> Snapshot:
    return await existing_snapshot(caller.service.store.snapshots, caller.organization_id, name)


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
