"""What is concluded from what a cluster and a node tell about themselves."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from control.cli import asking, cluster_checks, node_checks
from control.cli.checks import Verdict
from control.cli.cluster_doctor import probe
from control.cli.cluster_facts import Heartbeats, NodeFacts, NomadFacts, node_from, read_nomad
from control.errors import NotFoundError, UnavailableError
from control.settings import Settings
from jobs.installed import interpreter
from traefik.consul import ConsulSettings, is_ours

pytestmark = pytest.mark.unit

NODE = NodeFacts(
    name="node-1",
    is_ready=True,
    is_cordoned=False,
    version="2.0.5",
    has_raw_exec=True,
    volume="/var/lib/yurt/disks",
    meta={"yurt_data": "/var/lib/yurt", "yurt_python": "/usr/bin/python3"},
)
GOOD = NomadFacts("10.0.0.1:4647", "2.0.5", True, Heartbeats(10, 5, 30))
SETTINGS = Settings(
    nomad_url="http://10.0.0.1:4646",
    consul_url="http://10.0.0.2:8500",
    control_listen="10.0.0.2:9879",
)


def verdicts(facts: NomadFacts) -> dict[str, Verdict]:
    return {check.name: check.verdict for check in cluster_checks.nomad_checks(facts)}


def test_a_good_nomad_is_good() -> None:
    assert set(verdicts(GOOD).values()) == {Verdict.OK}


@pytest.mark.parametrize(
    ("facts", "name", "verdict"),
    [
        (replace(GOOD, leader=""), "Nomad leader", Verdict.FAIL),
        (replace(GOOD, version="1.11.3"), "Nomad version", Verdict.FAIL),
        (replace(GOOD, version=""), "Nomad version", Verdict.FAIL),
        (replace(GOOD, version="2.0.4"), "Nomad version", Verdict.WARN),
        (replace(GOOD, version="2.1.0-beta.1"), "Nomad version", Verdict.OK),
        (replace(GOOD, oversubscription=False), "memory oversubscription", Verdict.FAIL),
        (replace(GOOD, heartbeats=None), "heartbeats", Verdict.WARN),
        (replace(GOOD, heartbeats=Heartbeats(10, 5)), "heartbeats", Verdict.WARN),
        (replace(GOOD, heartbeats=Heartbeats(30, 10, 30)), "heartbeats", Verdict.WARN),
    ],
)
def test_what_nomad_lacks_is_told(facts: NomadFacts, name: str, verdict: Verdict) -> None:
    found = verdicts(facts)
    assert found.pop(name) is verdict
    assert set(found.values()) == {Verdict.OK}


def test_every_fault_comes_with_advice() -> None:
    bad = NomadFacts("", "1.0.0", False, Heartbeats())
    assert all(check.advice for check in cluster_checks.nomad_checks(bad))
    nodes = [replace(NODE, meta={}, volume="", has_raw_exec=False)]
    found = list(cluster_checks.node_list(nodes, ()))
    assert found[1].advice.count(";") == 4
    assert all(check.advice for check in found[1:])


@pytest.mark.parametrize(
    ("node", "verdict", "word"),
    [
        (NODE, Verdict.OK, "ready"),
        (replace(NODE, is_cordoned=True), Verdict.OK, "cordoned"),
        (replace(NODE, is_ready=False), Verdict.WARN, "down"),
        (replace(NODE, name="other"), Verdict.FAIL, "no key"),
        (replace(NODE, volume=""), Verdict.FAIL, "host volume"),
        (replace(NODE, volume="/srv/disks"), Verdict.FAIL, "/srv/disks"),
        (replace(NODE, meta={"yurt_data": "/var/lib/yurt"}), Verdict.FAIL, "yurt_python"),
        (replace(NODE, has_raw_exec=False), Verdict.FAIL, "raw_exec"),
        (replace(NODE, clock_seconds=-60.0), Verdict.WARN, "60 s"),
        (replace(NODE, clock_seconds=1.0), Verdict.OK, "ready"),
    ],
)
def test_each_node_is_judged(node: NodeFacts, verdict: Verdict, word: str) -> None:
    _, found, *_ = cluster_checks.node_list([node], {"node-1"})
    assert found.verdict is verdict
    assert word in found.found


def test_a_cluster_without_a_node_that_takes_sandboxes_cannot_work() -> None:
    for nodes in ([], [replace(NODE, is_cordoned=True)], [replace(NODE, is_ready=False)]):
        assert next(iter(cluster_checks.node_list(nodes, {"node-1"}))).verdict is Verdict.FAIL


def test_a_key_without_a_node_is_told() -> None:
    *_, last = cluster_checks.node_list([NODE], {"node-1", "gone"})
    assert (last.name, last.verdict) == ("node gone", Verdict.WARN)


def server(answers: dict[str, Any]) -> asking.Server:
    def answer(request: httpx.Request) -> httpx.Response:
        found = answers.get(request.url.path, 404)
        if isinstance(found, int):
            return httpx.Response(found, text="no leader")
        return httpx.Response(200, json=found)

    made = asking.Server("Nomad", "http://nomad.test", {})
    made._client.close()
    made._client = httpx.Client(base_url=made.url, transport=httpx.MockTransport(answer))
    return made


def nomad_answers(settings: dict[str, Any]) -> dict[str, Any]:
    return {
        "/v1/status/leader": "10.0.0.1:4647",
        "/v1/agent/self": {"config": {"Version": {"Version": "2.0.5"}, "Server": settings}},
        "/v1/operator/scheduler/configuration": {
            "SchedulerConfig": {"MemoryOversubscriptionEnabled": True}
        },
    }


def test_what_a_server_leaves_out_has_nomads_own_defaults() -> None:
    with server(nomad_answers({"Enabled": True, "HeartbeatGrace": 5_000_000_000})) as nomad:
        assert read_nomad(nomad) == replace(GOOD, heartbeats=Heartbeats(10, 5, 300))
    with server(nomad_answers({"Enabled": False})) as nomad:
        assert read_nomad(nomad).heartbeats is None


def test_a_server_that_refuses_or_fails_is_told_from_a_missing_thing() -> None:
    with server({"/a": 403, "/b": 500}) as nomad:
        with pytest.raises(UnavailableError, match="token"):
            nomad.get("/a")
        with pytest.raises(UnavailableError, match="no leader"):
            nomad.get("/b")
        with pytest.raises(NotFoundError):
            nomad.get("/c")


def test_a_node_is_read_from_nomads_api() -> None:
    told = {
        "Name": "node-1",
        "Status": "ready",
        "SchedulingEligibility": "eligible",
        "Attributes": {"nomad.version": "2.0.5"},
        "Drivers": {"raw_exec": {"Healthy": True}},
        "HostVolumes": {"yurt": {"Path": "/var/lib/yurt/disks", "ReadOnly": False}},
        "Meta": {**NODE.meta, "connect.log_level": "info"},
        "NodeResources": {"MinDynamicPort": 20000, "MaxDynamicPort": 32000},
    }
    assert node_from(told) == NODE
    volume = {"yurt": {"Path": "/var/lib/yurt/disks", "ReadOnly": True}}
    assert node_from({**told, "HostVolumes": volume, "Drivers": None}) == replace(
        NODE, volume="", has_raw_exec=False
    )


def test_the_probe_of_traefik_is_no_route_of_a_sandbox() -> None:
    names = ConsulSettings("http://10.0.0.2:8500")
    body = probe(SETTINGS, "0" * 32, names)
    service = body["Service"]
    listed = {"ServiceID": service["ID"], "Node": body["Node"], "ServiceTags": service["Tags"]}
    assert not is_ours(listed, names)
    assert (service["Address"], service["Port"]) == ("10.0.0.2", 9879)
    assert names.tag in service["Tags"]


def write_node(data: Path, *, mode: int = 0o600, **changed: Any) -> None:
    fields = ("name", "key", "resolvers", "never", "bundle", "subnet", "registry")
    path = data / "node.json"
    path.write_text(json.dumps({**dict.fromkeys(fields, ""), "name": "node-1", **changed}))
    path.chmod(mode)


def test_node_json_must_be_there_whole_and_for_root_only(tmp_path: Path) -> None:
    assert node_checks.node_file(tmp_path)[1].verdict is Verdict.FAIL
    write_node(tmp_path)
    node, found = node_checks.node_file(tmp_path)
    assert node is not None
    assert found.verdict is Verdict.OK
    write_node(tmp_path, mode=0o644)
    assert "chmod" in node_checks.node_file(tmp_path)[1].advice
    (tmp_path / "node.json").write_text('{"name": "node-1"}')
    assert "key" in node_checks.node_file(tmp_path)[1].found
    for text in ("{", "[]", "3"):
        (tmp_path / "node.json").write_text(text)
        assert node_checks.node_file(tmp_path)[1].verdict is Verdict.FAIL, text


def test_the_runner_is_found_through_its_link(tmp_path: Path) -> None:
    assert node_checks.runner(tmp_path).verdict is Verdict.FAIL
    program = tmp_path / "lib" / "runner-abc" / "jobs" / "runner" / "main.py"
    program.parent.mkdir(parents=True)
    program.touch()
    (tmp_path / "lib" / "runner").symlink_to("runner-abc")
    assert node_checks.runner(tmp_path).found == "runner-abc"


@pytest.mark.parametrize(
    ("node", "name", "data", "word"),
    [
        (NODE, "node-1", "/var/lib/yurt", ""),
        (NODE, "", "/var/lib/yurt", ""),
        (NODE, "node-2", "/var/lib/yurt", "node-2"),
        (NODE, "node-1", "/srv/yurt", "/srv/yurt"),
        (replace(NODE, is_ready=False), "node-1", "/var/lib/yurt", "not ready"),
        (replace(NODE, volume=""), "node-1", "/var/lib/yurt", "host volume"),
        (
            replace(NODE, meta={**NODE.meta, "yurt_python": "/usr/bin/false"}),
            "node-1",
            "/var/lib/yurt",
            "yurt_python",
        ),
    ],
)
def test_the_nomad_client_must_be_that_of_this_node(
    node: NodeFacts, name: str, data: str, word: str
) -> None:
    python = node.meta["yurt_python"].replace("/usr/bin/python3", interpreter()[0])
    here = replace(node, meta={**node.meta, "yurt_python": python})
    found = node_checks.client(here, Path(data), name)
    assert (found.verdict is Verdict.OK) is not bool(word)
    assert word in found.found


@pytest.mark.parametrize(
    ("own", "verdict"),
    [
        ("32768\t60999\n", Verdict.OK),
        ("1024\t19999\n", Verdict.OK),
        ("32000\t60999\n", Verdict.WARN),
        ("1024\t65535\n", Verdict.WARN),
    ],
)
def test_ports_of_gates_and_of_connections_are_kept_apart(
    own: str, verdict: Verdict, tmp_path: Path
) -> None:
    (tmp_path / "range").write_text(own)
    assert node_checks.port_range((20000, 32000), tmp_path / "range").verdict is verdict


def test_a_server_is_no_client() -> None:
    with server({"/v1/agent/self": {"stats": {}}}) as nomad:
        [found] = node_checks.nomad_client(nomad, Path("/x"), None)
    assert "is no client" in found.found
    with server({}) as nomad:
        [found] = node_checks.nomad_client(nomad, Path("/x"), None)
    assert found.verdict is Verdict.FAIL
