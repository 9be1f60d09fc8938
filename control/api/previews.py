"""The calls that give out preview URLs: they open a sandbox, so they take more than reading."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from control.api.bodies import integer, port_number
from control.api.caller import Writer
from control.api.wire import answer
from control.previews import DEFAULT_SECONDS

router = APIRouter(prefix="/api/sandbox/{name}/ports/{port}")


@router.get("/preview-url")
async def preview_url(name: str, port: str, caller: Writer) -> Response:
    """Give the URL of a port, and the token that opens it when the sandbox is not public."""
    number = port_number(port)
    sandboxes = caller.sandboxes
    sandbox = await sandboxes.get(name)
    return answer(
        {
            "sandboxId": sandbox.id,
            "url": sandboxes.preview_url(sandbox, number),
            "token": sandbox.secrets.preview_token,
        }
    )


@router.get("/signed-preview-url")
async def signed_preview_url(name: str, port: str, request: Request, caller: Writer) -> Response:
    """Give a URL that opens a port for a while, to whoever has it."""
    number = port_number(port)
    asked = request.query_params.get("expiresInSeconds") or str(DEFAULT_SECONDS)
    seconds = integer("expiresInSeconds", asked)
    sandboxes = caller.sandboxes
    sandbox = await sandboxes.get(name)
    label = sandboxes.signed_label(sandbox, number, seconds)
    return answer(
        {
            "sandboxId": sandbox.id,
            "port": number,
            "token": f"{sandbox.id}-{label}",
            "url": sandboxes.preview_url(sandbox, number, label),
        }
    )


@router.post("/signed-preview-url/{token}/expire")
async def expire(name: str, port: str, token: str, caller: Writer) -> Response:
    """Call a signed URL back."""
    label = token.lower().rpartition("-")[2]
    await caller.sandboxes.revoke_label(name, port_number(port), label)
    return Response(status_code=200, media_type="application/json")
