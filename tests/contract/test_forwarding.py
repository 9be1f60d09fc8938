"""Other programs' forward rules, real ones, in a network namespace of their own."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest

pytestmark = [
    pytest.mark.contract,
    pytest.mark.skipif(shutil.which("iptables") is None, reason="no iptables on PATH"),
]

LOOK = """
import json, subprocess, sys
from control.cli import forwarding
for command in sys.argv[2:]:
    subprocess.run(command.split(), check=True)
found = forwarding.obstacles()
before = [forwarding.is_handled(one) for one in found]
handled = [forwarding.handle(one) for one in found]
handled_again = [forwarding.handle(one) for one in found]
rules = subprocess.run([sys.argv[1], "-S"], capture_output=True, text=True).stdout
forwarding.remove_ours()
left = subprocess.run([sys.argv[1], "-S"], capture_output=True, text=True).stdout
print(json.dumps([[one.owner for one in found], before, handled, rules, left]))
"""


def look(*commands: str, program: str = "iptables") -> tuple[list[str], list[bool], str, str]:
    done = subprocess.run(
        ["unshare", "--net", sys.executable, "-c", LOOK, program, *commands],
        capture_output=True,
        text=True,
        check=True,
    )
    owners, before, handled, rules, left = json.loads(done.stdout)
    assert not any(before)
    return owners, handled, rules, left


def test_nothing_in_the_way_is_nothing() -> None:
    assert look("iptables -P FORWARD ACCEPT")[0] == []


@pytest.mark.parametrize("program", ["iptables", "iptables-legacy"])
def test_docker_gets_an_accept_in_the_chain_that_it_leaves_to_users(program: str) -> None:
    owners, handled, rules, left = look(
        f"{program} -P FORWARD DROP",
        f"{program} -N DOCKER-USER",
        f"{program} -A FORWARD -j DOCKER-USER",
        program=program,
    )
    assert (owners, handled) == (["Docker"], [True])
    assert rules.count("-A DOCKER-USER") == 2
    assert "-A DOCKER-USER -i yv+ -m comment --comment yurt -j ACCEPT" in rules
    assert "yurt" not in left


def test_ufw_gets_an_accept_before_its_own_rules() -> None:
    owners, handled, rules, left = look(
        "iptables -P FORWARD DROP",
        "iptables -N ufw-before-forward",
        "iptables -A FORWARD -j ufw-before-forward",
    )
    assert (owners, handled) == (["ufw"], [True])
    forward = [line for line in rules.splitlines() if line.startswith("-A FORWARD")]
    assert "yurt" in forward[0]
    assert "yurt" in forward[1]
    assert forward[2] == "-A FORWARD -j ufw-before-forward"
    assert "yurt" not in left


def test_a_firewall_that_we_do_not_know_is_told_of_and_left_alone() -> None:
    owners, handled, _, _ = look(
        "nft add table inet mine",
        "nft add chain inet mine passing { type filter hook forward priority 0 ; policy drop ; }",
    )
    assert (owners, handled) == (["the nftables chain inet mine passing"], [False])
