"""What control tells of itself: metrics, whom it tells, and ids of requests."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from typing_extensions import override

from control.errors import UnavailableError
from control.logs import JsonFormatter
from tests.support.control_rig import complaint

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.support.control_rig import Rig

pytestmark = [pytest.mark.unit, pytest.mark.asyncio(loop_scope="session")]

PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"
URL = "http://localhost:9878/metrics"


@pytest.fixture
async def anyone(rig: Rig) -> AsyncIterator[httpx.AsyncClient]:
    """A client without a key."""
    transport = httpx.ASGITransport(rig.control.app)
    async with httpx.AsyncClient(transport=transport, trust_env=False) as client:
        yield client


async def told(rig: Rig) -> dict[str, dict[tuple[str, ...], float]]:
    """Return the value of each name by the values of its labels."""
    answer = await rig.http.get(URL)
    assert answer.status_code == 200, answer.text
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for family in text_string_to_metric_families(answer.text):
        for sample in family.samples:
            values = tuple(value for name, value in sample.labels.items() if name != "le")
            found.setdefault(sample.name, {})[values] = sample.value
    return found


async def test_the_page_and_what_is_served_agree(rig: Rig) -> None:
    made = await rig.create()
    rig.control.reconciler.failures["UnavailableError"] += 1
    rig.control.reconciler.silences["routes"] += 1
    await rig.show(made["id"])
    served = (await rig.http.get(URL)).text
    families = {
        (family.name, family.type, tuple(sorted(_labels(family.samples))))
        for family in text_string_to_metric_families(served)
    }
    rows = re.findall(r"^\| `([a-z_]+)` \| (\w+) \| (.*?) \|", PAGE.read_text(), re.MULTILINE)
    listed = {
        (
            name.removesuffix("_total") if kind == "counter" else name,
            kind,
            tuple(sorted(re.findall(r"`(\w+)`", labels))),
        )
        for name, kind, labels in rows
    }
    assert families == listed


def _labels(samples: object) -> set[str]:
    return {name for sample in samples for name in sample.labels} - {"le"}  # type: ignore[attr-defined]


async def test_what_happens_is_counted_by_templates_and_not_by_paths(rig: Rig) -> None:
    before = await told(rig)
    made = await rig.create()
    await rig.show(made["id"])
    await rig.call("GET", "/sandbox/not-there")
    await rig.call("GET", "/no/such/call")
    await rig.http.request("BREW", "http://localhost:9878/api/coffee")
    after = await told(rig)
    counts, old = (x["yurt_http_request_duration_seconds_count"] for x in (after, before))
    routes = {key[1] for key in counts}
    assert not any(made["id"] in route or "not-there" in route for route in routes)
    template = "/api/sandbox/{name}"
    shown, missing = ("GET", template, "200"), ("GET", template, "404")
    for key in (shown, missing, ("GET", "none", "404"), ("OTHER", "none", "404")):
        assert counts[key] - old.get(key, 0) >= 1, key
    assert after["yurt_sandboxes"]["started",] >= 1
    started = ("create", "started")
    made_before = before.get("yurt_start_duration_seconds_count", {}).get(started, 0)
    assert after["yurt_start_duration_seconds_count"][started] == made_before + 1
    assert after["yurt_reconcile_leader"][()] == 1
    assert after["yurt_reconcile_wait_seconds_count"][()] > 0


async def test_a_start_that_fails_is_counted_as_such(rig: Rig) -> None:
    before = (await told(rig)).get("yurt_start_duration_seconds_count", {})
    runner = await rig.submitted()
    await runner.report("exit", reason="no room", code=1, reached="assign")
    rig.scheduler.end(runner.job.sandbox_id, "no room", code=1, phase="assign")
    await rig.until(runner.job.sandbox_id, "error")
    after = (await told(rig))["yurt_start_duration_seconds_count"]
    key = ("create", "failed")
    assert after[key] == before.get(key, 0) + 1


async def test_only_who_runs_the_installation_is_told(rig: Rig, anyone: httpx.AsyncClient) -> None:
    assert (await anyone.get(URL)).status_code == 401
    tenant = await rig.tenant("watched")
    headers = {"authorization": f"Bearer {tenant.key}"}
    refused = await anyone.get(URL, headers=headers)
    assert refused.status_code == 403
    assert complaint(refused)
    assert (await anyone.get("http://elsewhere.example:9878/metrics")).status_code == 421


async def test_without_the_database_the_rest_is_told(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away() -> dict[str, int]:  # noqa: RUF029 - as the store's
        raise UnavailableError("the database is away")

    monkeypatch.setattr(rig.store.sandboxes, "states", away)
    values = await told(rig)
    assert values["yurt_part_up"] == {("database",): 0, ("routes",): 1, ("scheduler",): 1}
    assert "yurt_sandboxes" not in values
    assert values["yurt_build_info"]


async def test_a_request_keeps_its_id_or_gets_one(rig: Rig) -> None:
    kept = await rig.call("GET", "/sandbox", headers={"x-request-id": "abc-1:2/3"})
    assert kept.headers["x-request-id"] == "abc-1:2/3"
    made = {(await rig.call("GET", "/sandbox")).headers["x-request-id"] for _ in range(2)}
    assert len(made) == 2
    for unfit in ("", "a b", "x" * 129, "\x22quoted"):
        answer = await rig.call("GET", "/nothing", headers={"x-request-id": unfit})
        assert answer.status_code == 404
        assert re.fullmatch("[0-9a-f]{32}", answer.headers["x-request-id"])


async def test_what_is_logged_for_a_request_has_its_id(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    lines: list[dict[str, object]] = []

    class Written(logging.Handler):
        @override
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(json.loads(JsonFormatter().format(record)))

    handler = Written()
    logging.getLogger("control.front").addHandler(handler)
    try:
        with caplog.at_level(logging.INFO, "control.front"):
            headers = {"x-request-id": "mine-7"}
            await rig.call("POST", "/sandbox", json={"name": "logged"}, headers=headers)
    finally:
        logging.getLogger("control.front").removeHandler(handler)
    served = [line for line in lines if line.get("path") == "/api/sandbox"]
    assert [line["request_id"] for line in served] == ["mine-7"]
