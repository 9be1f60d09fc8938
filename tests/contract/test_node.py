"""A node is prepared by one command, again and again, also where two share one kernel."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from jobs.runner import cgroup
from tests.support.runner_rig import KEY, NEEDS, SUBNET, Rig, eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.contract, *NEEDS]
A, B = "a" * 26, "b" * 26
ROOT = Path(__file__).parents[2]
# A host of namespaces: its own network, its own /run/yurt, the kernel's control groups.
BOOT = """
set -e
mkdir -p /run/yurt && mount -t tmpfs tmpfs /run/yurt
mount --rbind /sys/fs/cgroup /mnt && mount -t sysfs sysfs /sys
mount --rbind /mnt /sys/fs/cgroup && umount -l /mnt
ip link set lo up
echo up
exec sleep infinity
"""


def prepare(rig: Rig, config: str) -> subprocess.CompletedProcess[str]:
    path = rig.data.parent / "config.json"
    path.write_text(config)
    command = [sys.executable, "-m", "jobs.node", "prepare", "--data", rig.data, "--config", path]
    return subprocess.run(
        [*rig.prefix, *map(str, command)], cwd=ROOT, capture_output=True, text=True, check=False
    )


def configuration(rig: Rig, **more: Any) -> str:
    fields = {"name": "node-1", "key": KEY.hex(), "subnet": SUBNET}
    return json.dumps({**fields, "bundle": str(rig.data / "lib" / "agent"), **more})


def test_a_prepared_node_runs_what_is_started_by_its_link(rig: Rig) -> None:
    done = prepare(rig, configuration(rig, registry="http://192.0.2.1:5000/yurt"))
    assert done.returncode == 0, done.stderr
    node = json.loads((rig.data / "node.json").read_text())
    assert (node["name"], node["resolvers"]) == ("node-1", [])
    assert node["registry"] == "http://192.0.2.1:5000/yurt"
    assert (rig.data / "node.json").stat().st_mode & 0o777 == 0o600
    rig.main = rig.data / "lib" / "runner" / "jobs" / "runner" / "main.py"
    process = rig.start(A)
    rig.until(A, "ready")
    again = prepare(rig, configuration(rig, resolvers=["192.0.2.53"]))
    assert again.returncode == 0, again.stderr
    assert json.loads((rig.data / "node.json").read_text())["resolvers"] == ["192.0.2.53"]
    assert process.poll() is None
    assert rig.stop(A, process)["reason"] == ""


def test_an_agent_of_an_older_version_is_renewed(rig: Rig) -> None:
    old = rig.data / "lib" / "agent-00000000"
    (rig.data / "lib" / "agent").rename(old)
    done = prepare(rig, configuration(rig, bundle=str(old)))
    assert done.returncode == 0, done.stderr
    renewed = Path(json.loads((rig.data / "node.json").read_text())["bundle"])
    assert renewed.parent == old.parent
    assert renewed != old
    assert (renewed / "bin" / "python3").exists()


@pytest.mark.parametrize(
    ("config", "said"),
    [
        pytest.param("{", "not a node's configuration", id="no JSON"),
        pytest.param('{"name": "a"}', "'key' and 'subnet'", id="incomplete"),
        pytest.param('{"nmae": "a"}', "unknown: nmae; known: bundle, key, name", id="misspelt"),
    ],
)
def test_a_wrong_configuration_is_refused_and_changes_nothing(
    rig: Rig, config: str, said: str
) -> None:
    before = (rig.data / "node.json").read_text()
    done = prepare(rig, config)
    assert done.returncode == 1
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert (rig.data / "node.json").read_text() == before


@pytest.fixture
def twins(tmp_path: Path) -> Iterator[list[Rig]]:
    """Two nodes on one kernel, each in namespaces of its own."""
    hosts, rigs = [], []
    for name in ("one", "two"):
        command = ["unshare", "--mount", "--net", "--propagation", "private", "sh", "-c", BOOT]
        host = subprocess.Popen(command, stdout=subprocess.PIPE)
        hosts.append(host)
        assert host.stdout is not None
        assert host.stdout.readline() == b"up\n"
        prefix = ["nsenter", f"--target={host.pid}", "--mount", "--net", f"--wd={ROOT}"]
        rigs.append(Rig(tmp_path / name, prefix))
    yield rigs
    for rig in rigs:
        rig.close()
    for host in hosts:
        host.kill()
        host.communicate()


def test_two_nodes_on_one_kernel_leave_each_other_alone(twins: list[Rig]) -> None:
    one, two = twins
    first, second = one.start(A), two.start(B)
    one.until(A, "ready")
    two.until(B, "ready")
    for rig in twins:  # both have the first slot
        listed = [*rig.prefix, "ip", "-o", "link", "show", "yv0"]
        subprocess.run(listed, check=True, capture_output=True)
    first.kill()
    first.wait()
    eventually(lambda: not one.loops())
    assert prepare(one, configuration(one)).returncode == 0
    one.verb("forget-node")
    assert not cgroup.directories(A)
    assert two.pids(B)
    assert two.inside(B, "echo alive").stdout == "alive\n"
    assert two.stop(B, second)["reason"] == ""
    assert prepare(one, configuration(one)).returncode == 0
    again = one.start(A, 2)
    one.until(A, "ready", 2)
    assert one.stop(A, again)["reason"] == ""
