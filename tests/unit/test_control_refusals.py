"""What cannot be done is refused whole, with the wire's statuses and with what to change.

All of it by one control: nothing here changes anything.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.control_rig import Rig, complaint

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = [pytest.mark.unit, pytest.mark.asyncio(loop_scope="session")]


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        ({"snapshot": "nope"}, 400, "Snapshot nope not found. Did you add it through the Daytona"),
        ({"name": "a/b"}, 400, "name must have"),
        ({"name": "23ocbyxduvxi4h3qfgxszz4fjx"}, 400, "not look like a sandbox id"),
        ({"name": 5}, 400, "name: Input should be a valid string"),
        ({"env": {"A": 1}}, 400, "env.A: Input should be a valid string"),
        ({"env": ["A"]}, 400, "env: Input should be a valid dictionary"),
        ({"env": {"A=B": "c"}}, 400, "env: 'A=B' cannot be set"),
        ({"env": {"A": "b\0"}}, 400, "env: 'A' cannot be set"),
        ({"env": {"A": "b" * 140_000}}, 400, "env: 'A' is longer"),
        ({"env": {f"A{n}": "b" * 100_000 for n in range(3)}}, 400, "env is larger"),
        ({"labels": {"a": None}}, 400, "labels.a: Input should be a valid string"),
        ({"labels": {"a": "b" * 300_000}}, 400, "labels are larger"),
        ({"autoStopInterval": -1}, 400, "autoStopInterval must be non-negative"),
        ({"autoArchiveInterval": -1}, 400, "autoArchiveInterval must be non-negative"),
        ({"autoStopInterval": 1.5}, 400, "autoStopInterval: Input should be a valid integer"),
        ({"autoStopInterval": "15"}, 400, "autoStopInterval: Input should be a valid integer"),
        ({"autoStopInterval": 10**12}, 400, "at most"),
        ({"public": "yes"}, 400, "public: Input should be a valid boolean"),
        ({"snapshot": "default", "cpu": 2}, 400, "Cannot specify Sandbox resources when using"),
        ({"cpu": 0}, 400, "CPU must be at least 1"),
        ({"memory": 9999}, 400, "Memory limit exceeded. Maximum allowed: 256."),
        ({"user": "a b"}, 400, "user must be"),
        ({"target": "a b"}, 400, "target must be"),
        ({"networkAllowList": "example.org"}, 400, "networkAllowList"),
        ({"networkAllowList": "10.0.0.1/8"}, 400, "networkAllowList"),
        ({"networkAllowList": ",".join(["1.2.3.4"] * 65)}, 400, "more than 64"),
        ({"buildInfo": {"dockerfileContent": "FROM x\n"}, "snapshot": "default"}, 400, "both"),
        (
            {"buildInfo": {"dockerfileContent": "FROM x\nADD a b"}},
            422,
            "line 2: ADD is not supported",
        ),
        ({"buildInfo": {"dockerfileContent": "RUN x"}}, 400, "must begin with FROM"),
        ({"buildInfo": {"dockerfileContent": "FROM 10.0.0.1/x"}}, 400, "YURT_REGISTRIES"),
        ({"buildInfo": {}}, 400, "dockerfileContent"),
        ({"volumes": [{"volumeId": "v", "mountPath": "/v"}]}, 400, "Volume 'v' not found"),
        ({"secrets": [{"A": "b"}]}, 422, "does not support secrets"),
        ({"gpu": 1}, 422, "does not support GPUs"),
        ({"domainAllowList": "a.org"}, 501, "domainAllowList is not served"),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, dict) else "",
)
async def test_what_cannot_be_created_is_refused_whole(
    rig: Rig, body: dict[str, Any], status: int, says: str
) -> None:
    answer = await rig.call("POST", "/sandbox", json=body)
    assert answer.status_code == status, answer.text
    assert says in complaint(answer)
    assert await rig.store.sandboxes.survey() == []


async def test_what_is_not_a_client_s_to_say_is_ignored(rig: Rig) -> None:
    forged = {
        "id": "2" * 26,
        "organizationId": "other",
        "state": "error",
        "errorReason": "forged",
        "generation": 7,
        "node": "other",
        "hostPath": "/",
        "privileged": True,
        "runtime": "none",
        "previewToken": "forged",
        "private_ports": [],
        "imageId": "/etc/shadow",
    }
    made = await rig.create(**forged)
    plain = await rig.create()
    for name in forged:
        assert made.get(name) != forged[name], name
    same = made.keys() - {"id", "name", "createdAt", "updatedAt", "lastActivityAt"}
    assert {k: v for k, v in made.items() if k in same and made["id"] not in str(v)} == {
        k: v for k, v in plain.items() if k in same and plain["id"] not in str(v)
    }
    jobs = [rig.scheduler.jobs[one["id"]] for one in (made, plain)]
    assert replace(jobs[0], sandbox_id=jobs[1].sandbox_id) == jobs[1]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"{", "not valid JSON"),
        (b"[]", "The body: Input should be"),
        (b'"x"', "The body: Input should be"),
        (b"[" * 100_000, "not valid JSON"),
        (b'{"name": "\xff"}', "not valid JSON"),
        (b'{"env": {"A": "\\ud800"}}', "not valid JSON"),
        (b'{"cpu": NaN}', "cpu"),
    ],
)
async def test_what_is_not_json_of_the_right_kind_is_refused(
    rig: Rig, content: bytes, says: str
) -> None:
    answer = await rig.call("POST", "/sandbox", content=content)
    assert answer.status_code == 400, answer.text
    assert says in complaint(answer)


@pytest.mark.parametrize(
    "query",
    [
        "limit=0",
        "limit=201",
        "limit=x",
        "cursor=%21",
        "labels=x",
        "labels=[]",
        'labels={"a":1}',
        "states=odd",
        "sort=odd",
        "order=odd",
        "minCpu=x",
        "isPublic=perhaps",
        "createdAtAfter=yesterday",
    ],
)
@pytest.mark.parametrize("path", ["/sandbox", "/sandbox/paginated"])
async def test_a_list_that_cannot_be_read_is_refused(rig: Rig, path: str, query: str) -> None:
    if path.endswith("paginated") and query.startswith("cursor"):
        query = "page=0"
    answer = await rig.call("GET", f"{path}?{query}")
    assert answer.status_code == 400, answer.text
    assert complaint(answer)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", ""),
        ("DELETE", ""),
        ("POST", "/start"),
        ("POST", "/stop"),
        ("POST", "/recover"),
        ("POST", "/public/true"),
        ("POST", "/autostop/1"),
        ("POST", "/last-activity"),
        ("GET", "/ports/80/preview-url"),
        ("GET", "/signing-key"),
        ("GET", "/toolbox-proxy-url"),
    ],
)
async def test_what_is_not_there_is_said_in_the_wire_s_words(
    rig: Rig, method: str, path: str
) -> None:
    for name in ("nope", "23ocbyxduvxi4h3qfgxszz4fjx"):
        answer = await rig.call(method, f"/sandbox/{name}{path}")
        assert answer.status_code == 404
        assert complaint(answer) == f"Sandbox with ID or name {name} not found"


async def test_unknown_calls_are_told_from_unknown_things(rig: Rig) -> None:
    for method, path in (("POST", "/volume"), ("PATCH", "/sandbox"), ("GET", "/sandbox/a/b/c")):
        answer = await rig.call(method, path)
        assert answer.status_code == 404
        assert complaint(answer) == f"Cannot {method} /api{path}"


async def test_a_body_of_more_than_a_mebibyte_is_refused(rig: Rig) -> None:
    large = b'{"name": "' + b"x" * (1 << 20) + b'"}'
    said = await rig.call("POST", "/sandbox", content=large)
    assert (said.status_code, complaint(said)) == (413, "The body is larger than 1 MiB")

    async def unsaid() -> AsyncIterator[bytes]:
        await asyncio.sleep(0)
        for start in range(0, len(large), 65536):
            yield large[start : start + 65536]

    streamed = await rig.call("POST", "/sandbox", content=unsaid())
    assert (streamed.status_code, complaint(streamed)) == (413, "The body is larger than 1 MiB")
