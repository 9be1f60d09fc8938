"""Volumes on a node: real mounts in real sandboxes."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.runner_rig import ASSIGNMENT, NEEDS, Rig, eventually

if TYPE_CHECKING:
    import subprocess

pytestmark = [pytest.mark.contract, *NEEDS]
A, B, C = "a" * 26, "b" * 26, "c" * 26
MIB = 1 << 20
AS_ANOTHER = "echo u:x:1234:1234::/:/bin/sh >> /etc/passwd; busybox su u -c"


def a_volume(rig: Rig, size: int = 64 * MIB) -> str:
    volume_id = str(uuid.uuid4())
    for _ in range(2):  # a verb may be cut off and be done again
        rig.verb("make-volume", data=str(rig.data), volume_id=volume_id, size=size)
    return volume_id


def at(volume_id: str, path: str = "/data", subpath: str = "") -> dict[str, str]:
    return {"id": volume_id, "path": path, "subpath": subpath}


def started(rig: Rig, sandbox_id: str, *volumes: dict[str, str]) -> subprocess.Popen[bytes]:
    phases = rig.control.phases(sandbox_id)
    times = phases.count("ready")
    rig.control.assignment = {**ASSIGNMENT, "volumes": list(volumes)}
    process = rig.start(sandbox_id, phases.count("assign") + 1)  # those that failed count, too
    rig.until(sandbox_id, "ready", times + 1)
    return process


def refused(rig: Rig, sandbox_id: str, *volumes: dict[str, str], generation: int = 1) -> str:
    """Start a sandbox that cannot have its volumes, and return what its runner says."""
    rig.control.assignment = {**ASSIGNMENT, "volumes": list(volumes)}
    assert rig.start(sandbox_id, generation).wait(20) == 1
    reason: str = rig.exit_of(sandbox_id)["reason"]
    return reason


def said(rig: Rig, sandbox_id: str, script: str) -> str:
    done = rig.inside(sandbox_id, script)
    assert done.returncode == 0, (script, done.stdout, done.stderr)
    return done.stdout.strip()


def test_sandboxes_share_a_volume_with_the_same_owners(rig: Rig) -> None:
    volume = a_volume(rig)
    first, second = started(rig, A, at(volume)), started(rig, B, at(volume, "/mnt/deep/er"))
    assert said(rig, A, "ls -a /data") == ".\n.."
    said(rig, A, "echo hello > /data/a; busybox chown 1000:65535 /data/a")
    assert said(rig, B, "cat /mnt/deep/er/a; ls -n /mnt/deep/er/a").split()[:5] == [
        *("hello", "-rw-r--r--", "1", "1000", "65535"),
    ]
    said(rig, B, f"echo more >> /mnt/deep/er/a; {AS_ANOTHER} 'echo x > /mnt/deep/er/b'")
    assert said(rig, A, "cat /data/a; ls -n /data/b").split()[:5] == [
        *("hello", "more", "-rw-r--r--", "1", "1234"),
    ]
    assert said(rig, A, "ls -ld /data").startswith("drwxrwxrwx")
    assert said(rig, B, "ls -ld /mnt/deep").startswith("drwxr-xr-x")
    options = said(rig, A, "grep ' /data ' /proc/self/mountinfo")
    assert {"nosuid", "nodev", "noatime"} <= set(options.split()[5].split(","))
    assert rig.stop(A, first)["reason"] == ""
    assert said(rig, B, "cat /mnt/deep/er/a") == "hello\nmore"
    assert rig.stop(B, second)["reason"] == ""
    eventually(lambda: not rig.loops())
    started(rig, A, at(volume))
    assert said(rig, A, "cat /data/a; ls -n /data/a").split()[:6] == [
        *("hello", "more", "-rw-r--r--", "1", "1000", "65535"),
    ]


def test_a_deleted_sandbox_leaves_the_volume_and_a_deleted_volume_nothing(rig: Rig) -> None:
    volume = a_volume(rig)
    process = started(rig, A, at(volume))
    said(rig, A, "echo kept > /data/a")
    rig.stop(A, process)
    rig.verb("remove-disk", data=str(rig.data), sandbox_id=A)
    process = started(rig, B, at(volume))
    assert said(rig, B, "cat /data/a") == "kept"
    rig.stop(B, process)
    stock = rig.verb("inventory", data=str(rig.data))
    assert stock["volumes"][volume]["limit"] == 64 * MIB
    assert set(stock["disks"]) == {B}
    for _ in range(2):
        rig.verb("remove-volume", data=str(rig.data), volume_id=volume)
    assert rig.verb("inventory", data=str(rig.data))["volumes"] == {}
    assert not list((rig.data / "disks").glob(f"*{volume}*"))
    # Lost is not empty.
    assert "not on this node" in refused(rig, B, at(volume), generation=2)


def test_a_part_of_a_volume_shows_that_part_only(rig: Rig) -> None:
    volume = a_volume(rig)
    started(rig, A, at(volume), at(volume, "/own", "team/own"))
    started(rig, B, at(volume, "/part", "team/b"))
    said(rig, B, f"echo b > /part/f; {AS_ANOTHER} 'mkdir /part/g'")
    assert said(rig, A, "cat /data/team/b/f; ls /data/team; ls -a /own").split() == [
        *("b", "b", "own", ".", ".."),
    ]
    assert "lost+found" not in said(rig, B, "ls -a /part/..; ls -a /part/../..")
    # The part is moved away from under it: still only what is in it.
    said(rig, A, "mkdir /data/x; busybox mv /data/team/b /data/x/b; echo secret > /data/secret")
    out = rig.inside(B, "cd /part && cat f; ls ..; cat ../secret ../../secret; ls -a /part/../x")
    assert out.stdout.splitlines()[0] == "b"
    assert "secret" not in out.stdout


def test_a_link_in_a_volume_leads_no_part_out_of_it(rig: Rig) -> None:
    volume = a_volume(rig)
    started(rig, A, at(volume))
    script = "cd /data; busybox ln -s / root; busybox ln -s .. up; busybox ln -s real link; "
    said(rig, A, f"{script} mkdir real; echo x > file; busybox mkfifo fifo")
    for part in (
        "root",
        "root/etc",
        "up",
        "up/x",
        "link",
        "real/../root",
        "file",
        "fifo",
        "file/x",
    ):
        reason = refused(rig, B, at(volume, "/data", part))
        assert "is a link or no directory" in reason, (part, reason)
    assert said(rig, A, "ls /data").split() == ["fifo", "file", "link", "real", "root", "up"]
    assert "volume" not in said(rig, A, "ls /")


def test_a_link_in_a_sandbox_leads_no_volume_elsewhere(rig: Rig) -> None:
    volume = a_volume(rig)
    process = started(rig, A)
    said(rig, A, "busybox ln -s /proc /data; mkdir /real; busybox ln -s /real /soft; touch /file")
    rig.stop(A, process)
    for number, path in enumerate(("/data", "/data/1", "/soft", "/soft/new", "/file"), start=2):
        reason = refused(rig, A, at(volume, path), generation=number)
        assert "is a link or no directory; write another path" in reason
    process = started(rig, A, at(volume, "/real"))
    assert said(rig, A, "ls /real; ls /soft") == ""
    said(rig, A, "echo x > /soft/x")
    assert said(rig, A, "cat /real/x") == "x"


def test_a_full_volume_hurts_nobody_else(rig: Rig) -> None:
    full, other = a_volume(rig, 16 * MIB), a_volume(rig)
    process = started(rig, A, at(full), at(other, "/other"))
    filled = rig.inside(A, "dd if=/dev/zero of=/data/big bs=64k; sync")
    assert "No space left on device" in filled.stderr
    image = rig.data / "disks" / f"volume-{full}" / "disk.img"
    assert image.stat().st_blocks * 512 <= 16 * MIB + 4096
    said(rig, A, "echo fine > /file; echo fine > /other/file; sync; cat /file /other/file")
    started(rig, B, at(full))
    assert "No space" in rig.inside(B, "dd if=/dev/zero of=/data/more bs=1M count=1").stderr
    said(rig, B, "rm /data/big; dd if=/dev/zero of=/data/more bs=1M count=1; sync")
    assert rig.stop(A, process)["reason"] == ""


def test_a_killed_runner_takes_no_volume_from_others(rig: Rig) -> None:
    volume = a_volume(rig)
    started(rig, A, at(volume))
    process = started(rig, B, at(volume))
    said(rig, B, "echo b > /data/b; sync")
    process.kill()
    process.wait()
    said(rig, A, "cat /data/b; echo a > /data/a")
    started(rig, C, at(volume))
    assert said(rig, C, "cat /data/a /data/b") == "a\nb"
    rig.control.assignment = {**ASSIGNMENT, "volumes": [at(volume)]}
    rig.start(B, 2)
    rig.until(B, "ready", 2)
    assert said(rig, B, "cat /data/a /data/b") == "a\nb"
    assert len({entry for entry in rig.loops() if volume in backing(entry)}) == 1


def backing(loop: str) -> str:
    return Path(f"/sys/block/{loop}/loop/backing_file").read_text()


def test_all_killed_at_once_with_much_unwritten_start_again(rig: Rig) -> None:
    volume = a_volume(rig, 256 * MIB)
    processes = [started(rig, A, at(volume)), started(rig, B, at(volume))]
    said(rig, A, "echo a > /data/a; sync; dd if=/dev/zero of=/data/big bs=1M count=100")
    for process in processes:
        process.kill()
    for process in processes:
        process.wait()
    rig.control.assignment = {**ASSIGNMENT, "volumes": [at(volume)]}
    for sandbox_id in (A, B):
        rig.start(sandbox_id, 2)
    for sandbox_id in (A, B):
        rig.until(sandbox_id, "ready", 2)
    assert said(rig, B, "cat /data/a; echo b > /data/b") == "a"
    assert said(rig, A, "cat /data/b") == "b"


def test_a_sandbox_cannot_take_more_rights_on_a_volume(rig: Rig) -> None:
    volume = a_volume(rig)
    process = started(rig, A, at(volume))
    # As the sandbox's own program: what this test runs inside has rights that it lacks.
    script = (
        "busybox umount /data; mount -o remount,suid,dev /data; mount --bind / /data\n"
        "busybox mknod /data/null c 1 3 && echo made\n"
        "busybox cp /bin/busybox /data/busybox; busybox chmod 4755 /data/busybox\n"
        f"{AS_ANOTHER} '/data/busybox id -u'\n"
        "grep ' /data ' /proc/self/mountinfo; touch /done\n"
    )
    said(rig, A, f"cat > /work.sh <<'END'\n{script}END")
    rig.stop(A, process)
    started(rig, A, at(volume))
    eventually(lambda: rig.inside(A, "ls /done").returncode == 0)
    out = said(rig, A, "cat /out").splitlines()
    assert "made" not in out
    (options,) = [line.split()[5] for line in out if " /data " in line]
    assert {"nosuid", "nodev"} <= set(options.split(","))
    assert "1234" in out
    assert "0" not in out
