"""The runner alone: guard, disk, namespaces, limits, and what is left after any end."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from jobs.runner import cgroup, disk
from tests.support.runner_rig import NEEDS, Rig, eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.contract, *NEEDS]
A, B = "a" * 26, "b" * 26


def put_work(rig: Rig, sandbox_id: str, script: str) -> None:
    """Give the sandbox a program that starts with it, by a first run that writes it."""
    process = rig.start(sandbox_id, 1)
    rig.until(sandbox_id, "ready")
    done = rig.inside(sandbox_id, f"cat > /work.sh <<'END'\n{script}\nEND\nsync")
    assert done.returncode == 0, done.stderr
    assert rig.stop(sandbox_id, process)["reason"] == ""


def test_what_was_written_is_there_after_a_stop_and_nothing_else_is_left(rig: Rig) -> None:
    process = rig.start(A)
    rig.until(A, "ready")
    assert rig.loops()
    rig.inside(A, "echo kept > /etc/kept; mkdir /d; touch /d/f; rm -r /root")
    ended = rig.stop(A, process)
    assert (ended["reason"], ended["code"], ended["phase"]) == ("", 0, "stopping")
    assert not rig.loops()
    assert not rig.pids(A)
    process = rig.start(A, 2)
    rig.until(A, "ready", 2)
    assert rig.inside(A, "cat /etc/kept; ls /d; ls /root").stdout == "kept\nf\n"
    rig.stop(A, process)


@pytest.mark.parametrize("victim", ["guard", "holder", "first process"])
def test_whatever_is_killed_takes_everything_with_it(rig: Rig, victim: str) -> None:
    process = rig.start(A)
    rig.until(A, "ready")
    inside = rig.pids(A)
    holder = int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()[0])
    pid = {"guard": process.pid, "holder": holder, "first process": rig.init_pid(A)}[victim]
    os.kill(pid, signal.SIGKILL)
    process.wait(20)
    eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in [*inside, holder]))
    eventually(lambda: not rig.loops())
    eventually(lambda: not rig.links())
    if victim == "holder":
        assert "killed by signal 9" in rig.exit_of(A)["reason"]
    if victim == "first process":
        assert "first process ended" in rig.exit_of(A)["reason"]


def test_a_disk_is_never_attached_twice(rig: Rig) -> None:
    """A killed runner with much to write back is followed at once by the next one."""
    process = rig.start(A, memory_mib=2048, disk_bytes=3 << 30)
    rig.until(A, "ready")
    dirty = "dd if=/dev/zero of=/big bs=1M count=1100 && echo done"
    assert "done" in rig.inside(A, dirty).stdout
    most: list[int] = []
    over = threading.Event()
    image = str(rig.data / "disks" / A / "disk.img")

    def sample() -> None:
        while not over.is_set():
            devices = [d for d in rig.loops() if backing(d) == image]
            most.append(len(devices))

    sampler = threading.Thread(target=sample)
    sampler.start()
    os.kill(process.pid, signal.SIGKILL)
    process = rig.start(A, 2, memory_mib=2048, disk_bytes=3 << 30)
    try:
        rig.until(A, "ready", 2)
    finally:
        over.set()
        sampler.join()
    assert max(most) == 1
    assert rig.stop(A, process)["reason"] == ""
    checked = subprocess.run(["e2fsck", "-fn", image], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout


@contextmanager
def process_in_group(root: str, name: str) -> Iterator[subprocess.Popen[bytes]]:
    """Hold a process in a control group, as one of a predecessor that is slow to die.

    ``root`` is where a unified hierarchy is mounted, or all those of the first version.
    """
    hierarchy = root if cgroup.is_v2(root) else f"{root}/pids"
    directory = Path(hierarchy, cgroup.PARENT, name, "below")
    directory.mkdir(parents=True)
    with subprocess.Popen(["sleep", "1000"]) as process:
        try:
            (directory / "cgroup.procs").write_text(str(process.pid))
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("root", [cgroup.ROOT, f"{cgroup.ROOT}/unified"])
def test_a_group_counts_as_gone_only_once_it_is_empty(root: str) -> None:
    if not Path(root).is_dir():
        pytest.skip("this host has one hierarchy only")
    with process_in_group(root, A) as process:
        assert not cgroup.remove(A, 0.05, root)
        process.kill()
        process.wait()
        assert cgroup.remove(A, 5, root)
    assert not cgroup.directories(A, root)


def test_a_disk_waits_for_the_last_process_of_its_sandbox(rig: Rig) -> None:
    with process_in_group(cgroup.ROOT, A) as predecessor:
        with pytest.raises(disk.DiskError, match="disk busy"):
            disk.claim(str(rig.data), A, wait_seconds=0.05)
        process = rig.start(A)
        rig.until(A, "assign")
        with pytest.raises(AssertionError):  # it looks from a pid namespace of its own
            eventually(lambda: rig.loops() or process.poll() is not None, seconds=0.5)
        predecessor.kill()
        rig.until(A, "ready")
    assert rig.stop(A, process)["reason"] == ""


def backing(device: str) -> str:
    try:
        return Path(f"/sys/block/{device}/loop/backing_file").read_text().strip()
    except OSError:
        return ""


def test_the_caller_s_umask_does_not_reach_the_sandbox(rig: Rig) -> None:
    before = os.umask(0o077)
    try:
        process = rig.start(A)
    finally:
        os.umask(before)
    rig.until(A, "ready")
    assert rig.inside(A, "ls -ld /").stdout.startswith("drwxr-xr-x")
    rig.stop(A, process)


def test_a_second_runner_of_the_same_sandbox_gives_up(rig: Rig) -> None:
    first = rig.start(A)
    rig.until(A, "ready")
    second = rig.start(A, 1, port=45999)
    assert second.wait(20) != 0
    assert first.poll() is None
    assert "another runner" in (rig.directory(A) / "runner.log").read_text()


def test_holder_and_gate_are_apart(rig: Rig) -> None:
    process = rig.start(A)
    rig.until(A, "ready")
    status = gate_status(rig, process.pid)
    uid = int(status["Uid"].split()[0])
    assert 0x0F000000 <= uid < 0x10000000
    assert len(set(status["Uid"].split())) == 1
    for kind in ("CapInh", "CapPrm", "CapEff", "CapAmb"):
        assert int(status[kind], 16) == 0, kind
    assert (status["NoNewPrivs"], status["Seccomp"], status["Groups"]) == ("1", "2", "")
    gate = int(status["Pid"])
    assert list(Path(f"/proc/{gate}/root").iterdir()) == []
    assert gate in rig.pids(A)
    os.kill(gate, signal.SIGKILL)
    fresh = eventually(lambda: (g := gate_status(rig, process.pid)) and g["Pid"] != status["Pid"])
    assert fresh
    gate = int(gate_status(rig, process.pid)["Pid"])
    eventually(lambda: os.getpriority(os.PRIO_PROCESS, gate) == -20)
    assert rig.stop(A, process)["reason"] == ""


def gate_status(rig: Rig, guard: int) -> dict[str, str]:
    """Return the fields of ``/proc/<gate>/status``."""
    holder = Path(f"/proc/{guard}/task/{guard}/children").read_text().split()[0]
    for child in Path(f"/proc/{holder}/task/{holder}/children").read_text().split():
        try:
            lines = Path(f"/proc/{child}/status").read_text().splitlines()
        except OSError:
            continue  # it has just ended
        fields = {k: v.strip() for k, _, v in (line.partition(":") for line in lines)}
        if fields["Uid"].split()[0].startswith("2516"):
            return fields
    return {}


def test_nothing_leaves_before_the_assignment(rig: Rig) -> None:
    rig.control.release.clear()
    put_listener = Wire(rig, A)
    process = rig.start(A)
    eventually(lambda: rig.pids(A) and rig.links())
    with put_listener as wire:
        rig.inside(A, f"for i in 1 2 3; do ping -c1 -W1 {wire.address}; done")
        assert wire.reached() == 0
        rig.control.release.set()
        rig.until(A, "ready")
        rig.inside(A, f"ping -c1 -W2 {wire.address}")
        assert wire.reached() > 0
    rig.stop(A, process)


def test_a_blocked_sandbox_gets_no_packet_out_from_birth(rig: Rig) -> None:
    wire = Wire(rig, A)
    put_work(rig, A, f"while :; do ping -c1 -W1 {wire.address}; done")
    rig.control.assignment = {
        **rig.control.assignment,
        "network": {"block_all": True, "allow": []},
    }
    with wire:
        process = rig.start(A, 2)
        rig.until(A, "ready", 2)
        eventually(lambda: rig.inside(A, "wc -c < /out").stdout.strip() not in {"", "0"})
        assert wire.reached() == 0
    rig.stop(A, process)


class Wire:
    """Another host, in a network namespace behind the host's routing; counts what reaches it."""

    address = "203.0.113.77"

    def __init__(self, rig: Rig, sandbox_id: str) -> None:
        self._name = f"yt{os.getpid()}"

    def __enter__(self) -> Wire:
        name = self._name
        for command in (
            f"ip netns add {name}",
            f"ip link add {name} type veth peer name eth0 netns {name}",
            f"ip addr add 203.0.113.76/31 dev {name}",
            f"ip link set {name} up",
            f"ip -n {name} addr add {self.address}/31 dev eth0",
            f"ip -n {name} link set eth0 up",
            f"ip -n {name} link set lo up",
        ):
            subprocess.run(command.split(), check=True)
        Path(f"/proc/sys/net/ipv4/conf/{name}/forwarding").write_text("1")
        self._before = self._count()
        return self

    def __exit__(self, *_: object) -> None:
        subprocess.run(["ip", "netns", "del", self._name], check=True)

    def _count(self) -> int:
        done = subprocess.run(
            ["ip", "netns", "exec", self._name, "cat", "/proc/net/snmp"],
            capture_output=True,
            text=True,
            check=True,
        )
        rows = [line.split() for line in done.stdout.splitlines() if line.startswith("Icmp:")]
        return int(dict(zip(*rows, strict=True))["InEchos"])

    def reached(self) -> int:
        """Return how many pings have arrived."""
        return self._count() - self._before


