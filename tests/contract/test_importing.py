"""Images of foreign registries come to a node as they are there, or not at all and say why."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from jobs.images import layer_path, write_image
from jobs.installed import interpreter
from jobs.registry import publish
from jobs.runner import publishing
from tests.support.registry import Registry, put_image, tree
from tests.support.runner_rig import NEEDS, Rig

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
A = "a" * 26
LARGEST = 1 << 30


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    registry = Registry(tmp_path / "registry")
    yield registry
    registry.close()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return tmp_path / "source"


@pytest.fixture
def image(source: Path, registry: Registry) -> Image:
    """An image of somebody else's in the registry: that we made it is not looked at."""
    image = replace(
        put_image(source), entrypoint=["/bin/sh"], cmd=["-c", "echo"], user="54321", workdir="/etc"
    )
    write_image(source, image)
    publish(source, image.id, registry.url, print)
    return image


def named(registry: Registry, image_id: str) -> str:
    return f"{registry.url.removeprefix('http://')}/snapshots:{image_id}"


def bring(rig: Rig, reference: str, *, most_bytes: int = LARGEST) -> dict[str, Any]:
    asked = {"reference": reference, "plain": True, "most_bytes": most_bytes}
    made: dict[str, Any] = rig.verb("import-image", data=str(rig.data), **asked)["image"]
    return made


def fails(rig: Rig, reference: str, *, most_bytes: int = LARGEST) -> str:
    """Import in vain; return why."""
    asked = {"data": str(rig.data), "reference": reference, "plain": True}
    arguments = json.dumps({**asked, "most_bytes": most_bytes})
    command = [*interpreter(), str(rig.main), "import-image", arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1, done.stderr
    assert images(rig) == {"busybox"}
    assert list((rig.data / "images" / "incoming").glob("[!.]*")) == []
    assert list((rig.data / "images" / "layers").glob(".new-*")) == []
    return str(json.loads(done.stdout)["error"])


def images(rig: Rig) -> set[str]:
    return {path.stem for path in (rig.data / "images").glob("*.json")}


def test_an_image_arrives_whole_and_runs(
    rig: Rig, source: Path, image: Image, registry: Registry
) -> None:
    made = bring(rig, named(registry, image.id))
    fields = ("env", "entrypoint", "cmd", "user", "workdir")
    assert {f: made[f] for f in fields} == {f: getattr(image, f) for f in fields}
    for there, here in zip(image.layers, made["layers"], strict=True):
        assert tree(layer_path(rig.data, here)) == tree(layer_path(source, there))
    assert made["size_bytes"] > 300_000
    process = rig.start(A, image_id=made["id"])
    rig.until(A, "ready")
    inside = rig.inside(A, "cat /etc/deleted; ls /hidden; cat /hidden/above")
    assert inside.stdout == "above\nseen"
    rig.stop(A, process)
    assert bring(rig, named(registry, image.id)) == made


def test_the_other_nodes_get_it_from_their_own_registry(
    rig: Rig, tmp_path: Path, image: Image, registry: Registry
) -> None:
    rig.configure(registry=f"{registry.url}/shared")
    made = bring(rig, named(registry, image.id))
    other = tmp_path / "other"
    (other / "images" / "layers").mkdir(parents=True)
    asked = {"image_id": made["id"], "registry": f"{registry.url}/shared"}
    rig.verb("fetch-image", data=str(other), **asked)
    for layer in made["layers"]:
        assert tree(layer_path(other, layer)) == tree(layer_path(rig.data, layer))


def test_what_cannot_be_had_is_told(rig: Rig, image: Image, registry: Registry) -> None:
    reason = fails(rig, named(registry, "0" * 64))
    assert reason.startswith("there is no image 127.0.0.1")
    assert "too large" in fails(rig, named(registry, image.id), most_bytes=100_000)
    assert "it is too large" in fails(rig, named(registry, image.id), most_bytes=2_100_000)
    rig.verb("collect-images", data=str(rig.data), keep=["busybox"])  # half of it was there
    assert {p.name for p in (rig.data / "images" / "layers").glob("[!.]*")} == {"busybox"}
    registry.damage()
    said = fails(rig, named(registry, image.id))
    assert "igest" in said or "corruption" in said  # whichever of the two is noticed first
    registry.close()
    assert "connection refused" in fails(rig, named(registry, image.id))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"architecture": "s390x"}, "is made for linux/s390x, not for"),
        ({"os": "windows"}, "is made for windows/"),
        ({"config": {"Env": [1]}}, "is not an image that this server can use"),
        ({"config": {"User": ["root"]}}, "something other than text"),
        ({"rootfs": {"type": "layers", "diff_ids": []}}, "it has 2 layers"),
        ({"rootfs": {"type": "layers", "diff_ids": ["sha256:" + "1" * 64] * 2}}, "damaged"),
        ({"rootfs": {"type": "layers", "diff_ids": ["sha256:../../x"] * 2}}, "no SHA-256 digest"),
    ],
)
def test_what_an_image_says_of_itself_is_not_believed(
    rig: Rig,
    source: Path,
    registry: Registry,
    monkeypatch: pytest.MonkeyPatch,
    change: dict[str, Any],
    reason: str,
) -> None:
    image = put_image(source)
    described = publishing._configuration
    with monkeypatch.context() as patch:
        patch.setattr(publishing, "_configuration", lambda *given: {**described(*given), **change})
        publish(source, image.id, registry.url, print)
    assert reason in fails(rig, named(registry, image.id))
