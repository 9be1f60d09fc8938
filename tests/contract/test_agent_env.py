"""``POST /env``: what starts later has it, what runs does not, and a bad one changes nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.agent_calls import create, perform, run
from tests.support.agent_rig import running_agent

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.agent_rig import AgentRig

pytestmark = pytest.mark.contract


@pytest.fixture
def agent() -> Iterator[AgentRig]:
    with running_agent(env={"HOME": "/nonexistent", "OLD": "old", "KEY_A": "yurt:a"}) as rig:
        yield rig


def _value(agent: AgentRig, name: str) -> str:
    return str(run(agent, f'printf %s "${{{name}-none}}"')["result"])


def test_what_starts_later_has_it(agent: AgentRig) -> None:
    body = {"set": {"NEW": "new 1", "EMPTY": ""}, "unset": ["OLD", "NEVER"]}
    answer = agent.request("POST", "/env", body)
    assert answer.status == 200
    assert answer.json()["NEW"] == "new 1"
    assert "OLD" not in answer.json()
    assert [_value(agent, name) for name in ("NEW", "EMPTY", "OLD")] == ["new 1", "", "none"]
    session = create(agent)
    assert perform(agent, session, "echo $NEW")["output"].strip().endswith("new 1")


def test_what_runs_keeps_its_own(agent: AgentRig) -> None:
    session = create(agent)
    perform(agent, session, "true")
    agent.request("POST", "/env", {"set": {"OLD": "changed"}})
    assert perform(agent, session, "echo $OLD")["output"].strip().endswith("old")
    assert _value(agent, "OLD") == "changed"


def test_those_with_a_prefix_go_unless_they_are_set(agent: AgentRig) -> None:
    body = {"unsetValuePrefix": "yurt:", "set": {"KEY_B": "yurt:b"}}
    answer = agent.request("POST", "/env", body).json()
    assert "KEY_A" not in answer
    assert (answer["KEY_B"], answer["OLD"]) == ("yurt:b", "old")


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"set": {"A": 1}}, "object of strings"),
        ({"set": {"1=2": "x"}}, "invalid environment variable name"),
        ({"set": {"A": "x\0y"}}, "NUL"),
        ({"set": {"A": "x" * 131_070}}, "longer than 131071 bytes"),
        ({"set": {f"A{i}": "x" * 100_000 for i in range(9)}, "unset": "OLD"}, "list of strings"),
    ],
)
def test_a_bad_one_changes_nothing(agent: AgentRig, body: dict[str, object], said: str) -> None:
    answer = agent.request("POST", "/env", body)
    assert answer.status == 400
    assert said in answer.json()["message"]
    assert agent.request("POST", "/env").json()["OLD"] == "old"
    assert "A" not in agent.request("POST", "/env").json()


def test_it_cannot_grow_beyond_what_a_program_can_be_given(agent: AgentRig) -> None:
    for number in range(10):
        value = {f"A{number}": "x" * 100_000}
        assert agent.request("POST", "/env", {"set": value}).status == 200
    refused = agent.request("POST", "/env", {"set": {"B": "x" * 100_000}})
    assert refused.status == 400
    assert "unset some" in refused.json()["message"]
    assert _value(agent, "A9") == "x" * 100_000
