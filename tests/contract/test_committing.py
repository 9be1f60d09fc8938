"""Images of sandboxes' files: whole, of one moment, and with nothing of the sandbox's record."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from jobs.installed import interpreter
from jobs.runner import cgroup
from tests.support.runner_rig import NEEDS, Rig, eventually

pytestmark = [pytest.mark.contract, *NEEDS]
A, B = "a" * 26, "b" * 26
LARGEST = 1 << 30
MAKE = """
b=/bin/busybox
$b mkdir -p /d/deep && echo one > /d/deep/file && $b ln /d/deep/file /d/hard
$b ln -s deep/file /d/soft && $b mkfifo /d/fifo
$b chown 7:8 /d/deep/file && $b chmod 4751 /d/deep/file
$b truncate -s 50000000 /d/sparse && echo end >> /d/sparse
$b rm /bin/wget && $b rm -rf /hidden && $b mkdir /hidden && echo new > /hidden/new
"""
SEEN = """
b=/bin/busybox
cat /d/deep/file /d/hard /d/soft; $b stat -c '%u %g %a %h' /d/deep/file
$b stat -c '%F' /d/fifo; $b tail -c 4 /d/sparse
ls /bin/wget 2>/dev/null; ls /hidden; cat /hidden/new
"""
EXPECTED = "one\none\none\n7 8 4751 2\nfifo\nend\nnew\nnew"


def commit(rig: Rig, sandbox_id: str = A, generation: int = 1, **more: Any) -> dict[str, Any]:
    asked = {"sandbox_id": sandbox_id, "image_id": "busybox", "generation": generation}
    asked |= {"data": str(rig.data), "most_bytes": LARGEST}
    made: dict[str, Any] = rig.verb("commit-disk", **asked | more)["image"]
    return made


def refused(rig: Rig, verb: str, **asked: Any) -> str:
    arguments = json.dumps({"data": str(rig.data), **asked})
    command = [*interpreter(), str(rig.main), verb, arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=90)
    assert done.returncode == 1, done.stdout + done.stderr
    return str(json.loads(done.stdout)["error"])


def images(rig: Rig) -> set[str]:
    return {path.stem for path in (rig.data / "images").glob("*.json")}


def layers(rig: Rig) -> set[str]:
    return {path.name for path in (rig.data / "images" / "layers").glob("[!.]*")}


@pytest.fixture(autouse=True)
def sized(rig: Rig) -> None:
    """Say how large the rig's image is, and have something in it that can be hidden."""
    path = rig.data / "images" / "busybox.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "size_bytes": 2_000_000}))
    below = rig.data / "images" / "layers" / "busybox" / "hidden" / "below"
    below.parent.mkdir()
    below.touch()


def seen(rig: Rig, image_id: str) -> str:
    """What is inside a new sandbox that is made from an image."""
    process = rig.start(B, image_id=image_id)
    rig.until(B, "ready")
    shown = rig.inside(B, SEEN).stdout
    rig.stop(B, process)
    return shown.strip()


def test_the_files_of_a_stopped_sandbox_are_in_its_image(rig: Rig) -> None:
    process = rig.start(A)
    rig.until(A, "ready")
    assert rig.inside(A, MAKE).stderr == ""
    rig.stop(A, process)
    made = commit(rig)
    assert made["layers"][1:] == ["busybox"]
    assert made["size_bytes"] > 2_000_000
    assert {name: made[name] for name in ("user", "env", "entrypoint")} == {
        "user": "root",
        "env": {"PATH": "/bin"},
        "entrypoint": [],
    }
    assert seen(rig, made["id"]) == EXPECTED
    # The sandbox is as it was, and so is its image.
    again = rig.start(A, 2)
    rig.until(A, "ready", 2)
    assert rig.inside(A, SEEN).stdout.strip() == EXPECTED
    rig.stop(A, again)


