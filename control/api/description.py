"""The API's description of itself (OpenAPI), for whoever has a key."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from starlette.responses import Response

from control.api.caller import AnyCaller
from control.api.wire import answer

router = APIRouter(prefix="/api")

_ERROR = {
    "description": "A refusal",
    "content": {
        "application/json": {
            "schema": {
                "type": "object",
                "required": ["path", "timestamp", "statusCode", "error", "message"],
                "properties": {
                    "path": {"type": "string"},
                    "timestamp": {"type": "string", "format": "date-time"},
                    "statusCode": {"type": "integer"},
                    "error": {"type": "string"},
                    "message": {"type": "string"},
                    "code": {"type": "string"},
                    "source": {"type": "string"},
                },
            }
        }
    },
}


def takes(kind: type[BaseModel]) -> dict[str, Any]:
    """Describe what a call takes as its body, for ``openapi_extra``."""
    schema = kind.model_json_schema(by_alias=True)
    return {"requestBody": {"content": {"application/json": {"schema": schema}}}}


def described(app: FastAPI) -> dict[str, Any]:
    """Describe an application as it is: with its refusals, and how a caller says who it is."""
    made = get_openapi(title="Yurt", version=version("yurt-server"), routes=app.routes)
    for operations in made["paths"].values():
        for operation in operations.values():
            # Bodies and parameters are read by hand, and refused by 400.
            operation["responses"].pop("422", None)
            operation["responses"]["default"] = _ERROR
    schemes = {"bearer": {"type": "http", "scheme": "bearer"}}
    made["components"] = {"securitySchemes": schemes}
    made["security"] = [{"bearer": []}]
    return made


@router.get("/openapi.json")
async def openapi(request: Request, _: AnyCaller) -> Response:
    """Describe this API."""
    return answer(described(request.app))