def test_each_sandbox_has_its_own_share_of_per_user_kernel_limits(rig: Rig) -> None:
    processes = [rig.start(name) for name in (A, B)]
    for name in (A, B):
        rig.until(name, "ready")
    owners = {Path(f"/proc/{rig.init_pid(name)}").stat().st_uid for name in (A, B)}
    assert len(owners) == 2
    assert 0 not in owners
    for name in (A, B):
        pid = rig.init_pid(name)
        own = Path(f"/proc/{pid}/ns/user").stat()
        assert own.st_ino != Path("/proc/self/ns/user").stat().st_ino
        mapping = Path(f"/proc/{pid}/uid_map").read_text().split()
        assert mapping[0] == "0"
        assert mapping[2] == "65536"
    for name, process in zip((A, B), processes, strict=True):
        rig.stop(name, process)


LIMITS: list[tuple[str, str, dict[str, Any]]] = [
    ("memory", "cat /dev/zero | head -c 900m | tail -c 900m; sleep 60", {}),
    ("pids", "i=0; while [ $i -lt 200 ]; do sleep 60 & i=$((i+1)); done; sleep 60", {}),
    ("disk", "dd if=/dev/zero of=/fill bs=1M; sleep 60", {}),
]


@pytest.mark.parametrize(("kind", "script", "more"), LIMITS, ids=[x[0] for x in LIMITS])
def test_a_sandbox_that_hits_a_limit_says_which(
    rig: Rig, kind: str, script: str, more: dict[str, Any]
) -> None:
    put_work(rig, A, script)
    process = rig.start(A, 2, **more)
    notice = eventually(
        lambda: [r for r in rig.control.reports if r["phase"] == "notice"], seconds=60
    )
    assert notice[0]["kind"] == kind
    assert process.poll() is None
    assert rig.stop(A, process)["reason"] == ""


