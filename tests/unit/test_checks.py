"""What is read from a machine, and what is concluded from it."""

from __future__ import annotations

import ipaddress
import json
from typing import TYPE_CHECKING

import pytest

from control.cli import checks, forwarding
from control.cli.checks import Verdict
from control.cli.down import still_in_use

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.unit

SUBNET = ipaddress.IPv4Network("10.201.0.0/16")


@pytest.mark.parametrize(
    ("release", "verdict"),
    [
        ("6.1.0-13-cloud-amd64", Verdict.OK),
        ("6.18.44", Verdict.OK),
        ("10.0", Verdict.OK),
        ("6.0.19", Verdict.FAIL),
        ("5.15.0-91-generic", Verdict.FAIL),
    ],
)
def test_the_kernel_must_be_new_enough(release: str, verdict: Verdict) -> None:
    assert checks.kernel(release).verdict is verdict


@pytest.mark.parametrize(
    ("said", "verdict"),
    [
        ("runc version 1.1.5+ds1\nspec: 1.0.2-dev\n", Verdict.OK),
        ("runc version 1.3.0-rc.1\n", Verdict.OK),
        ("runc version 1.1.4\n", Verdict.FAIL),
        ("runc version 1.0.0~rc93+ds1\n", Verdict.FAIL),
        ("", Verdict.FAIL),
    ],
)
def test_runc_must_be_new_enough(
    said: str, verdict: Verdict, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks, "_output", lambda *_: said)
    found = checks.runc()
    assert found.verdict is verdict
    assert (verdict is Verdict.OK) is not bool(found.advice)


def test_whoever_is_not_root_is_told_so() -> None:
    assert "sudo" in checks.root(1000).advice
    assert checks.root(0).verdict is Verdict.OK


def test_cgroups_need_the_three_controllers(tmp_path: Path) -> None:
    listed = tmp_path / "cgroup.controllers"
    listed.write_text("cpuset cpu io memory pids\n")
    assert checks.control_groups(tmp_path).verdict is Verdict.OK
    listed.write_text("cpuset cpu io pids\n")
    assert checks.control_groups(tmp_path).found == "v2 without memory"


def test_cgroups_of_the_first_version_are_hierarchies(tmp_path: Path) -> None:
    for name in ("memory", "cpu"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "tasks").touch()
    assert checks.control_groups(tmp_path).found == "v1 without pids"


def test_user_namespaces_may_be_switched_off(tmp_path: Path) -> None:
    limit = tmp_path / "limit"
    limit.write_text("0\n")
    assert checks.user_namespaces(limit).verdict is Verdict.FAIL
    limit.write_text("95000\n")
    assert checks.user_namespaces(limit).verdict is Verdict.OK


def test_a_small_machine_is_warned_of_and_not_refused(tmp_path: Path) -> None:
    info = tmp_path / "meminfo"
    info.write_text("MemTotal:        4021640 kB\nMemFree: 1 kB\n")
    assert checks.memory(info).verdict is Verdict.OK
    info.write_text("MemTotal:        1021640 kB\n")
    assert checks.memory(info).verdict is Verdict.WARN


def test_a_path_is_on_the_mount_that_is_deepest_and_last(tmp_path: Path) -> None:
    mountinfo = "\n".join(
        [
            "1 0 8:1 / / rw - ext4 /dev/a rw",
            f"2 1 0:2 / {tmp_path} rw shared:1 - tmpfs tmpfs rw",
            f"3 1 0:3 / {tmp_path}/data rw - xfs /dev/b rw",
            f"4 1 0:4 / {tmp_path}/data rw - btrfs /dev/c rw",
            f"5 1 0:5 / {tmp_path}/data2 rw - nfs host:/ rw",
        ]
    )
    assert checks.file_system(tmp_path / "data" / "x", mountinfo) == "btrfs"
    assert checks.file_system(tmp_path / "x", mountinfo) == "tmpfs"


