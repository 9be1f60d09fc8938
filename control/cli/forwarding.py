"""Other programs' rules that would drop what sandboxes send: Docker's, ufw's, firewalld's.

A packet must pass every chain at the forward hook, so our own accept does not help against their
drop: an accept of ours has to stand in theirs. Ours is marked, and goes when Yurt is removed.
"""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from itertools import product
from typing import Any

# The links to sandboxes (jobs/runner/network.py); "+" is iptables' wildcard.
LINKS = "yv+"
LEGACY = "iptables-legacy"
_OUT = ["-i", LINKS, "-m", "comment", "--comment", "yurt", "-j", "ACCEPT"]
_BACK = ["-o", LINKS, "-m", "conntrack", "--ctstate", "ESTABLISHED,RELATED"]
_RULES = (_OUT, [*_BACK, "-m", "comment", "--comment", "yurt", "-j", "ACCEPT"])


@dataclass(frozen=True, slots=True)
class Obstacle:
    """Something that drops forwarded packets.

    ``chain`` is the iptables chain that an accept can be put into; where it is empty, only the
    ``advice`` helps. ``program`` is the variant of iptables that the rules belong to.
    """

    owner: str
    chain: str = ""
    program: str = "iptables"
    advice: str = ""


def obstacles() -> list[Obstacle]:
    """Find what drops forwarded IPv4 packets on this machine, without changing anything."""
    found = []
    listed = _run("nft", "-j", "list", "ruleset")
    if listed is not None:
        found += from_nftables(json.loads(listed))
    legacy = _run(LEGACY, "-S") or ""  # nftables does not see what this one keeps
    if "-P FORWARD DROP" in legacy:
        found.append(_of_iptables(_chains(legacy), LEGACY))
    return found


def from_nftables(ruleset: dict[str, Any]) -> list[Obstacle]:
    """Read nftables' JSON: which base chains at the forward hook drop by default, and whose."""
    chains = [entry["chain"] for entry in ruleset["nftables"] if "chain" in entry]
    found = []
    for chain in chains:
        if chain.get("hook") != "forward" or chain["family"] not in {"ip", "inet"}:
            continue
        table = chain["table"]
        if table == "firewalld":
            found.append(_FIREWALLD)
        elif chain.get("policy") == "drop" and table == "filter":
            names = {other["name"] for other in chains if other["table"] == table}
            found.append(_of_iptables(names, "iptables"))
        elif chain.get("policy") == "drop":
            name = f"{chain['family']} {table} {chain['name']}"
            advice = f'nft insert rule {name} iifname "yv*" accept; the same with oifname'
            found.append(Obstacle(f"the nftables chain {name}", advice=advice))
    return list(dict.fromkeys(found))


def is_handled(obstacle: Obstacle) -> bool:
    """Tell whether our accepts already stand in an obstacle's chain."""
    return bool(obstacle.chain) and all(
        _run(obstacle.program, "-C", obstacle.chain, *rule) is not None for rule in _RULES
    )


def handle(obstacle: Obstacle) -> bool:
    """Let sandboxes through an obstacle; tell whether that could be done."""
    if not obstacle.chain:
        return False
    for rule in _RULES:
        if _run(obstacle.program, "-C", obstacle.chain, *rule) is None:
            _run(obstacle.program, "-I", obstacle.chain, *rule)
    return is_handled(obstacle)


def remove_ours() -> None:
    """Take our accepts out of every chain that they may stand in."""
    for program, chain, rule in product(("iptables", LEGACY), ("DOCKER-USER", "FORWARD"), _RULES):
        while _run(program, "-D", chain, *rule) is not None:
            pass


_FIREWALLD = Obstacle(
    "firewalld",
    advice="firewall-cmd --permanent --zone=trusted --add-interface=yv+ && firewall-cmd --reload",
)


def _of_iptables(chains: set[str], program: str) -> Obstacle:
    if "DOCKER-USER" in chains:
        return Obstacle("Docker", "DOCKER-USER", program)
    if any(name.startswith("ufw-") for name in chains):
        return Obstacle("ufw", "FORWARD", program)
    return Obstacle("iptables", "FORWARD", program)


def _chains(rules: str) -> set[str]:
    return {line.split()[1] for line in rules.splitlines() if line.startswith(("-P ", "-N "))}


def _run(*command: str) -> str | None:
    """Run a program; None when it is not there or refuses."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return done.stdout if done.returncode == 0 else None