def test_a_taken_port_is_said_and_nothing_is_left(rig: Rig) -> None:
    first = rig.start(A)
    rig.until(A, "ready")
    port = rig.last_port
    second = rig.start(B, port=port)
    assert second.wait(20) != 0
    assert "in use" in (rig.directory(B) / "runner.log").read_text()
    assert not rig.pids(B)
    rig.stop(A, first)


def test_the_caller_s_umask_does_not_reach_the_control_groups(rig: Rig) -> None:
    rig.verb("forget-node")
    before = os.umask(0o077)
    try:
        rig.verb("prepare-node")
        process = rig.start(A)
    finally:
        os.umask(before)
    rig.until(A, "ready")
    for directory in cgroup.directories(A):
        for path in (Path(directory), Path(directory).parent):
            assert path.stat().st_mode & 0o555 == 0o555
    rig.stop(A, process)


def test_a_sandbox_starts_where_somebody_took_the_node_s_rules_away(rig: Rig) -> None:
    """As the last command of another installation on this host does."""
    rig.verb("forget-node")
    process = rig.start(A)
    rig.until(A, "ready")
    listed = subprocess.run(
        ["nft", "list", "table", "inet", "yurt"], capture_output=True, text=True, check=True
    )
    assert f'"{rig.links()[0]}" . 10.201.0.' in listed.stdout
    assert rig.stop(A, process)["reason"] == ""
