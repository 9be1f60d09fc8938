"""What the runner decides without touching the system: addresses, rules, the OCI configuration."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from jobs.runner import cgroup, disk, message, network, oci

pytestmark = pytest.mark.unit
REFUSED = [
    "bpf", "clone3", "fsopen", "init_module", "io_uring_setup", "kexec_load", "keyctl", "mount",
    "move_mount", "open_by_handle_at", "perf_event_open", "pivot_root", "setns", "unshare",
    "userfaultfd",
]  # fmt: skip
SLOT = network.Slot(7, -1, "10.201.0.0/16")


@pytest.mark.parametrize(
    ("subnet", "number", "expected"),
    [
        ("10.201.0.0/16", 0, ("10.201.0.0", "10.201.0.1")),
        ("10.201.0.0/16", 7, ("10.201.0.14", "10.201.0.15")),
        ("10.201.0.0/16", 32767, ("10.201.255.254", "10.201.255.255")),
        ("192.168.4.128/25", 63, ("192.168.4.254", "192.168.4.255")),
    ],
)
def test_each_slot_has_its_own_pair_of_addresses(
    subnet: str, number: int, expected: tuple[str, str]
) -> None:
    assert network.slot_addresses(subnet, number) == expected


def test_a_slot_beyond_the_subnet_is_refused() -> None:
    with pytest.raises(OSError, match="no room"):
        network.slot_addresses("192.168.4.128/25", 64)


def test_slots_share_no_user_id() -> None:
    other = network.Slot(8, -1, "10.201.0.0/16")
    last = network.Slot(network.SLOTS - 1, -1, "10.201.0.0/16")
    assert SLOT.uid_base + 65536 == other.uid_base
    assert last.uid_base + 65536 < 1 << 32
    assert last.gate_uid < network.Slot(0, -1, "10.201.0.0/16").uid_base


def test_a_blocked_sandbox_has_no_element() -> None:
    rules = network.policy_rules(SLOT, block_all=True, allow=[], resolvers=["192.0.2.53"], never=[])
    assert rules == network.close_rules(SLOT)
    added = [x for x in rules.splitlines() if x.startswith("add element")]
    deleted = [x for x in rules.splitlines() if x.startswith("delete element")]
    assert [x.removeprefix("add ") for x in added] == [x.removeprefix("delete ") for x in deleted]


def test_the_open_policy_only_adds_the_address_after_closing() -> None:
    rules = network.policy_rules(SLOT, block_all=False, allow=[], resolvers=[], never=[])
    opened = rules.removeprefix(network.close_rules(SLOT))
    assert opened == (
        'add element inet yurt policies { "yv7" : jump policy7 }\n'
        'add element inet yurt sandboxes { "yv7" . 10.201.0.15 }\n'
    )


def test_an_allow_list_ends_in_a_drop() -> None:
    allow = ["203.0.113.0/24", "10.1.2.3/32"]
    rules = network.policy_rules(
        SLOT, block_all=False, allow=allow, resolvers=["192.0.2.53"], never=["198.51.100.0/24"]
    )
    assert verdicts(rules) == [
        "ip daddr { 192.0.2.53 } meta l4proto { tcp, udp } th dport 53 accept",
        "ip daddr 168.63.129.16 drop",
        "ip daddr { 203.0.113.0/24, 10.1.2.3/32 } accept",
        "drop",
    ]


def test_a_node_s_own_networks_are_reached_by_an_allow_list_only() -> None:
    rules = network.policy_rules(
        SLOT, block_all=False, allow=[], resolvers=[], never=["198.51.100.0/24"]
    )
    assert verdicts(rules) == ["ip daddr { 198.51.100.0/24 } drop"]


def verdicts(rules: str) -> list[str]:
    """The rules of the slot's own chain."""
    begin = "add rule inet yurt policy7 "
    return [x.removeprefix(begin) for x in rules.splitlines() if x.startswith(begin)]


def configuration() -> dict[str, object]:
    profile = json.loads((Path(oci.__file__).parent / "seccomp.json").read_text())
    return oci.config(
        sandbox_id="a" * 26,
        scratch="/mnt",
        uid_base=1 << 28,
        namespaces={"user": "/proc/1/fd/5", "network": "/proc/1/fd/6"},
        limits={"cpu": 2, "memory_mib": 512, "pids": 64},
        seccomp=profile,
    )


def test_the_configuration_has_its_own_namespaces_and_limits() -> None:
    linux = configuration()["linux"]
    assert isinstance(linux, dict)
    assert {n["type"]: n.get("path") for n in linux["namespaces"]} == {
        "pid": None,
        "ipc": None,
        "uts": None,
        "mount": None,
        "cgroup": None,
        "user": "/proc/1/fd/5",
        "network": "/proc/1/fd/6",
    }
    assert linux["resources"] == {
        "memory": {"limit": 512 << 20, "swap": 512 << 20},
        "cpu": {"quota": 200_000, "period": 100_000},
        "pids": {"limit": 64},
    }
    assert linux["cgroupsPath"] == "/yurt/" + "a" * 26


