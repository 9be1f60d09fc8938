"""The calls around organisations, their use of the machines, and who is asking."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from control.api.bodies import OrganizationBody, QuotaBody, read_body
from control.api.caller import AnyCaller, Auditor, KeyManager
from control.api.description import takes
from control.api.lists import read_limit, read_page
from control.api.wire import answer, audit_json, iso, organization_json, usage_json
from control.errors import NotFoundError
from control.keys import FIRST
from control.model import REGION

router = APIRouter(prefix="/api")


@router.post("/organizations", status_code=201, openapi_extra=takes(OrganizationBody))
async def create(request: Request, caller: KeyManager) -> Response:
    """Make an organisation; its first key is shown once, here."""
    body = await read_body(request, OrganizationBody)
    made, value = await caller.service.organizations.create(body.name, by=caller.key)
    shown = organization_json(made, caller.service.settings)
    return answer({**shown, "apiKey": {"name": FIRST, "value": value}}, 201)


@router.get("/organizations")
async def list_organizations(caller: AnyCaller) -> Response:
    """List the caller's organisation; whoever runs the installation sees all."""
    known = await caller.service.organizations.visible(caller.key)
    return answer([organization_json(one, caller.service.settings) for one in known])


@router.get("/organizations/{organization_id}")
async def get(organization_id: str, caller: AnyCaller) -> Response:
    """Show an organisation."""
    found = await caller.service.organizations.get(organization_id, by=caller.key)
    return answer(organization_json(found, caller.service.settings))


@router.delete("/organizations/{organization_id}", status_code=204)
async def delete(organization_id: str, caller: KeyManager) -> Response:
    """Remove an organisation that has no sandboxes."""
    await caller.service.organizations.remove(organization_id, by=caller.key)
    return Response(status_code=204)


@router.get("/organizations/{organization_id}/usage")
async def usage(organization_id: str, caller: AnyCaller) -> Response:
    """Show what an organisation uses, and how much it may."""
    found = await caller.service.organizations.get(organization_id, by=caller.key)
    used = await caller.service.store.sandboxes.usage(found.id)
    return answer(usage_json(found, used, caller.service.settings))


@router.patch(
    "/organizations/{organization_id}/quota/{region_id}",
    status_code=204,
    openapi_extra=takes(QuotaBody),
)
async def limit(
    organization_id: str, region_id: str, request: Request, caller: KeyManager
) -> Response:
    """Say how much an organisation may use in a region, of which there is one."""
    body = await read_body(request, QuotaBody)
    organizations = caller.service.organizations
    await organizations.get(organization_id, by=caller.key)
    if region_id != REGION:
        raise NotFoundError("Region not found")
    await organizations.limit(organization_id, body.limits(), by=caller.key)
    return Response(status_code=204)


@router.get("/audit/organizations/{organization_id}")
async def audit_log(organization_id: str, request: Request, caller: Auditor) -> Response:
    """Show what was done by whose keys, the newest first, by numbered pages."""
    found = await caller.service.organizations.get(organization_id, by=caller.key)
    number, limit = read_page(request.query_params), read_limit(request.query_params)
    lines, total = await caller.service.store.trail.page(
        found.id, limit=limit, offset=(number - 1) * limit
    )
    items = [audit_json(line) for line in lines]
    pages = -(-total // limit)
    return answer({"items": items, "total": total, "page": number, "totalPages": pages})


@router.get("/users/me")
async def me(caller: AnyCaller) -> Response:
    """Show who is asking: there are no users but organisations."""
    found = await caller.service.organizations.get(caller.organization_id, by=caller.key)
    return answer(
        {
            "id": found.id,
            "name": found.name,
            "email": "",
            "emailVerified": False,
            "publicKeys": [],
            "createdAt": iso(found.created_at),
        }
    )
