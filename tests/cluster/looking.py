"""Looks at the cluster from outside of Yurt: what Nomad, Consul and the nodes' disks have."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tests.cluster import programs
from tests.cluster.cluster import ask

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cluster.cluster import Cluster
    from tests.cluster.host import Host

_SERVICE = "yurt-sandbox"


@dataclass(frozen=True, slots=True)
class Place:
    """Where Nomad says that a sandbox is."""

    allocation: str
    node: str
    address: str
    port: int


def place(cluster: Cluster, sandbox_id: str) -> Place:
    """Find a sandbox's only allocation.

    Raises:
        AssertionError: there is none, or more than one.
    """
    listed = ask(f"{cluster.nomad_url}/v1/job/yurt-{sandbox_id}/allocations")
    assert listed is not None, f"Nomad does not answer for {sandbox_id}"
    assert len(listed) == 1, f"{sandbox_id} has {len(listed)} allocations"
    found = ask(f"{cluster.nomad_url}/v1/allocation/{listed[0]['ID']}")
    [network] = found["AllocatedResources"]["Shared"]["Networks"]
    [port] = network["DynamicPorts"]
    return Place(found["ID"], found["NodeName"], network["IP"], port["Value"])


def is_heard(cluster: Cluster, sandbox_id: str) -> bool:
    """Tell whether Nomad's server has heard that the sandbox runs, which takes it a second.

    Until then it takes what is on a node that goes down for lost, and places it anew.
    """
    listed = ask(f"{cluster.nomad_url}/v1/job/yurt-{sandbox_id}/allocations") or []
    return [one["ClientStatus"] for one in listed] == ["running"]


def node(cluster: Cluster, sandbox_id: str) -> Host:
    """Find the host that a sandbox is on."""
    name = place(cluster, sandbox_id).node
    return next(host for host in cluster.nodes if host.name == name)


def disks(cluster: Cluster) -> dict[str, list[str]]:
    """The sandboxes that have a disk, each with the nodes that have it."""
    found: dict[str, list[str]] = {}
    for host in cluster.nodes:
        for path in sorted(_data(host).glob("disks/*/disk.img")):
            found.setdefault(path.parent.name, []).append(host.name)
    return found


def run_directory(host: Host, sandbox_id: str) -> Path:
    return _data(host) / "run" / "sandboxes" / sandbox_id


def traces(cluster: Cluster, sandbox_id: str) -> list[str]:
    """Say where something of a sandbox is."""
    jobs = ask(f"{cluster.nomad_url}/v1/jobs?prefix=yurt-{sandbox_id}")
    entries = ask(f"{cluster.consul_url}/v1/catalog/service/{_SERVICE}")
    on_nodes = [
        path.relative_to(cluster.directory)
        for host in cluster.nodes
        for path in (_data(host) / "disks" / sandbox_id, run_directory(host, sandbox_id))
        if path.exists()
    ]
    return [
        *(f"job {job['ID']}" for job in jobs),
        *(f"registration {e['ServiceID']}" for e in entries if e["ServiceID"] == sandbox_id),
        *map(str, on_nodes),
    ]


def audit(cluster: Cluster) -> list[str]:
    """Every difference between records, jobs, runners, disks and registrations, as ``yurt ps`` has.

    What could not be asked is a difference, too.
    """
    environment = {**cluster.settings, "YURT_DATA": str(programs.DATA)}
    command = cluster.control.inside(programs.yurt(), "ps", "--json")
    ran = subprocess.run(
        command,
        env=cluster.control.environment(environment),
        capture_output=True,
        text=True,
        cwd="/",
        check=False,
    )
    try:
        told: dict[str, Any] = json.loads(ran.stdout)
    except ValueError:
        return [f"`yurt ps` failed: {ran.stderr.strip() or ran.stdout.strip()}"]
    differences = [
        f"{one['id']}: {text}" for one in told["sandboxes"] for text in one["differences"]
    ]
    return differences + [f"node {name} does not answer" for name in told["silentNodes"]]


def _data(host: Host) -> Path:
    return programs.inside(host, programs.DATA)
