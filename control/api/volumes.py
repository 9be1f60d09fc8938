"""The calls around volumes."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from control.api.bodies import VolumeBody, read_body, truth
from control.api.caller import VolumeDeleter, VolumeReader, VolumeWriter
from control.api.description import takes
from control.api.wire import answer, volume_json

router = APIRouter(prefix="/api/volumes")


@router.post("", openapi_extra=takes(VolumeBody))
async def create(request: Request, caller: VolumeWriter) -> Response:
    """Make a volume."""
    body = await read_body(request, VolumeBody)
    return answer(volume_json(await caller.volumes.create(body.name)))


@router.get("")
async def list_volumes(request: Request, caller: VolumeReader) -> Response:
    """List volumes; on request also those that were deleted lately."""
    asked = request.query_params.get("includeDeleted")
    with_deleted = truth("includeDeleted", asked) if asked else False
    every = await caller.volumes.all(with_deleted=with_deleted)
    return answer([volume_json(volume) for volume in every])


@router.get("/by-name/{name}")
async def get_named(name: str, caller: VolumeReader) -> Response:
    """Show the volume with a name."""
    return answer(volume_json(await caller.volumes.named(name)))


@router.get("/{volume_id}")
async def get(volume_id: str, caller: VolumeReader) -> Response:
    """Show a volume."""
    return answer(volume_json(await caller.volumes.get(volume_id)))


@router.delete("/{volume_id}")
async def delete(volume_id: str, caller: VolumeDeleter) -> Response:
    """Have a volume removed with all that is in it."""
    await caller.volumes.delete(volume_id)
    return Response(status_code=200)
