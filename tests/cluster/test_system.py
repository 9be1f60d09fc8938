"""Yurt's own parts as Nomad jobs, and what the commands for a cluster say of a real one."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests.cluster import making, programs
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tests.cluster.cluster import Cluster
    from tests.cluster.host import Host

pytestmark = pytest.mark.cluster

CHECKOUT = Path(__file__).parents[2]
SYSTEM = CHECKOUT / "jobs" / "system"
PORT = 18080


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with making.temporary() as made:
        yield made


def variables(cluster: Cluster) -> dict[str, dict[str, str]]:
    """What each job file must be told, for a node each."""
    one, two = cluster.nodes
    settings = {"YURT_URL": cluster.url, "YURT_REGISTRY": f"{cluster.registry_url}/yurt"}
    return {
        "registry": {"node": two.name, "data": "/srv/images"},
        "control": {
            "nodes": one.name,
            "checkout": str(CHECKOUT),
            "nomad_url": cluster.nomad_url,
            "settings": json.dumps(settings),
        },
        "traefik": {
            "nodes": f"{one.name},{two.name}",
            "checkout": str(CHECKOUT),
            "control_urls": f"http://{one.address}:9879",
            "url": f"http://localhost:{PORT}",
            "domain": "localhost",
            "port": str(PORT),
            "allow_plain_http": "true",
        },
    }


def nomad(cluster: Cluster, *arguments: str, given: Mapping[str, str] | None = None) -> str:
    options = [f"-var={name}={value}" for name, value in (given or {}).items()]
    verb = 2 if arguments[0] in {"job", "var"} else 1
    ran = subprocess.run(
        ["nomad", *arguments[:verb], *options, *arguments[verb:]],
        cwd=SYSTEM,
        env={"PATH": programs_path(), "NOMAD_ADDR": cluster.nomad_url, "HOME": "/"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, f"{arguments}: {ran.stdout}{ran.stderr}"
    return ran.stdout


def programs_path() -> str:
    found = shutil.which("nomad")
    assert found is not None
    return str(Path(found).parent)


def yurt(cluster: Cluster, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(Path(sys.executable).with_name("yurt")), *arguments],
        env={**cluster.env, "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )


def answers(host: Host, port: int, path: str, of: str) -> bool:
    try:
        url = f"http://{host.address}:{port}{path}"
        return httpx.get(url, headers={"host": of}, trust_env=False).is_success
    except httpx.TransportError:
        return False


def test_nomad_takes_every_job_file_and_would_not_write_it_otherwise(cluster: Cluster) -> None:
    nomad(cluster, "fmt", "-check", ".")
    for name, given in variables(cluster).items():
        said = nomad(cluster, "job", "validate", f"{name}.nomad.hcl", given=given)
        assert "Job validation successful" in said


def test_a_job_has_no_secret_and_no_setting_that_is_empty(cluster: Cluster) -> None:
    for name, given in variables(cluster).items():
        told = json.loads(nomad(cluster, "job", "run", "-output", f"{name}.nomad.hcl", given=given))
        for group in told["Job"]["TaskGroups"]:
            environment: dict[str, Any] = group["Tasks"][0]["Env"] or {}
            assert all(environment.values()), environment
            assert not any("TOKEN" in key or "DATABASE" in key for key in environment)


def test_control_traefik_and_registry_run_as_jobs(cluster: Cluster) -> None:
    one, two = cluster.nodes
    secrets = programs.inside(cluster.control, programs.DATA) / "secrets.json"
    items = [f"secrets=@{secrets}", f"database_url={cluster.database_url}"]
    nomad(cluster, "var", "put", "-out=none", "nomad/jobs/system-control", *items)
    for name, given in variables(cluster).items():
        nomad(cluster, "job", "run", "-detach", f"{name}.nomad.hcl", given=given)
    eventually(lambda: answers(two, 5000, "/v2/", "x"), "the registry answers", seconds=30)
    for node in (one, two):
        eventually(
            lambda node=node: answers(node, PORT, "/api/health", "localhost"),  # type: ignore[misc]
            f"control answers through Traefik on {node.name}",
            seconds=60,
        )
    url = f"http://{two.address}:{PORT}/api/sandbox"
    headers = {"host": "localhost", "authorization": f"Bearer {cluster.env['DAYTONA_API_KEY']}"}
    assert httpx.get(url, headers=headers, trust_env=False).json()["items"] == []
    for name in ("traefik", "control", "registry"):
        nomad(cluster, "job", "stop", "-purge", f"system-{name}")
    assert not answers(one, PORT, "/api/health", "localhost")


def test_the_doctor_finds_a_good_cluster_good(cluster: Cluster) -> None:
    found = yurt(cluster, "doctor", "--cluster", "--json")
    verdicts = {check["name"]: check["verdict"] for check in json.loads(found.stdout)}
    assert set(verdicts.values()) <= {"ok", "warn"}, found.stdout
    assert {"database", "Nomad leader", "Consul leader", "Traefik", "registry"} <= verdicts.keys()
    assert all(f"node {node.name}" in verdicts for node in cluster.nodes)
    assert found.returncode == 0


def test_a_node_is_kept_empty_and_filled_again(cluster: Cluster) -> None:
    name = cluster.nodes[0].name

    def cordoned() -> list[str]:
        listed = json.loads(yurt(cluster, "nodes", "--json").stdout)
        return [node["name"] for node in listed if node["cordoned"]]

    assert yurt(cluster, "cordon", name).returncode == 0
    assert cordoned() == [name]
    assert yurt(cluster, "uncordon", name).returncode == 0
    assert cordoned() == []
    assert "no such node" in yurt(cluster, "cordon", "nobody").stderr


def test_an_empty_cluster_differs_nowhere(cluster: Cluster) -> None:
    found = yurt(cluster, "ps", "--json")
    assert found.returncode == 0, found.stdout + found.stderr
    assert json.loads(found.stdout) == {"sandboxes": [], "silentNodes": []}


def test_a_node_that_was_prepared_is_found_good(cluster: Cluster) -> None:
    program = str(Path(sys.executable).with_name("yurt"))
    environment = {"YURT_DATA": str(programs.DATA)}
    told = cluster.nodes[0].run([program, "doctor", "--node", "--json"], environment)
    verdicts = {check["name"]: check["verdict"] for check in json.loads(told)}
    assert {"node.json", "runner", "host volume", "Nomad client", "ports"} <= verdicts.keys()
    assert "fail" not in verdicts.values(), told


def test_a_sandbox_is_told_by_everybody_and_what_is_taken_away_is_missed(
    cluster: Cluster,
) -> None:
    created = yurt(cluster, "create", "--json")
    assert created.returncode == 0, created.stderr
    sandbox_id = json.loads(created.stdout)["id"]

    def looked() -> tuple[int, dict[str, Any]]:
        found = yurt(cluster, "ps", "--json")
        (line,) = json.loads(found.stdout)["sandboxes"]
        return found.returncode, line

    code, line = looked()
    assert (code, line["differences"]) == (0, []), line
    assert line["runner"] == {"asked": True, "phase": "ready"}
    assert line["diskOn"] == line["runningOn"] == [line["job"]["node"]]
    gone = {"Node": "yurt-routes", "ServiceID": sandbox_id}
    httpx.put(f"{cluster.consul_url}/v1/catalog/deregister", json=gone, trust_env=False)
    code, line = looked()
    assert (code, line["differences"]) == (1, ["started, but not registered"])
    eventually(lambda: looked()[0] == 0, "control mends it", seconds=90)
    node = line["job"]["node"]
    assert f"their disks on {node}" in yurt(cluster, "nodes", "remove", node).stderr
    assert yurt(cluster, "rm", sandbox_id).returncode == 0
