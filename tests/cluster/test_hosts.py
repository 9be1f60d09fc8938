"""The development cluster by itself: its hosts, what runs on them, and that nothing is left."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests.cluster.cluster import ask
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from tests.cluster.cluster import Cluster
    from tests.cluster.host import Host
    from tests.support.processes import Process

pytestmark = pytest.mark.cluster

REPOSITORY = Path(__file__).parents[2]
# A heartbeat's time to live is drawn between 10 and 20 s, and 5 s are granted beyond; all are 30 s
# after the server was started again.
LOST_SECONDS = 40


def run_sleeper(cluster: Cluster, node: Host) -> Process:
    """Have Nomad run a process on a node, with a raw job, and find it."""
    name = f"sleeper-{node.name}"
    told = node.directory / "run" / f"{name}.pid"
    program = f"import os, time; open('/srv/run/{name}.pid', 'w').write(str(os.getpid()))"
    task = {
        "Name": "runner",
        "Driver": "raw_exec",
        "Config": {
            "command": "${meta.yurt_python}",
            "args": ["-I", "-S", "-c", f"{program}; time.sleep(10000)"],
        },
        "Resources": {"CPU": 50, "MemoryMB": 32},
    }
    group = {
        "Name": "sandbox",
        "RestartPolicy": {"Attempts": 0, "Mode": "fail"},
        "ReschedulePolicy": {"Attempts": 0, "Unlimited": False},
        "Volumes": {"yurt": {"Type": "host", "Source": "yurt"}},
        "Tasks": [task],
    }
    pinned = {"LTarget": "${node.unique.name}", "Operand": "=", "RTarget": node.name}
    job = {
        "ID": name,
        "Type": "batch",
        "Datacenters": ["*"],
        "Constraints": [pinned],
        "TaskGroups": [group],
    }
    httpx.put(f"{cluster.nomad_url}/v1/jobs", json={"Job": job}).raise_for_status()
    eventually(lambda: node.process(name) is not None, f"{name} runs", seconds=20)
    assert told.exists()
    found = node.process(name)
    assert found is not None
    return found


def allocation(cluster: Cluster, node: Host) -> dict[str, Any]:
    [only] = ask(f"{cluster.nomad_url}/v1/job/sleeper-{node.name}/allocations")
    assert isinstance(only, dict)
    return only


def test_each_node_runs_what_nomad_gives_it_and_keeps_it_when_its_agent_dies(
    cluster: Cluster,
) -> None:
    sleepers = [run_sleeper(cluster, node) for node in cluster.nodes]
    for node in cluster.nodes:
        node.stop("nomad")
        cluster.start(node, "nomad")
    eventually(lambda: len(cluster.nomad_ready()) == len(cluster.nodes), "all are ready again")
    assert all(sleeper.lives() for sleeper in sleepers)
    assert [allocation(cluster, node)["NodeName"] for node in cluster.nodes] == [
        node.name for node in cluster.nodes
    ]


def test_consul_sees_every_host(cluster: Cluster) -> None:
    assert cluster.consul_alive() == {host.name for host in cluster.hosts}


def test_every_program_is_found_and_can_be_killed_and_started(cluster: Cluster) -> None:
    for name, count in (
        ("nomad", 3),
        ("consul", 4),
        ("postgres", 1),
        ("control", 1),
        ("traefik", 1),
    ):
        assert len(cluster.processes(name)) == count, name
    server = cluster.servers[0]
    [before] = [p for p in cluster.processes("nomad") if p == server.process("nomad")]
    server.stop("nomad")
    assert not before.lives()
    assert ask(f"{cluster.nomad_url}/v1/status/leader") is None
    cluster.start(server, "nomad")
    eventually(
        lambda: ask(f"{cluster.nomad_url}/v1/status/leader") is not None, "a leader", seconds=30
    )


def test_a_node_whose_plug_is_pulled_is_noticed_and_comes_back(cluster: Cluster) -> None:
    node, other = cluster.nodes
    sleeper = run_sleeper(cluster, node)
    node.kill()
    assert not sleeper.lives()
    assert not node.is_on()
    eventually(lambda: cluster.nomad_ready() == {other.name}, "it is missed", seconds=LOST_SECONDS)
    eventually(lambda: node.name not in cluster.consul_alive(), "also by Consul", seconds=30)
    begin = time.monotonic()
    cluster.restart(node)
    eventually(lambda: node.name in cluster.nomad_ready(), "it is back", seconds=30)
    eventually(lambda: node.name in cluster.consul_alive(), "also in Consul", seconds=30)
    assert time.monotonic() - begin < 30


def test_a_port_of_loopback_leads_to_traefik_and_to_what_consul_has(cluster: Cluster) -> None:
    host = f"3000-probe.localhost:{cluster.network.port}"
    tags = [
        "yurt",
        "traefik.enable=true",
        "traefik.http.routers.probe.rule=HostRegexp(`^3000-probe\\.localhost$`)",
        "traefik.http.routers.probe.entrypoints=web",
    ]
    # Consul's own server is as good as any to be found behind a route.
    server = cluster.servers[0]
    instance = {"ID": "probe", "Service": "yurt-sandbox", "Tags": tags, "Port": 8500}
    registration = {
        "Node": "yurt-routes",
        "Address": server.address,
        "Service": {**instance, "Address": server.address},
    }
    url = f"{cluster.consul_url}/v1/catalog/register"
    httpx.put(url, json=registration, trust_env=False).raise_for_status()
    leader = eventually(
        lambda: ask(f"http://{host}/v1/status/leader"), "the route is live", seconds=20
    )
    assert leader == f"{server.address}:8300"


def test_clients_reach_control_with_what_the_environment_says_also_after_a_kill(
    cluster: Cluster,
) -> None:
    url = f"{cluster.env['DAYTONA_API_URL']}/sandbox"
    headers = {"Authorization": f"Bearer {cluster.env['DAYTONA_API_KEY']}"}
    assert httpx.get(url, headers=headers, trust_env=False).json()["items"] == []
    for name in ("control", "traefik", "postgres", "registry"):
        cluster.control.stop(name)
        cluster.start(cluster.control, name)
    eventually(
        lambda: ask(f"{cluster.env['DAYTONA_API_URL']}/health") is not None,
        "it is back",
        seconds=30,
    )
    assert httpx.get(url, headers=headers, trust_env=False).json()["items"] == []


def test_missing_programs_are_named_and_nothing_is_made(tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "tests.cluster", "up"],
        cwd=REPOSITORY,
        env={**os.environ, "PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 2, ran.stderr
    assert "not on PATH: nomad, consul" in ran.stderr
