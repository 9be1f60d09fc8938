"""What Prometheus asks for, by a key of whoever runs the installation."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import Response

from control.api.caller import KeyManager
from control.errors import ForbiddenError
from control.metrics import CONTENT_TYPE
from control.organizations import is_operator

router = APIRouter()


@router.get("/metrics", include_in_schema=False)
async def metrics(caller: KeyManager) -> Response:
    """Tell all that this control counts, of all organisations."""
    if not is_operator(caller.key):
        raise ForbiddenError("Metrics are told to keys of the installation's own organization")
    return Response(await caller.service.metrics(), media_type=CONTENT_TYPE)
