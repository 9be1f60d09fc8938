"""Runners' reports: only sealed ones, each once, and only from the start that counts."""

from __future__ import annotations

import json

import pytest

from jobs.runner.message import DOWN, FOR_THE_START, UP, Head, seal
from tests.support.control_rig import NODE_KEY, Rig, Runner

pytestmark = [pytest.mark.unit, pytest.mark.asyncio(loop_scope="session")]

URL = "http://localhost/internal/report"


async def test_the_first_report_is_answered_by_the_assignment(rig: Rig) -> None:
    runner = await rig.submitted()
    answer = await runner.report("assign", facts={"agent_version": "1"})
    assignment = answer.json()
    assert assignment.keys() == {
        *("version", "keys", "preview_token", "signing_key", "file_signing_key", "public"),
        *("revoked_signatures", "private_ports", "env", "user", "workdir", "entrypoint"),
        *("network", "volumes", "limits", "busy", "grace", "secure"),
    }
    assert assignment["user"] == "daytona"


async def test_a_generation_is_claimed_once(rig: Rig) -> None:
    runner = await rig.submitted()
    rival = Runner(rig, runner.job)
    assert (await runner.report("assign")).status_code == 200
    assert (await rival.report("assign")).status_code == 409
    assert (await rival.report("ready")).status_code == 409
    assert (await runner.report("assign")).status_code == 200  # its answer may have been lost
    assert (await runner.report("ready")).status_code == 200
    assert (await rig.show(runner.job.sandbox_id))["state"] == "started"


async def test_a_report_counts_once_and_in_order(rig: Rig) -> None:
    runner = await rig.submitted()
    first = runner.head()
    second = runner.head()
    assert (await rig.report(second, {"phase": "assign"})).status_code == 200
    for stale in (first, second):
        assert (await rig.report(stale, {"phase": "assign"})).status_code == 403


async def test_an_older_start_is_told_to_end(rig: Rig) -> None:
    made = await rig.create()
    old = rig.runners[made["id"]]
    await old.boot()
    await rig.call("POST", f"/sandbox/{made['id']}/stop")
    await rig.until(made["id"], "stopped")
    await rig.call("POST", f"/sandbox/{made['id']}/start")
    for phase in ("assign", "ready", "exit"):
        assert (await old.report(phase)).status_code == 409


async def test_a_runner_of_nothing_is_told_to_end(rig: Rig) -> None:
    runner = await rig.submitted()
    head = Head("local", "2" * 26, 1, "f" * 32, 1)
    assert (await rig.report(head, {"phase": "assign"})).status_code == 404
    await rig.call("DELETE", f"/sandbox/{runner.job.sandbox_id}")
    assert (await runner.report("assign")).status_code == 409


async def test_a_runner_is_answered_what_it_was_not_told(rig: Rig) -> None:
    runner = await rig.submitted()
    await runner.boot()
    sandbox_id = runner.job.sandbox_id
    runner.answers = False  # so that nothing reaches it
    old = runner.version
    assert (await runner.report("renew", version=old)).json() == {}
    assert (await rig.call("POST", f"/sandbox/{sandbox_id}/public/true")).status_code == 200
    newer = (await runner.report("renew", version=old)).json()
    assert (newer["version"], newer["public"]) == (old + 1, True)
    assert newer.keys() & FOR_THE_START == set()
    assert (await runner.report("renew", version=newer["version"])).json() == {}


async def test_only_the_runner_that_counts_is_told_anything_new(rig: Rig) -> None:
    runner = await rig.submitted()
    rival = Runner(rig, runner.job)
    await runner.boot()
    assert (await rival.report("renew", version=0)).status_code == 409
    elsewhere = Head("other", runner.job.sandbox_id, 1, runner.incarnation, 99)
    nothing = Head("local", "2" * 26, 1, "f" * 32, 1)
    assert (await rig.report(nothing, {"phase": "renew", "version": 0})).status_code == 404
    assert (await rig.report(elsewhere, {"phase": "renew", "version": 0})).status_code == 403


async def test_too_late_is_too_late(rig: Rig) -> None:
    runner = await rig.submitted()
    await runner.report("assign")
    await rig.call("DELETE", f"/sandbox/{runner.job.sandbox_id}")
    assert (await runner.report("ready")).status_code == 200
    assert (await rig.show(runner.job.sandbox_id))["desiredState"] == "destroyed"


async def test_a_notice_is_shown_while_the_sandbox_goes_on(rig: Rig) -> None:
    runner = await rig.submitted()
    await runner.boot()
    await runner.report("notice", kind="memory", message="out of memory: a process was killed")
    shown = await rig.show(runner.job.sandbox_id)
    assert shown["state"] == "started"
    assert shown["errorReason"] == "out of memory: a process was killed"


async def test_what_is_not_sealed_for_us_is_refused(rig: Rig) -> None:
    runner = await rig.submitted()
    body = json.dumps({"phase": "assign"}).encode()
    head = runner.head()
    sealed = seal(NODE_KEY, UP, head, body)
    forgeries = [
        {},
        {**sealed, "x-yurt-signature": ""},
        {**sealed, "x-yurt-signature": "\u00e9"},
        {**sealed, "x-yurt-sequence": "99"},
        {**sealed, "x-yurt-node": "other"},
        {**sealed, "x-yurt-generation": "x"},
        seal(bytes(32), UP, head, body),
        seal(NODE_KEY, DOWN, head, body),
        seal(NODE_KEY, UP, head, body + b" "),
    ]
    for fields in forgeries:
        headers = [(name.encode(), value.encode("latin-1")) for name, value in fields.items()]
        answer = await rig.http.post(URL, content=body, headers=headers)
        assert answer.status_code == 403, fields
    assert (await rig.http.post(URL, content=body, headers=sealed)).status_code == 200


async def test_nothing_that_came_through_a_proxy_is_a_report(rig: Rig) -> None:
    runner = await rig.submitted()
    for name in ("X-Forwarded-For", "X-Forwarded-Host", "Forwarded", "Via"):
        answer = await rig.report(runner.head(), {"phase": "assign"}, **{name: "10.0.0.1"})
        assert answer.status_code == 404


async def test_a_report_is_not_taken_where_traefik_comes_in(rig: Rig) -> None:
    runner = await rig.submitted()
    body = json.dumps({"phase": "assign"}).encode()
    sealed = seal(NODE_KEY, UP, runner.head(), body)
    loopback = "http://localhost:9878/internal/report"
    assert (await rig.http.post(loopback, content=body, headers=sealed)).status_code == 404
    assert (await rig.http.post(URL, content=body, headers=sealed)).status_code == 200


@pytest.mark.parametrize("body", [b"{", b"[]", b'{"phase": "dance"}', b'{"phase": "notice"}'])
async def test_what_is_sealed_but_no_report_is_refused(rig: Rig, body: bytes) -> None:
    runner = await rig.submitted()
    answer = await rig.http.post(URL, content=body, headers=seal(NODE_KEY, UP, runner.head(), body))
    assert answer.status_code == 400
