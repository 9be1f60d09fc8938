"""What we serve beside the wire's public description, and what of it we do not.

That answers are as described is held against every answer of every unit test (``control_rig``).
"""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from fastapi import FastAPI

from control.api.description import described
from control.app import _ROUTERS
from tests.support.public import by_shape, deviations, public, shape

if TYPE_CHECKING:
    from tests.support.control_rig import Rig

pytestmark = pytest.mark.unit

DOCUMENT = Path(__file__).parents[2] / "docs" / "api.md"
# Ours, and nobody else's: no client of the wire asks for them.
MORE = {
    ("POST /sandbox", "kvm"),  # in SDKs newer than the description
    ("PATCH /organizations/{}/quota/{}", "totalSandboxQuota"),
}
OURS = {"GET /openapi.json"}
# What the SDKs of all generations call, besides what is inside a sandbox.
SDK = """
GET /config | POST /sandbox | GET /sandbox | GET /sandbox/paginated | GET /sandbox/{}
DELETE /sandbox/{} | POST /sandbox/{}/start | POST /sandbox/{}/stop | POST /sandbox/{}/pause
POST /sandbox/{}/archive | POST /sandbox/{}/recover | POST /sandbox/{}/resize
POST /sandbox/{}/fork | POST /sandbox/{}/snapshot | PUT /sandbox/{}/labels
POST /sandbox/{}/public/{} | POST /sandbox/{}/autostop/{} | POST /sandbox/{}/autoarchive/{}
POST /sandbox/{}/autodelete/{} | POST /sandbox/{}/autopause/{} | POST /sandbox/{}/ttl/{}
POST /sandbox/{}/last-activity | POST /sandbox/{}/network-settings | PUT /sandbox/{}/secrets
GET /sandbox/{}/ports/{}/preview-url | GET /sandbox/{}/ports/{}/signed-preview-url
POST /sandbox/{}/ports/{}/signed-preview-url/{}/expire | GET /sandbox/{}/toolbox-proxy-url
GET /sandbox/{}/signing-key | POST /sandbox/{}/signing-key/rotate | POST /sandbox/{}/ssh-access
DELETE /sandbox/{}/ssh-access | GET /sandbox/ssh-access/validate
GET /sandbox/{}/build-logs-url | GET /sandbox/{}/build-logs | POST /snapshots | GET /snapshots
GET /snapshots/{} | DELETE /snapshots/{} | POST /snapshots/{}/activate
GET /snapshots/{}/build-logs | GET /snapshots/{}/build-logs-url
GET /object-storage/push-access | GET /volumes | POST /volumes | GET /volumes/{}
GET /volumes/by-name/{} | DELETE /volumes/{} | POST /secret | GET /secret/paginated
GET /secret/{} | PATCH /secret/{} | DELETE /secret/{} | GET /warm-pools | POST /warm-pools
PATCH /warm-pools/{} | DELETE /warm-pools/{} | GET /sandbox/{}/telemetry/metrics
"""


def sdk_calls() -> set[str]:
    return {call.strip() for call in re.split(r"[|\n]", SDK) if call.strip()}


@functools.cache
def served() -> dict[str, dict[str, Any]]:
    app = FastAPI()
    for router in _ROUTERS:
        app.include_router(router)
    paths = described(app)["paths"]
    return {
        f"{method.upper()} {shape(path)}": operation
        for path, operations in paths.items()
        for method, operation in operations.items()
    }


@pytest.mark.asyncio(loop_scope="session")
async def test_the_description_is_for_who_has_a_key(rig: Rig) -> None:
    shown = await rig.call("GET", "/openapi.json")
    assert shown.status_code == 200
    assert shown.json() == described(rig.control.api)
    anybody = await rig.call("GET", "/openapi.json", headers={"authorization": ""})
    assert anybody.status_code == 401


def test_every_call_is_of_the_public_description() -> None:
    assert served().keys() - OURS - by_shape().keys() == set()


def test_every_status_that_we_promise_is_of_the_public_description() -> None:
    for call, operation in served().items():
        if call in OURS:
            continue
        promised = {int(status) for status in operation["responses"] if status != "default"}
        allowed = public()["operations"][by_shape()[call]]["statuses"]
        assert promised <= set(allowed), call


def test_every_field_that_we_read_is_of_the_public_description() -> None:
    for call, operation in served().items():
        if "requestBody" not in operation:
            continue
        ours = operation["requestBody"]["content"]["application/json"]["schema"]["properties"]
        body = public()["operations"][by_shape()[call]]["body"]
        theirs = public()["schemas"][body["$ref"].rpartition("/")[2]]["properties"]
        more = {field for field in ours if field not in theirs}
        assert {(call, field) for field in more} <= MORE


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"id": None}, "None is not of type 'string'"),
        ({"cpu": "1"}, "'1' is not of type 'number'"),
        ({"strange": 1}, "Additional properties are not allowed"),
        ({"state": "asleep"}, "is not valid under any of the given schemas"),
    ],
)
@pytest.mark.asyncio(loop_scope="session")
async def test_an_answer_that_deviates_is_noticed(
    rig: Rig, change: dict[str, Any], complaint: str
) -> None:
    made = await rig.create()
    operation = by_shape()["GET /sandbox/{}"]
    assert deviations(operation, 200, made) == []
    (said,) = deviations(operation, 200, {**made, **change})
    assert complaint in said
    assert deviations(operation, 201, made) == [f"{operation}: status 201, not of [200]"]


def test_the_calls_of_the_sdks_are_known() -> None:
    assert sdk_calls() <= by_shape().keys()


def table() -> str:
    """Write what is not there, those that an SDK calls first."""
    missing = sorted(by_shape().keys() - served().keys())
    rows = [
        f"| `{by_shape()[call]}` | {'yes' if call in sdk_calls() else ''} |"
        for call in sorted(missing, key=lambda call: (call not in sdk_calls(), call))
    ]
    return "\n".join(("| call | an SDK calls it |", "|---|---|", *rows)) + "\n"


def test_what_is_missing_is_in_the_docs() -> None:
    """Write it anew where it is not: the change is then to be committed."""
    head, mark, _ = DOCUMENT.read_text(encoding="utf-8").partition("| call |")
    wanted = head + table()
    is_right = DOCUMENT.read_text(encoding="utf-8") == wanted
    DOCUMENT.write_text(wanted, encoding="utf-8")
    assert mark
    assert is_right, "docs/api.md was written anew: see what changed, and commit it"
