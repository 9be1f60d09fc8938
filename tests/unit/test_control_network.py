"""Network settings that change while a sandbox runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.support.control_rig import complaint, eventually

if TYPE_CHECKING:
    from tests.support.control_rig import Rig

pytestmark = [pytest.mark.unit, pytest.mark.asyncio(loop_scope="session")]

LIST = {"networkAllowList": "1.2.3.0/24, 4.5.6.7"}


@pytest.mark.parametrize(
    ("before", "change", "block_all", "allow"),
    [
        ({}, {}, False, []),
        ({}, {"networkBlockAll": True}, True, []),
        ({}, LIST, False, ["1.2.3.0/24", "4.5.6.7/32"]),
        ({"networkBlockAll": True}, LIST, False, ["1.2.3.0/24", "4.5.6.7/32"]),
        ({}, {"networkBlockAll": True, **LIST}, False, ["1.2.3.0/24", "4.5.6.7/32"]),
        (LIST, {"networkBlockAll": True}, True, []),
        (LIST, {"networkBlockAll": False}, False, []),
        (LIST, {"networkAllowList": ""}, False, []),
        (LIST, {"domainAllowList": ""}, False, ["1.2.3.0/24", "4.5.6.7/32"]),
        ({"networkBlockAll": True}, {"networkAllowList": ""}, True, []),
        ({"networkBlockAll": True}, {"networkBlockAll": False}, False, []),
    ],
)
async def test_a_change_reaches_the_live_sandbox(
    rig: Rig, before: dict[str, Any], change: dict[str, Any], block_all: bool, allow: list[str]
) -> None:
    made = await rig.create(**before)
    answer = await rig.call("POST", f"/sandbox/{made['id']}/network-settings", json=change)
    assert answer.status_code == 200
    assert answer.json()["networkBlockAll"] is block_all
    runner = rig.runners[made["id"]]

    async def reached() -> bool:
        await rig.settle()
        return bool(runner.assignment["network"] == {"block_all": block_all, "allow": allow})

    await eventually(reached)


async def test_lists_that_cannot_be_are_refused_and_change_nothing(rig: Rig) -> None:
    made = await rig.create(**LIST)
    path = f"/sandbox/{made['id']}/network-settings"
    domains = await rig.call("POST", path, json={"domainAllowList": "a.org", **LIST})
    assert domains.status_code == 501
    assert "filtered by address" in complaint(domains)
    for wrong in ("a.org", "1.2.3.4/24", "::/0", "1.2.3.4/33"):
        answer = await rig.call("POST", path, json={"networkAllowList": wrong})
        assert answer.status_code == 400
        assert complaint(answer).startswith("networkAllowList: ")
    assert (await rig.show(made["id"]))["networkAllowList"] == made["networkAllowList"]
