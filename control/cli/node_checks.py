"""What Yurt needs of a machine whose jobs Nomad runs: the machine itself, what was prepared on it,
and what its Nomad client says of it.
"""

from __future__ import annotations

import ipaddress
import json
import os
import shutil
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any

from control.cli import checks
from control.cli.checks import Check, Verdict
from control.cli.cluster_checks import node_faults, nomad_version
from control.cli.cluster_facts import node_from
from control.errors import NotFoundError, UnavailableError
from jobs.installed import interpreter

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from control.cli.asking import Server
    from control.cli.cluster_facts import NodeFacts

PROGRAMS = (
    *("runc", "nft", "ip", "mkfs.ext4", "e2fsck", "resize2fs", "setpriv", "tar", "zstd", "skopeo"),
)
_FIELDS = ("name", "key", "resolvers", "never", "bundle", "subnet", "registry")
_FOR_OTHERS = 0o077
_PREPARE = "`yurt nodes prepare`"


def node_checks(data: Path, nomad: Server) -> Iterator[Check]:
    """Look at this machine as a node of a cluster."""
    yield from _machine(data)
    node, found = node_file(data)
    yield found
    if node is not None:
        yield checks.addresses(ipaddress.IPv4Network(str(node["subnet"])))
        yield directory("agent bundle", Path(str(node["bundle"])))
    yield runner(data)
    yield directory("host volume", data / "disks")
    yield from nomad_client(nomad, data, node)


def _machine(data: Path) -> Iterator[Check]:
    yield checks.kernel(os.uname().release)
    yield programs()
    yield checks.runc()
    yield checks.control_groups()
    yield checks.loop_devices()
    yield checks.overlay()
    yield checks.user_namespaces()
    yield checks.data_directory(data)
    yield checks.space(data)
    yield checks.memory()
    yield from checks.forward_rules()


def programs() -> Check:
    """The programs that runners call."""
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if not missing:
        return Check("programs", Verdict.OK, ", ".join(PROGRAMS))
    advice = "install them by the system's packages"
    return Check("programs", Verdict.FAIL, f"missing: {', '.join(missing)}", advice)


def node_file(data: Path) -> tuple[Mapping[str, Any] | None, Check]:
    """Read ``node.json``: who this node is, and with which key it speaks to control."""
    name, path = "node.json", data / "node.json"
    advice = f"put there what `yurt nodes add NAME` prints, and run {_PREPARE}"
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        node = json.loads(path.read_text())
        missing = [one for one in _FIELDS if one not in node]
    except (OSError, ValueError, TypeError) as exc:
        return None, Check(name, Verdict.FAIL, f"{path}: {exc}", advice)
    if missing:
        return None, Check(name, Verdict.FAIL, f"without {', '.join(missing)}", advice)
    if mode & _FOR_OTHERS:
        advice = f"chmod 600 {path}, and give it a new key: `yurt nodes add NAME --rotate`"
        return node, Check(name, Verdict.FAIL, f"others can read it ({mode:o})", advice)
    return node, Check(name, Verdict.OK, f"node {node['name']}, registry {node['registry'] or '-'}")


def runner(data: Path) -> Check:
    """Nomad starts what the link ``lib/runner`` leads to."""
    link = data / "lib" / "runner"
    if (link / "jobs" / "runner" / "main.py").is_file():
        return Check("runner", Verdict.OK, link.resolve().name)
    return Check("runner", Verdict.FAIL, f"not in {link}", _PREPARE)


def directory(name: str, path: Path) -> Check:
    """Something that was prepared."""
    if path.is_dir():
        return Check(name, Verdict.OK, str(path))
    return Check(name, Verdict.FAIL, f"no directory {path}", _PREPARE)


def nomad_client(nomad: Server, data: Path, node: Mapping[str, Any] | None) -> Iterator[Check]:
    """Ask this machine's Nomad agent what it offers."""
    name = "Nomad client"
    try:
        about = nomad.get("/v1/agent/self")
        node_id = about["stats"].get("client", {}).get("node_id", "")
        if not node_id:
            advice = "set NOMAD_ADDR to the agent of this machine, with `client { enabled = true }`"
            yield Check(name, Verdict.FAIL, f"{nomad.url} is no client", advice)
            return
        facts = node_from(nomad.get(f"/v1/node/{node_id}"))
    except (UnavailableError, NotFoundError) as error:
        yield Check(name, Verdict.FAIL, str(error), "start it, or set NOMAD_ADDR")
        return
    yield nomad_version(facts.version)
    yield client(facts, data, str(node["name"]) if node else "")
    yield port_range(facts.ports)


def client(facts: NodeFacts, data: Path, expected: str) -> Check:
    """Judge what a client offers, and that it is the one of this data directory."""
    faults = [*node_faults(facts)]
    if expected and facts.name != expected:
        faults.append((f"it is {facts.name}, node.json says {expected}", "give both the same name"))
    told = facts.meta.get("yurt_data")
    if told and told != str(data):
        faults.append((f"its yurt_data is {told}, here it is {data}", "set YURT_DATA to the same"))
    python = facts.meta.get("yurt_python")
    if python and os.path.realpath(python) != interpreter()[0]:
        text = f"its yurt_python is {python}, the runner was made for {interpreter()[0]}"
        faults.append((text, "set it to that"))
    if not facts.is_ready:
        faults.append(("it is not ready", "see its log"))
    if not faults:
        return Check("Nomad client", Verdict.OK, f"{facts.name}, ready")
    found, advice = zip(*faults, strict=True)
    return Check("Nomad client", Verdict.FAIL, "; ".join(found), "; ".join(advice))


def port_range(
    ports: tuple[int, int], path: Path = Path("/proc/sys/net/ipv4/ip_local_port_range")
) -> Check:
    """Gates' ports must not be taken by the machine's own connections."""
    first, last = map(int, path.read_text().split())
    found = f"{ports[0]}-{ports[1]} for gates, {first}-{last} for connections"
    if ports[1] < first or ports[0] > last:
        return Check("ports", Verdict.OK, found)
    advice = "keep them apart: sysctl net.ipv4.ip_local_port_range, or min_dynamic_port in `client`"
    return Check("ports", Verdict.WARN, found, advice)