def test_our_own_links_are_no_clash_and_others_are() -> None:
    routes = json.dumps(
        [
            {"dst": "default", "gateway": "10.0.0.1", "dev": "eth0"},
            {"dst": "10.201.0.4/31", "dev": "yv2"},
            {"dst": "10.0.0.0/8", "dev": "vpn0"},
            {"type": "local", "dst": "10.201.7.7", "dev": "eth1"},
            {"dst": "10.202.0.0/16", "dev": "eth0"},
        ]
    )
    assert checks.clashing_routes(SUBNET, routes) == {
        "10.0.0.0/8": "vpn0",
        "10.201.7.7/32": "eth1",
    }


@pytest.mark.parametrize(
    ("subnet", "verdict"),
    [
        ("10.201.0.0/16", Verdict.OK),
        ("192.168.1.0/24", Verdict.WARN),
        ("192.168.0.0/16", Verdict.FAIL),
    ],
)
def test_a_clash_of_the_subnet_is_told_with_what_to_set(
    subnet: str, verdict: Verdict, monkeypatch: pytest.MonkeyPatch
) -> None:
    routes = json.dumps([{"dst": "192.168.0.0/17", "dev": "eth0"}])
    monkeypatch.setattr(checks, "_output", lambda *_: routes)
    found = checks.addresses(ipaddress.IPv4Network(subnet))
    assert found.verdict is verdict
    assert ("YURT_SUBNET" in found.advice) is (verdict is not Verdict.OK)
    assert ("192.168.0.0/17 (eth0)" in found.found) is (verdict is not Verdict.OK)


def chain(table: str, name: str, **more: str) -> dict[str, object]:
    return {"chain": {"family": "ip", "table": table, "name": name, **more}}


HOOKED = {"hook": "forward", "type": "filter"}


@pytest.mark.parametrize(
    ("chains", "expected"),
    [
        pytest.param([chain("filter", "FORWARD", policy="accept", **HOOKED)], [], id="open"),
        pytest.param([chain("filter", "INPUT", policy="drop", hook="input")], [], id="other hook"),
        pytest.param(
            [chain("filter", "FORWARD", policy="drop", **HOOKED), chain("filter", "DOCKER-USER")],
            [("Docker", "DOCKER-USER")],
            id="Docker",
        ),
        pytest.param(
            [
                chain("filter", "FORWARD", policy="drop", **HOOKED),
                chain("filter", "ufw-before-forward"),
            ],
            [("ufw", "FORWARD")],
            id="ufw",
        ),
        pytest.param(
            [chain("filter", "FORWARD", policy="drop", **HOOKED)],
            [("iptables", "FORWARD")],
            id="by hand",
        ),
        pytest.param(
            [
                chain("firewalld", "filter_FORWARD", policy="accept", **HOOKED),
                chain("firewalld", "other", policy="accept", **HOOKED),
            ],
            [("firewalld", "")],
            id="firewalld, once",
        ),
        pytest.param(
            [chain("mine", "fwd", policy="drop", **HOOKED)],
            [("the nftables chain ip mine fwd", "")],
            id="unknown",
        ),
    ],
)
def test_whoever_drops_forwarded_packets_is_named(
    chains: list[dict[str, object]], expected: list[tuple[str, str]]
) -> None:
    found = forwarding.from_nftables({"nftables": [{"metainfo": {}}, *chains]})
    assert [(one.owner, one.chain) for one in found] == expected
    assert all(one.chain or one.advice for one in found)


def test_mounts_and_loop_devices_below_the_data_directory_are_seen(tmp_path: Path) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/mountinfo").write_text(
        "1 0 8:1 / / rw - ext4 a rw\n"
        "2 1 8:2 / /data rw - ext4 b rw\n"
        "3 2 0:9 / /data/a\\040b rw - tmpfs c rw\n"
        "4 1 0:9 / /data-2 rw - tmpfs c rw\n"
    )
    loop = tmp_path / "sys/block/loop3/loop"
    loop.mkdir(parents=True)
    (loop / "backing_file").write_text("/data/disks/x/disk.img\n")
    data = tmp_path.__class__("/data")
    assert still_in_use(data, tmp_path) == [
        "mount /data/a b",
        "loop device loop3 on /data/disks/x/disk.img",
    ]
