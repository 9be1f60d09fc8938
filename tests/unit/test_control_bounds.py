"""Whatever a field is set to: it is done as asked, or refused whole with what to change."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from control.wishes import MAX_ARCHIVE_MINUTES, MAX_MINUTES, MAX_TEXT_BYTES
from tests.support.control_rig import complaint

if TYPE_CHECKING:
    from tests.support.control_rig import Rig

pytestmark = [pytest.mark.unit, pytest.mark.asyncio(loop_scope="session")]

REFUSED = {400, 413, 422, 501}
LONG = 10_000

texts = st.one_of(
    st.text(max_size=20),
    st.sampled_from(
        ["a", "a" * 128, "a" * 129, "a" * LONG, "-a", "a/b", "a b", "\0", "\ud7ff", "é"]
    ),
    st.sampled_from(["../x", "a\nb", "2" * 26, "'; DROP TABLE sandboxes; --", "%00", "${X}"]),
)
numbers = st.one_of(
    st.integers(),
    st.sampled_from([-2, -1, 0, 1, 64, 65, 256, 257, 1024, 1025]),
    st.sampled_from([MAX_ARCHIVE_MINUTES, MAX_ARCHIVE_MINUTES + 1, MAX_MINUTES, MAX_MINUTES + 1]),
    st.sampled_from([1 << 31, 1 << 63, 1 << 64, -(1 << 63) - 1]),
)
pairs = st.one_of(
    st.dictionaries(texts, texts, max_size=4),
    st.sampled_from([MAX_TEXT_BYTES - 1, MAX_TEXT_BYTES, 1 << 20]).map(lambda n: {"a": "b" * n}),
)
anything = st.one_of(st.none(), st.booleans(), texts, numbers, pairs, st.floats(), st.lists(texts))
networks = st.sampled_from(["", "1.2.3.4", "1.2.3.4/33", "::1", ",".join(["1.2.3.4"] * 65)])
queries = st.sampled_from(["limit", "page", "cursor", "sort", "order", "labels", "minCpu"])
segments = st.one_of(numbers.map(str), st.text("0123456789-+e._ aé%"))
bodies = st.fixed_dictionaries(
    {},
    optional={
        "name": st.one_of(texts, anything),
        "user": st.one_of(texts, anything),
        "target": st.one_of(texts, anything),
        "labels": st.one_of(pairs, anything),
        "env": st.one_of(pairs, anything),
        "public": st.one_of(st.booleans(), anything),
        "networkBlockAll": st.one_of(st.booleans(), anything),
        "networkAllowList": st.one_of(networks, anything),
        "cpu": numbers,
        "memory": numbers,
        "disk": numbers,
        "autoStopInterval": numbers,
        "autoArchiveInterval": numbers,
        "autoDeleteInterval": numbers,
    },
)
tries = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


async def known(rig: Rig) -> set[str]:
    return {outline.id for outline in await rig.store.sandboxes.survey()}


@tries
@given(body=bodies)
async def test_a_create_is_done_as_asked_or_refused_whole(rig: Rig, body: dict[str, Any]) -> None:
    before = await known(rig)
    answer = await rig.call("POST", "/sandbox", content=json.dumps(body).encode())
    if answer.status_code != 200:
        assert answer.status_code in REFUSED, answer.text
        assert 0 < len(complaint(answer)) < 2000
        assert await known(rig) == before
        return
    made = answer.json()
    as_asked = {
        name: value
        for name, value in body.items()
        if value is not None
        and name not in {"networkBlockAll", "networkAllowList", "autoArchiveInterval"}
        and not (name in {"name", "user", "target"} and value == "")
    }
    as_asked["autoDeleteInterval"] = max(as_asked.get("autoDeleteInterval", -1), -1)
    assert {name: made[name] for name in as_asked} == as_asked
    assert 1 <= made["autoArchiveInterval"] <= MAX_ARCHIVE_MINUTES
    assert (await rig.show(made["id"]))["labels"] == made["labels"]
    assert (await rig.call("DELETE", f"/sandbox/{made['id']}")).status_code == 200


CALLS = ("autostop", "autoarchive", "autodelete", "public")


@tries
@given(
    call=st.sampled_from(CALLS), value=st.one_of(numbers.map(str), st.text("0123456789-+e._ aé%"))
)
async def test_a_setting_is_changed_or_refused_whole(rig: Rig, call: str, value: str) -> None:
    made = await rig.create()
    path = f"/sandbox/{made['id']}/{call}/{''.join(f'%{b:02x}' for b in value.encode())}"
    answer = await rig.call("POST", path)
    shown = await rig.show(made["id"])
    if answer.status_code == 200:
        assert shown == {**answer.json(), "state": shown["state"]}
    else:
        assert answer.status_code in {400, 404}, answer.text
        assert complaint(answer)
        assert shown == made
    await rig.call("DELETE", f"/sandbox/{made['id']}")


@tries
@given(
    key=st.sampled_from(["limit", "page", "cursor", "sort", "order", "labels", "minCpu"]),
    value=texts,
)
async def test_a_list_is_answered_or_refused(rig: Rig, key: str, value: str) -> None:
    for path in ("/sandbox", "/sandbox/paginated", "/snapshots"):
        answer = await rig.call("GET", path, params={key: value})
        assert answer.status_code in {200, 400}, answer.text
        if answer.status_code == 400:
            assert complaint(answer)


@pytest.mark.parametrize("number", [2, 20])
async def test_of_creates_with_one_name_at_once_one_is_made(rig: Rig, number: int) -> None:
    creating = (rig.call("POST", "/sandbox", json={"name": "same"}) for _ in range(number))
    answers = await asyncio.gather(*creating)
    assert sorted(answer.status_code for answer in answers) == [200] + [409] * (number - 1)
    assert len(await known(rig)) == 1


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"name": "a" * LONG}, 400),
        ({"labels": {"a": "b" * (1 << 20)}}, 413),
        ({"labels": {"a": "b" * (MAX_TEXT_BYTES - 1)}}, 200),
        ({"labels": {"a": "b" * MAX_TEXT_BYTES}}, 400),
        ({"labels": {str(number): "x" for number in range(LONG)}}, 200),
    ],
)
async def test_what_is_too_large_is_said_to_be(rig: Rig, body: dict[str, Any], status: int) -> None:
    answer = await rig.call("POST", "/sandbox", json=body)
    assert answer.status_code == status, answer.text[:500]
    if status != 200:
        assert await known(rig) == set()
