"""The calls around API keys. A key's value is shown once, when it is made."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from control.api.bodies import KeyBody, read_body
from control.api.caller import AnyCaller, KeyManager
from control.api.description import takes
from control.api.wire import answer, key_json

router = APIRouter(prefix="/api/api-keys")


@router.post("", status_code=201, openapi_extra=takes(KeyBody))
async def create(request: Request, caller: KeyManager) -> Response:
    """Make a key."""
    body = await read_body(request, KeyBody)
    key, value = await caller.service.keys.create(
        body.name, body.wanted(), body.end(), by=caller.key
    )
    shown = key_json(key)
    fields = ("name", "createdAt", "permissions", "expiresAt")
    return answer({**{name: shown[name] for name in fields}, "value": value}, 201)


@router.get("")
async def list_keys(caller: KeyManager) -> Response:
    """List all keys."""
    return answer([key_json(key) for key in caller.service.keys.of(caller.organization_id)])


@router.get("/current")
async def current(caller: AnyCaller) -> Response:
    """Show the key that asks."""
    return answer(key_json(caller.service.keys.get(caller.organization_id, caller.key.name)))


@router.get("/{name}")
async def get(name: str, caller: KeyManager) -> Response:
    """Show a key."""
    return answer(key_json(caller.service.keys.get(caller.organization_id, name)))


@router.delete("/{name}", status_code=204)
async def delete(name: str, caller: KeyManager) -> Response:
    """Call a key back: gates hear of it at once."""
    await caller.service.keys.remove(name, by=caller.key)
    return Response(status_code=204)
