"""What runners report: sealed by the key of their node, and never by way of the outside."""

from __future__ import annotations

import json
from typing import Any

from fastapi import APIRouter, Request
from pydantic_core import from_json
from starlette.responses import Response

from control.api.caller import service_of
from control.api.envelope import no_route
from control.errors import ForbiddenError, InvalidError
from control.service import Service
from jobs.runner.message import UP, UP_ANSWER, BadMessage, Head, read_head, seal, unseal

router = APIRouter(prefix="/internal")

# Whatever comes through a proxy has one of these; runners come directly.
_PROXIED = ("x-forwarded-for", "x-forwarded-host", "forwarded", "via")


@router.post("/report", include_in_schema=False)
async def report(request: Request) -> Response:
    """Take a runner's report."""
    if any(name in request.headers for name in _PROXIED):
        raise no_route(request.method, request.url.path)
    service = service_of(request)
    body = await request.body()
    head, key = await _opened(service, request, body)
    try:
        said: Any = from_json(body)
    except ValueError as error:
        raise InvalidError("not a report") from error
    if not isinstance(said, dict):
        raise InvalidError("not a report")
    answered = json.dumps(dict(await service.reports.take(head, said))).encode()
    sealed = seal(key, UP_ANSWER, head, answered)
    return Response(answered, headers=sealed, media_type="application/json")


async def _opened(service: Service, request: Request, body: bytes) -> tuple[Head, bytes]:
    try:
        key = await service.node_key(read_head(request.headers).node)
        if key is None:
            raise BadMessage("unknown node")
        return unseal(key, UP, request.headers, body), key
    except BadMessage as error:
        raise ForbiddenError("not from one of our runners") from error
