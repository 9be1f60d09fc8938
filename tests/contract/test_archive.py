"""Archives of a sandbox's files: packed and unpacked by the runner's verbs, in a real store."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from jobs.installed import install_tools, interpreter
from jobs.runner import sealing
from jobs.runner.objects import Objects
from tests.support.runner_rig import NEEDS, Rig

if TYPE_CHECKING:
    from tests.support.s3_server import S3Server

pytestmark = [pytest.mark.contract, *NEEDS]
A = "a" * 26
KEY = "5a" * 32
DISK_BYTES = 100 << 20
MAKE = """
b=/bin/busybox
$b mkdir -p /d/deep && echo one > /d/deep/file && $b ln /d/deep/file /d/hard
$b ln -s deep/file /d/soft
$b mkfifo /d/fifo && $b chown 7:8 /d/deep/file && $b chmod 4751 /d/deep/file
$b truncate -s 50000000 /d/sparse && echo end >> /d/sparse
$b rm /bin/wget && $b rmdir /root && $b mkdir /root && echo new > /root/new
$b touch -d @1000000000 /d/deep
"""


@pytest.fixture
def where(rig: Rig, tmp_path: Path) -> dict[str, Any]:
    rig.configure(tools=str(install_tools(rig.data)))
    return {"url": f"file://{tmp_path}/store", "options": {}, "key": KEY}


@pytest.fixture
def used(rig: Rig, where: dict[str, Any]) -> dict[str, tuple[Any, ...]]:
    """A stopped sandbox with files of every kind; returns what is on its disk."""
    process = rig.start(A, generation=3)
    rig.until(A, "ready")
    done = rig.inside(A, MAKE)
    assert (done.returncode, done.stderr) == (0, "")
    rig.stop(A, process)
    rig.control.archive = where
    return tree(rig)


def tree(rig: Rig) -> dict[str, tuple[Any, ...]]:
    """Describe everything on the disk, by mounting it."""
    place = rig.data.parent / "mounted"
    place.mkdir(exist_ok=True)
    subprocess.run(["mount", "-o", "loop", rig.data / "disks" / A / "disk.img", place], check=True)
    try:
        return {str(p.relative_to(place)): describe(p) for p in (place / "upper").rglob("*")}
    finally:
        subprocess.run(["umount", place], check=True)


def describe(path: Path) -> tuple[Any, ...]:
    status = path.lstat()
    content = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
    target = str(path.readlink()) if path.is_symlink() else ""
    marks = {
        name: os.getxattr(path, name, follow_symlinks=False)
        for name in os.listxattr(path, follow_symlinks=False)
        if name != "user.overlay.origin"
    }
    times = status.st_mtime_ns if not path.is_dir() or path.name == "deep" else 0
    # An overlay makes one deletion a link to another.
    links = status.st_nlink if not path.is_dir() and not path.is_char_device() else 0
    mode, owner = status.st_mode, (status.st_uid, status.st_gid)
    return mode, owner, status.st_rdev, links, times, content, target, marks


def pack(rig: Rig, generation: int = 3) -> dict[str, Any]:
    return rig.verb("archive-disk", **packing(rig, generation))


def packing(rig: Rig, generation: int) -> dict[str, Any]:
    url = f"unix:{rig.data}/run/control.sock"
    return {"data": str(rig.data), "sandbox_id": A, "generation": generation, "control_url": url}


def run(rig: Rig, verb: str, arguments: dict[str, Any], secret: Any = None) -> dict[str, Any]:
    """Run a verb that may fail."""
    command = [*interpreter(), str(rig.main), verb, json.dumps(arguments)]
    given = json.dumps(secret)
    done = subprocess.run(
        command, input=given, capture_output=True, text=True, check=False, timeout=90
    )
    said: dict[str, Any] = json.loads(done.stdout)
    return said


def restore(rig: Rig, access: dict[str, Any], size: int = DISK_BYTES) -> dict[str, Any]:
    arguments = {"data": str(rig.data), "sandbox_id": A, "disk_bytes": size}
    return run(rig, "restore-disk", arguments, access)


def test_everything_comes_back_as_it_was(
    rig: Rig, where: dict[str, Any], used: dict[str, tuple[Any, ...]]
) -> None:
    assert {"upper/bin/wget", "upper/root/new", "upper/d/hard"} <= used.keys()
    packed = pack(rig)
    rig.verb("remove-disk", data=str(rig.data), sandbox_id=A, generation=3)
    assert restore(rig, where | packed) == {}
    assert tree(rig) == used
    process = rig.start(A, generation=4)
    rig.until(A, "ready", times=2)
    said = rig.inside(A, "cat /d/hard; ls /root; ls /bin/wget")
    rig.stop(A, process)
    assert said.stdout.split() == ["one", "new"]
    assert "No such file" in said.stderr


def test_nothing_readable_leaves_the_node(
    rig: Rig, where: dict[str, Any], used: dict[str, tuple[Any, ...]]
) -> None:
    packed = pack(rig)
    stored = b"".join(Objects(where).read(packed["name"]))
    assert len(stored) == packed["size"]
    assert b"deep" not in stored
    assert KEY not in json.dumps(rig.control.reports)
    with pytest.raises(sealing.SealError):
        list(sealing.unseal([stored], bytes.fromhex(KEY), "b" * 26))


def test_a_server_that_speaks_s3_keeps_archives(
    rig: Rig, s3: S3Server, where: dict[str, Any], used: dict[str, tuple[Any, ...]]
) -> None:
    rig.control.archive = far = s3.where("archives") | {"key": KEY}
    packed = pack(rig)
    assert f"archives/{packed['name']}" in s3.kept()
    rig.verb("remove-disk", data=str(rig.data), sandbox_id=A, generation=3)
    away = far | packed | {"options": far["options"] | {"endpoint": "http://127.0.0.1:1"}}
    assert "the archive store s3://kept/archives cannot be used" in restore(rig, away)["error"]
    assert restore(rig, far | packed) == {}
    assert tree(rig) == used


def test_another_key_opens_nothing(
    rig: Rig, where: dict[str, Any], used: dict[str, tuple[Any, ...]]
) -> None:
    packed = pack(rig)
    rig.verb("remove-disk", data=str(rig.data), sandbox_id=A)
    said = restore(rig, where | packed | {"key": "5b" * 32})
    assert said["error"] == "the archive is damaged, or not this sandbox's"
    assert not list((rig.data / "disks" / A).glob("disk.img*"))
    assert restore(rig, where | packed) == {}
    assert tree(rig) == used


@pytest.mark.parametrize("damage", ["changed", "cut", "missing", "replaced"])
def test_a_damaged_archive_is_refused_and_leaves_no_disk(
    rig: Rig, where: dict[str, Any], used: dict[str, tuple[Any, ...]], damage: str
) -> None:
    packed = pack(rig)
    rig.verb("remove-disk", data=str(rig.data), sandbox_id=A)
    stored = bytearray(b"".join(Objects(where).read(packed["name"])))
    if damage == "changed":
        stored[len(stored) // 2] ^= 1
    elif damage == "cut":
        del stored[-100:]
    elif damage == "replaced":  # by another one of the same sandbox
        stored = bytearray(b"".join(sealing.seal([b""], bytes.fromhex(KEY), A)))
    if damage == "missing":
        Objects(where).remove(packed["name"])
    else:
        Objects(where).write(packed["name"], [bytes(stored)])
    said = restore(rig, where | packed)
    assert ("not found" if damage == "missing" else "archive") in said["error"]
    assert not list((rig.data / "disks" / A).glob("disk.img*"))
    assert rig.loops() == []


def test_with_the_store_away_the_disk_stays(
    rig: Rig, where: dict[str, Any], used: dict[str, tuple[Any, ...]]
) -> None:
    rig.control.archive = where | {"url": "file:///proc/nowhere"}
    said = run(rig, "archive-disk", packing(rig, 3))
    assert "the archive store file:///proc/nowhere cannot be used" in said["error"]
    assert tree(rig) == used
    rig.control.archive = where
    assert pack(rig)["size"] > 0


def test_what_comes_too_late_changes_nothing(
    rig: Rig, where: dict[str, Any], used: dict[str, tuple[Any, ...]]
) -> None:
    assert "start 3 of the sandbox" in run(rig, "archive-disk", packing(rig, 2))["error"]
    late = {"data": str(rig.data), "sandbox_id": A, "generation": 2}
    assert "start 3 of the sandbox" in run(rig, "remove-disk", late)["error"]
    assert tree(rig) == used


def test_a_disk_that_is_there_is_newer_than_its_archive(
    rig: Rig, where: dict[str, Any], used: dict[str, tuple[Any, ...]]
) -> None:
    assert restore(rig, where | {"name": "none", "digest": "", "size": 0}) == {}
    assert tree(rig) == used


def hostile(tmp_path: Path, kind: str) -> bytes:
    """Write a tar of what no sandbox could have made."""
    import io
    import tarfile

    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w") as archive:
        info = tarfile.TarInfo("ok")
        if kind == "up":
            info.name = "../../../../../../tmp/yurt-escaped"
        elif kind == "device":
            info.name, info.type, info.devmajor, info.devminor = "sda", tarfile.BLKTYPE, 8, 0
        elif kind == "through a link":
            link = tarfile.TarInfo("link")
            link.type, link.linkname = tarfile.SYMTYPE, "/tmp"
            archive.addfile(link)
            info.name = "link/yurt-escaped"
        elif kind == "owner":
            info.uid = 1 << 20
        elif kind == "too large":
            info.size = DISK_BYTES * 2
            with Path("/dev/zero").open("rb") as zeros:
                archive.addfile(info, zeros)
            return written.getvalue()
        archive.addfile(info)
    return written.getvalue()


@pytest.mark.parametrize("kind", ["up", "device", "through a link", "owner", "too large"])
def test_an_archive_that_no_sandbox_made_is_refused(
    rig: Rig, where: dict[str, Any], tmp_path: Path, kind: str
) -> None:
    import hashlib

    packed = subprocess.run(
        ["zstd", "-c"], input=hostile(tmp_path, kind), capture_output=True, check=True
    ).stdout
    stored = b"".join(sealing.seal([packed], bytes.fromhex(KEY), A))
    Objects(where).write("hostile", [stored])
    told = {"name": "hostile", "digest": hashlib.sha256(stored).hexdigest(), "size": len(stored)}
    said = restore(rig, where | told)
    assert "tar failed" in said["error"]
    assert not Path("/tmp/yurt-escaped").exists()
    assert not list((rig.data / "disks" / A).glob("disk.img*"))
    assert rig.loops() == []
