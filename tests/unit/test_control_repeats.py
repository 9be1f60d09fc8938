"""Calls that are sent again with the same idempotency key."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from control.app import now
from control.repeats import Repeats
from tests.support.control_rig import complaint

if TYPE_CHECKING:
    from tests.support.control_rig import Rig

pytestmark = [pytest.mark.unit, pytest.mark.asyncio(loop_scope="session")]


def with_key(text: str) -> dict[str, str]:
    return {"Idempotency-Key": text}


async def test_what_is_sent_again_is_answered_again_and_not_done_again(rig: Rig) -> None:
    body = {"env": {"A": "a secret"}}
    first = await rig.call("POST", "/sandbox", json=body, headers=with_key("again-1"))
    again = await rig.call("POST", "/sandbox", json=body, headers=with_key("again-1"))
    assert (again.status_code, again.json()) == (200, first.json())
    assert again.headers["idempotency-replayed"] == "true"
    assert "idempotency-replayed" not in first.headers
    assert len(await rig.store.sandboxes.survey()) == 1


async def test_of_many_at_once_one_is_done(rig: Rig) -> None:
    calls = (rig.call("POST", "/sandbox", json={}, headers=with_key("many")) for _ in range(20))
    answers = await asyncio.gather(*calls)
    assert {answer.status_code for answer in answers} <= {200, 409}
    assert len(await rig.store.sandboxes.survey()) == 1


async def test_a_key_is_for_one_request_of_one_organization(rig: Rig) -> None:
    one = await rig.tenant("one")
    await rig.call("POST", "/sandbox", json={}, headers=with_key("mine"))
    for path, body in (("/sandbox", {"public": True}), ("/api-keys", {})):
        other = await rig.call("POST", path, json=body, headers=with_key("mine"))
        assert other.status_code == 409
        assert complaint(other) == "This Idempotency-Key was used for another request"
    theirs = await one.call("POST", "/sandbox", json={}, headers=with_key("mine"))
    assert theirs.json()["organizationId"] == one.id


async def test_refusals_are_kept_and_a_wrong_key_is_refused(rig: Rig) -> None:
    for _ in range(2):
        refused = await rig.call("POST", "/sandbox", json={"cpu": 0}, headers=with_key("bad"))
        assert refused.status_code == 400
        assert complaint(refused) == "CPU must be at least 1"
    for wrong in ("", "a b", "a" * 256):
        answer = await rig.call("POST", "/sandbox", json={}, headers=with_key(wrong))
        assert answer.status_code == 400
    nobody = {**with_key("nobody"), "authorization": "Bearer x"}
    assert (await rig.call("POST", "/sandbox", json={}, headers=nobody)).status_code == 401


async def test_a_key_that_was_never_answered_is_free_again_and_old_ones_are_forgotten(
    rig: Rig,
) -> None:
    long_ago = now() - timedelta(minutes=4)
    await rig.store.repeats.claim("default", "cut-off", "x", long_ago, long_ago)
    answer = await rig.call("POST", "/sandbox", json={}, headers=with_key("cut-off"))
    assert answer.status_code == 200
    await rig.store.repeats.claim("default", "pending", "x", now(), long_ago)
    waiting = await rig.call("POST", "/sandbox", json={}, headers=with_key("pending"))
    assert waiting.status_code == 409
    tomorrow = now() + timedelta(hours=25)
    await Repeats(rig.control.api, rig.store.repeats, rig.control._keys, lambda: tomorrow).forget()
    again = await rig.call("POST", "/sandbox", json={"public": True}, headers=with_key("cut-off"))
    assert again.status_code == 200