def test_nothing_of_the_host_is_mounted_but_the_bundle_and_what_is_ours() -> None:
    mounts = configuration()["mounts"]
    assert isinstance(mounts, list)
    bound = {m["destination"]: m["source"] for m in mounts if m["type"] == "bind"}
    assert bound == {
        "/opt/yurt": "/mnt/bundle",
        "/run/yurt": "/mnt/notices",
        "/etc/resolv.conf": "/mnt/etc/resolv.conf",
        "/etc/hosts": "/mnt/etc/hosts",
    }


@pytest.mark.parametrize("call", REFUSED)
def test_dangerous_calls_are_never_allowed(call: str) -> None:
    linux = configuration()["linux"]
    assert isinstance(linux, dict)
    rules = linux["seccomp"]["syscalls"]
    assert not [r for r in rules if call in r["names"] and r["action"] == "SCMP_ACT_ALLOW"]


def test_dangerous_capabilities_are_not_held() -> None:
    held = set(oci.CAPABILITIES)
    for name in ("SYS_ADMIN", "NET_ADMIN", "SYS_PTRACE", "SYS_MODULE", "DAC_READ_SEARCH", "BPF"):
        assert f"CAP_{name}" not in held


def head(sequence: int = 3) -> message.Head:
    return message.Head("node", "a" * 26, 2, "f" * 32, sequence)


def test_a_sealed_message_opens_with_the_same_key_and_direction_only() -> None:
    sealed = message.seal(b"key", message.UP, head(), b"body")
    opened = message.unseal(b"key", message.UP, sealed, b"body")
    assert opened.fields() == head().fields()
    for key, direction, body in (
        (b"yek", message.UP, b"body"),
        (b"key", message.DOWN, b"body"),
        (b"key", message.UP_ANSWER, b"body"),
        (b"key", message.UP, b"bodY"),
    ):
        with pytest.raises(message.BadMessage):
            message.unseal(key, direction, sealed, body)


@pytest.mark.parametrize(
    "field", ["node", "sandbox", "generation", "incarnation", "sequence", "signature"]
)
def test_every_field_of_the_head_is_sealed(field: str) -> None:
    sealed = message.seal(b"key", message.UP, head(), b"body")
    for changed in ("9", "", "\u00e9", "\ud800"):
        with pytest.raises(message.BadMessage):
            message.unseal(b"key", message.UP, sealed | {f"x-yurt-{field}": changed}, b"body")
    del sealed[f"x-yurt-{field}"]
    with pytest.raises(message.BadMessage):
        message.unseal(b"key", message.UP, sealed, b"body")


def test_the_mac_is_the_standard_one() -> None:
    """RFC 4231, test cases 2 and 6 (a key longer than a block)."""
    assert message.hmac_sha256(b"Jefe", b"what do ya want for nothing?").hex() == (
        "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
    )
    long_key = b"\xaa" * 131
    text = b"Test Using Larger Than Block-Size Key - Hash Key First"
    assert message.hmac_sha256(long_key, text).hex() == (
        "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54"
    )


@pytest.mark.parametrize("unified", [True, False], ids=["v2", "v1"])
def test_the_kernel_s_counters_are_read_on_both_cgroup_versions(
    tmp_path: Path, unified: bool
) -> None:
    if unified:
        (tmp_path / "cgroup.controllers").touch()
        memory, pids, oom = tmp_path / "yurt/s", tmp_path / "yurt/s", "memory.events"
    else:
        memory, pids, oom = (
            tmp_path / "memory/yurt/s",
            tmp_path / "pids/yurt/s",
            "memory.oom_control",
        )
    memory.mkdir(parents=True)
    pids.mkdir(parents=True, exist_ok=True)
    (memory / oom).write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 3\n")
    (pids / "pids.events").write_text("max 7\n")
    assert cgroup.out_of_memory_kills("s", str(tmp_path)) == 3
    assert cgroup.refused_forks("s", str(tmp_path)) == 7
    assert cgroup.out_of_memory_kills("gone", str(tmp_path)) == 0


def test_a_sparse_copy_is_equal_and_stays_sparse(tmp_path: Path) -> None:
    source, target = tmp_path / "a", tmp_path / "b"
    with source.open("wb") as file:
        for offset in (0, 5 << 20, 17 << 20):
            file.seek(offset)
            file.write(os.urandom(10_000))
        file.truncate(64 << 20)
    disk._copy_sparse(str(source), str(target))
    assert source.read_bytes() == target.read_bytes()
    assert target.stat().st_blocks * 512 < 1 << 20


def test_limits_are_written_where_each_version_of_control_groups_has_them(tmp_path: Path) -> None:
    new, old = tmp_path / "new", tmp_path / "old"
    unified = new / "yurt" / "a"
    unified.mkdir(parents=True)
    (new / "cgroup.controllers").touch()
    cgroup.limit("a", 3, 1 << 30, str(new))
    assert {path.name: path.read_text() for path in unified.iterdir()} == {
        "memory.max": "1073741824",
        "cpu.max": "300000 100000",
    }
    memory, cpu = old / "memory" / "yurt" / "a", old / "cpu" / "yurt" / "a"
    for directory in (memory, cpu):
        directory.mkdir(parents=True)
    (memory / "memory.memsw.limit_in_bytes").touch()
    cgroup.limit("a", 3, 1 << 30, str(old))
    for name in ("memory.memsw.limit_in_bytes", "memory.limit_in_bytes"):
        assert (memory / name).read_text() == "1073741824"
    assert (cpu / "cpu.cfs_quota_us").read_text() == "300000"
