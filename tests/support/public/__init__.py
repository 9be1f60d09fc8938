"""The public description of the wire, and how far an answer of ours deviates from it."""

from __future__ import annotations

import functools
import itertools
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastapi.routing import APIRoute
from jsonschema import Draft202012Validator
from starlette.routing import Match

from control.app import _ROUTERS

if TYPE_CHECKING:
    import httpx

# What we say beyond it; SDKs ignore fields that they do not know.
MORE_FIELDS = {
    "Sandbox": {"kvm"},  # SDKs that are newer than the description demand it
    "SandboxListItem": {"kvm", "env", "volumes", "buildInfo"},  # a whole sandbox is one, too
    "Organization": {"apiKey"},
    "OidcConfig": {"provider"},  # the newest SDK demands it before it asks for figures
    "SnapshotDto": {"enabled"},  # SDK 0.21 demands it
}
# Answered by a whole sandbox, which has the field that is described.
WHOLE = {"SandboxLabels"}
# Statuses of refusals that the wire may have at any call, whether or not they are described.
REFUSALS = frozenset({400, 401, 403, 404, 409, 413, 422, 429, 500, 501, 503, 504})


@functools.cache
def public() -> dict[str, Any]:
    """Read the description; its schemas are closed, so that a field of ours is noticed."""
    text = (Path(__file__).parent / "api.json").read_text(encoding="utf-8")
    read: dict[str, Any] = json.loads(text)
    for name, schema in read["schemas"].items():
        if "properties" in schema and name not in WHOLE:
            schema["properties"].update({field: {} for field in MORE_FIELDS.get(name, ())})
            schema.setdefault("additionalProperties", False)
    return read


def shape(path: str) -> str:
    """Write a path so that it is the same whatever its parameters are called."""
    return re.sub(r"\{[^}]*\}", "{}", path.removeprefix("/api"))


@functools.cache
def by_shape() -> dict[str, str]:
    """Name the operations of the description by method and shape."""
    return {shape(operation): operation for operation in public()["operations"]}


def deviations(operation: str, status: int, body: Any) -> list[str]:
    """Tell where an answer of a described operation is not as described."""
    described = public()["operations"][operation]
    if status in REFUSALS and status not in described["statuses"]:
        return []
    if status not in described["statuses"]:
        return [f"{operation}: status {status}, not of {described['statuses']}"]
    of_an_old_sdk = operation == "GET /sandbox" and isinstance(body, list)
    if "answer" not in described or of_an_old_sdk:
        return []
    found = _validator(operation).iter_errors(body)
    return [f"{operation}: {error.json_path}: {error.message[:300]}" for error in found]


@functools.cache
def _validator(operation: str) -> Draft202012Validator:
    answer = public()["operations"][operation]["answer"]
    return Draft202012Validator({**answer, "schemas": public()["schemas"]})


def operation_of(request: httpx.Request) -> str | None:
    """Name the described operation that a request of ours is, None for anything else."""
    asked = {"type": "http", "method": request.method, "path": request.url.path}
    for route in itertools.chain.from_iterable(router.routes for router in _ROUTERS):
        if isinstance(route, APIRoute) and route.matches(asked)[0] is Match.FULL:
            return by_shape().get(f"{request.method} {shape(route.path)}")
    return None