def test_a_running_sandbox_stands_still_and_goes_on(rig: Rig) -> None:
    process = rig.start(A)
    rig.until(A, "ready")
    assert rig.inside(A, MAKE).stderr == ""
    # Two files that follow each other closely: of different moments they do not. What the rig runs
    # inside is not of the sandbox's group, so the agent has to start it.
    twice = "i=0; while :; do i=$((i+1)); echo $i > /one; echo $i > /two; done"
    assert rig.inside(A, f"echo '{twice}' > /work.sh").returncode == 0
    rig.stop(A, process)
    process = rig.start(A, 2)
    rig.until(A, "ready", 2)
    eventually(lambda: rig.inside(A, "cat /two").stdout)
    made = commit(rig, generation=2)
    layer = rig.data / "images" / "layers" / made["layers"][0]
    one, two = ((layer / name).read_text().strip() for name in ("one", "two"))
    assert 0 <= int(one or 0) - int(two or 0) <= 1 or not (one and two)
    before = rig.inside(A, "cat /one").stdout
    eventually(lambda: rig.inside(A, "cat /one").stdout not in {"", before})
    assert seen(rig, made["id"]) == EXPECTED
    assert rig.stop(A, process)["reason"] == ""


def test_a_commit_that_is_killed_lets_the_sandbox_go_on(rig: Rig, tmp_path: Path) -> None:
    process = rig.start(A)
    rig.until(A, "ready")
    assert rig.inside(A, "/bin/dd if=/dev/zero of=/big bs=1024k count=60").returncode == 0
    asked = {"sandbox_id": A, "image_id": "busybox", "generation": 1, "most_bytes": LARGEST}
    command = [*interpreter(), str(rig.main), "commit-disk"]
    command.append(json.dumps({"data": str(rig.data), **asked}))
    killed = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    eventually(lambda: is_frozen() or killed.poll() is not None)
    killed.kill()
    killed.wait()
    eventually(lambda: not is_frozen())
    assert rig.inside(A, "echo alive").stdout.strip() == "alive"
    rig.stop(A, process)
    made = commit(rig)
    assert images(rig) == {"busybox", made["id"]}
    assert layers(rig) == {"busybox", made["layers"][0]}


def is_frozen() -> bool:
    for directory in cgroup.directories(A):
        try:
            return "frozen 1" in Path(directory, "cgroup.events").read_text()
        except FileNotFoundError:
            continue
    return False


def test_what_cannot_be_committed_is_told_and_leaves_nothing(rig: Rig) -> None:
    asked: dict[str, Any] = {"sandbox_id": A, "image_id": "busybox", "most_bytes": LARGEST}
    assert "no disk on this node" in refused(rig, "commit-disk", **asked, generation=1)
    process = rig.start(A, 2)
    rig.until(A, "ready")
    assert rig.inside(A, MAKE).stderr == ""
    rig.stop(A, process)
    assert "start 2 of the sandbox has the disk" in refused(
        rig, "commit-disk", **asked, generation=1
    )
    small = {**asked, "most_bytes": 2_000_000, "generation": 2}
    assert "larger than 1 MiB" in refused(rig, "commit-disk", **small)
    assert images(rig) == {"busybox"}
    assert layers(rig) == {"busybox"}


def test_an_image_is_derived_with_other_defaults(rig: Rig) -> None:
    defaults = {"env": {"PATH": "/bin", "A": "b"}, "workdir": "/tmp", "user": "root"}
    asked = {"data": str(rig.data), "image_id": "busybox", "defaults": defaults}
    made = rig.verb("derive-image", **asked)["image"]
    assert rig.verb("derive-image", **asked)["image"] == made
    assert {name: made[name] for name in defaults} == defaults
    assert made["layers"] == ["busybox"]
    assert images(rig) == {"busybox", made["id"]}
    assert "no registry is configured" in refused(
        rig, "derive-image", image_id="0" * 64, defaults={}
    )
