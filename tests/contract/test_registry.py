"""Images go to a real registry and come back as they were, once for many, whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import pytest

from control.errors import NotFoundError, UnavailableError
from jobs.images import layer_path, write_image
from jobs.installed import interpreter
from jobs.registry import publish
from jobs.runner import publishing, skopeo
from tests.support.registry import Registry, put_image, tree
from tests.support.runner_rig import NEEDS, Rig, eventually

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from jobs.images import Image

pytestmark = [
    pytest.mark.contract,
    *NEEDS,
    pytest.mark.skipif(
        not (shutil.which("docker-registry") and shutil.which("skopeo")),
        reason="needs docker-registry and skopeo",
    ),
]
A, B = "a" * 26, "b" * 26
UNKNOWN = "0" * 64


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    registry = Registry(tmp_path / "registry")
    yield registry
    registry.go_on()
    registry.close()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """The data directory where images are made."""
    return tmp_path / "source"


@pytest.fixture
def rig(tmp_path: Path, registry: Registry) -> Iterator[Rig]:
    """A node that has none of them."""
    rig = Rig(tmp_path / "node")
    rig.configure(registry=registry.url)
    yield rig
    rig.close()


@pytest.fixture
def image(source: Path, registry: Registry) -> Image:
    """A published image."""
    image = put_image(source)
    publish(source, image.id, registry.url, print)
    return image


def fetch(rig: Rig, image_id: str, **more: str) -> subprocess.Popen[str]:
    arguments = {"data": str(rig.data), "image_id": image_id, **more}
    command = [*interpreter(), str(rig.main), "fetch-image", json.dumps(arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def fails(rig: Rig, image_id: str, **more: str) -> str:
    """Fetch in vain; return why."""
    process = fetch(rig, image_id, **more)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 1, errors
    assert left(rig) == {"busybox"}
    assert not (rig.data / "images" / f"{image_id}.json").exists()
    return str(json.loads(output)["error"])


def left(rig: Rig) -> set[str]:
    """What is in the directory of the layers, also half made."""
    return {path.name for path in (rig.data / "images" / "layers").iterdir()} - {".lock"}


def has(rig: Rig, source: Path, image: Image) -> bool:
    """Whether the node has the image as it was made."""
    described = json.loads((rig.data / "images" / f"{image.id}.json").read_text())
    layers = [(layer_path(source, x), layer_path(rig.data, x)) for x in image.layers]
    assert described == asdict(image)
    for made, fetched in layers:
        assert tree(fetched) == tree(made)
    return True


# -- there and back ----------------------------------------------------------------------------


def test_an_image_arrives_as_it_was_made(rig: Rig, source: Path, image: Image) -> None:
    rig.verb("fetch-image", data=str(rig.data), image_id=image.id)
    assert has(rig, source, image)
    assert left(rig) == {"busybox", *image.layers}
    assert list((source / "images" / "outgoing").glob("[!.]*")) == []


def test_what_is_there_is_neither_pushed_nor_fetched_again(
    rig: Rig, source: Path, image: Image, registry: Registry
) -> None:
    rig.verb("fetch-image", data=str(rig.data), image_id=image.id)
    uploads, said = registry.requests("PUT "), list[str]()
    publish(source, image.id, registry.url, said.append)
    assert "already" in said[-1]
    assert registry.requests("PUT ") == uploads
    registry.close()
    rig.verb("fetch-image", data=str(rig.data), image_id=image.id)


def test_a_layer_that_another_image_brought_is_not_unpacked_again(
    rig: Rig, source: Path, image: Image, registry: Registry
) -> None:
    other = put_image(source, "c")
    publish(source, other.id, registry.url, print)
    rig.verb("fetch-image", data=str(rig.data), image_id=image.id)
    before = layer_path(rig.data, image.layers[1]).stat().st_ino
    rig.verb("fetch-image", data=str(rig.data), image_id=other.id)
    assert layer_path(rig.data, image.layers[1]).stat().st_ino == before
    assert has(rig, source, other)


def test_the_same_files_make_the_same_blobs(source: Path, image: Image, registry: Registry) -> None:
    before = set(registry.blobs.rglob("data"))
    again = replace(image, id="d" * 64)
    write_image(source, again)
    publish(source, again.id, registry.url, print)
    assert len(set(registry.blobs.rglob("data")) - before) == 2  # configuration and manifest


def test_an_image_that_is_not_here_is_not_published(source: Path, registry: Registry) -> None:
    with pytest.raises(NotFoundError, match="no image"):
        publish(source, UNKNOWN, registry.url, print)


def test_publishing_says_when_the_registry_is_away(source: Path, registry: Registry) -> None:
    image = put_image(source)
    registry.close()
    with pytest.raises(UnavailableError, match=r"cannot be used: .*connection refused"):
        publish(source, image.id, registry.url, print)


# -- runners -----------------------------------------------------------------------------------


def test_two_runners_fetch_a_missing_image_once(
    rig: Rig, source: Path, image: Image, registry: Registry
) -> None:
    processes = [rig.start(name, image_id=image.id) for name in (A, B)]
    for name in (A, B):
        rig.until(name, "ready")
        phases = rig.control.phases(name)
        assert phases[0] == "assign"
        assert "waiting" in phases
    assert has(rig, source, image)
    downloads = registry.requests("GET /v2/yurt/snapshots/blobs/")
    # Each layer once, the configuration by the look before and by the download.
    assert downloads <= 2 + 2
    inside = rig.inside(A, "cat /etc/deleted; ls /hidden; cat /hidden/above")
    assert inside.stdout == "above\nseen"
    for name, process in zip((A, B), processes, strict=True):
        assert rig.stop(name, process)["reason"] == ""


def test_a_fetch_is_told_of_until_it_is_done(rig: Rig, image: Image, registry: Registry) -> None:
    registry.pause()
    process = rig.start(A, image_id=image.id)
    rig.until(A, "waiting", 3)
    messages = [r["message"] for r in rig.control.reports if r["phase"] == "waiting"]
    assert image.id in messages[-1]
    registry.go_on()
    rig.until(A, "ready")
    assert rig.stop(A, process)["reason"] == ""


def test_a_failed_fetch_ends_the_start_with_its_reason(rig: Rig, image: Image) -> None:
    process = rig.start(A, image_id=UNKNOWN)
    assert process.wait(30) == 1
    rig.until(A, "exit")
    assert "does not have image 000" in rig.control.reports[-1]["reason"]
    assert "does not have image 000" in rig.exit_of(A)["reason"]


def test_a_runner_can_be_ended_while_it_fetches(
    rig: Rig, source: Path, image: Image, registry: Registry
) -> None:
    registry.pause()
    process = rig.start(A, image_id=image.id)
    rig.until(A, "waiting")
    eventually(registry.clients)
    process.terminate()
    assert process.wait(10) == 0
    assert rig.exit_of(A)["reason"] == ""
    eventually(lambda: not registry.clients())
    registry.go_on()
    again = rig.start(A, 2, image_id=image.id)
    rig.until(A, "ready")
    assert has(rig, source, image)
    rig.stop(A, again)


# -- what can go wrong -------------------------------------------------------------------------


def test_each_failure_is_told_in_words(rig: Rig, image: Image, registry: Registry) -> None:
    assert f"the registry {registry.url} does not have image {UNKNOWN}" in fails(rig, UNKNOWN)
    rig.configure(registry="")
    assert "no registry is configured" in fails(rig, image.id)
    registry.close()
    reason = fails(rig, image.id, registry=registry.url)
    assert f"the registry {registry.url} cannot be used" in reason
    assert "connection refused" in reason


def test_a_damaged_image_is_refused(rig: Rig, image: Image, registry: Registry) -> None:
    registry.damage()
    said = fails(rig, image.id)
    assert "igest" in said or "corruption" in said  # whichever of the two is noticed first


def test_what_another_program_published_is_refused(
    rig: Rig, source: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = put_image(source)
    with monkeypatch.context() as patch:
        patch.setattr(skopeo, "LABEL", "another")
        publish(source, image.id, registry.url, print)
    assert "not an image of this program's making" in fails(rig, image.id)


def test_an_image_under_another_s_name_is_refused(
    rig: Rig, source: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = put_image(source)
    with monkeypatch.context() as patch:
        described = publishing._configuration
        other = asdict(image) | {"id": UNKNOWN}
        patch.setattr(publishing, "_configuration", lambda _, digests: described(other, digests))
        publish(source, image.id, registry.url, print)
    assert f"is image {UNKNOWN}" in fails(rig, image.id)


@pytest.fixture
def small(rig: Rig) -> Iterator[Rig]:
    """A node with a volume of 8 MiB for its images."""
    layers = rig.data / "images"
    shutil.move(layers, rig.data / "images.kept")
    layers.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", layers], check=True)
    shutil.copytree(rig.data / "images.kept", layers, symlinks=True, dirs_exist_ok=True)
    yield rig
    subprocess.run(["umount", layers], check=True)


@pytest.mark.parametrize("said", [0, 1 << 30], ids=["while it is made", "before it begins"])
def test_a_full_volume_is_told_and_keeps_nothing_half_made(
    small: Rig, source: Path, registry: Registry, said: int
) -> None:
    image = replace(put_image(source), size_bytes=said)
    (layer_path(source, image.layers[0]) / "big").write_bytes(os.urandom(9 << 20))
    write_image(source, image)
    publish(source, image.id, registry.url, print)
    reason = fails(small, image.id).lower()
    assert "no space" in reason


def test_a_fetch_that_is_killed_is_done_again(
    rig: Rig, source: Path, image: Image, registry: Registry
) -> None:
    registry.pause()
    process = fetch(rig, image.id)
    eventually(registry.clients)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    eventually(lambda: not registry.clients())
    registry.go_on()
    (rig.data / "images" / "layers" / ".new-left").mkdir()
    rig.verb("fetch-image", data=str(rig.data), image_id=image.id)
    assert has(rig, source, image)
    assert left(rig) == {"busybox", *image.layers}


# -- what nobody needs -------------------------------------------------------------------------


def collect(rig: Rig, *keep: str) -> list[str]:
    removed: list[str] = rig.verb("collect-images", data=str(rig.data), keep=keep)["removed"]
    return removed


def test_images_are_collected_that_nobody_keeps_or_uses(rig: Rig) -> None:
    one, two, three = (put_image(rig.data, letter) for letter in "acd")
    process = rig.start(A, image_id=one.id)
    rig.until(A, "ready")
    assert set(collect(rig, two.id)) == {"busybox", three.id}
    assert left(rig) == {*one.layers, *two.layers}
    rig.stop(A, process)
    assert collect(rig, two.id) == [one.id]
    assert left(rig) == set(two.layers)
    assert collect(rig, two.id) == []


def test_an_image_of_a_runner_that_has_just_started_is_not_collected(rig: Rig) -> None:
    lock = rig.data / "disks" / A / "disk.lock"
    lock.parent.mkdir()
    with lock.open("w") as held:
        command: Any = ["flock", str(held.fileno())]
        subprocess.run(command, pass_fds=(held.fileno(),), check=True)
        process = rig.start(A)
        rig.until(A, "assign")
        assert collect(rig) == []
    rig.until(A, "ready")
    rig.stop(A, process)
