"""The calls that need no key. A test holds this list short."""

from __future__ import annotations

from importlib.metadata import version

from fastapi import APIRouter, Request
from starlette.responses import Response

from control.api.caller import service_of
from control.api.wire import answer
from control.errors import YurtError
from control.snapshots import DEFAULT
from control.wishes import MAX_ARCHIVE_MINUTES

_PARTS = ("database", "scheduler", "routes")

router = APIRouter(prefix="/api")


@router.get("/health")
async def health() -> Response:
    """Say that this process answers."""
    return answer({"status": "ok"})


@router.get("/health/ready")
async def ready(request: Request) -> Response:
    """Say whether requests can be served: whether the store answers; others only delay things."""
    service = service_of(request)
    silent = set(service.troubles())
    try:
        await service.store.ping()
    except YurtError:
        silent.add("database")
    up = {name: {"status": "up"} for name in _PARTS if name not in silent}
    down = {name: {"status": "down"} for name in _PARTS if name in silent}
    is_ready = "database" in up
    said = {"status": "ok" if is_ready else "error", "info": up, "error": down}
    return answer({**said, "details": {**up, **down}}, 200 if is_ready else 503)


@router.get("/config")
async def config(request: Request) -> Response:
    """Say where things are; SDKs before 0.143 find the toolbox by it."""
    settings = service_of(request).settings
    return answer(
        {
            "version": version("yurt-server"),
            "oidc": {"issuer": "", "clientId": "", "audience": "", "provider": ""},
            "linkedAccountsEnabled": False,
            "announcements": {},
            "proxyTemplateUrl": settings.preview_url(
                f"{{{{PORT}}}}-{{{{sandboxId}}}}.{settings.domains[0]}"
            ),
            "proxyToolboxUrl": settings.toolbox_url,
            "defaultSnapshot": DEFAULT,
            "dashboardUrl": settings.base_url,
            "maxAutoArchiveInterval": MAX_ARCHIVE_MINUTES,
            "maintananceMode": False,
            "environment": "production",
        }
    )
