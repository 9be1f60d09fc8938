"""The images of a node: one directory per layer, one JSON file per image, and the agent bundle.

Everything appears by rename, complete or not at all, and never changes afterwards. Whoever writes
holds a lock, so what is half made when the lock is free was left by a process that died.
Does not know which sandboxes use an image.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING

from control.errors import InvalidError, NotFoundError, UnavailableError
from image.bundle.build import BundleError, build_bundle, bundle_digest
from jobs.runner import images, layers
from jobs.snapshot import build_root, recipe_digest

if TYPE_CHECKING:
    from collections.abc import Callable

    from jobs.site import Site

_DIGEST = re.compile(r"[0-9a-f]{64}")
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, slots=True)
class Image:
    """What a sandbox is started from: layers, topmost first, and the defaults of its processes.

    ``user`` and ``workdir`` may be empty: root, and the user's home.
    """

    id: str
    layers: list[str]
    env: dict[str, str] = field(default_factory=dict)
    entrypoint: list[str] = field(default_factory=list)
    cmd: list[str] = field(default_factory=list)
    user: str = ""
    workdir: str = ""
    size_bytes: int = 0


def ensure_bundle(data: Path, progress: Callable[[str], None]) -> Path:
    """Return the directory of the agent bundle, built if its inputs changed.

    Raises:
        UnavailableError: something that it is built from is missing on this machine.
    """
    library = data / "lib"
    try:
        bundle = library / f"agent-{bundle_digest()}"
        if not bundle.exists():
            with layers.exclusive(library, progress):
                if not bundle.exists():
                    build_bundle(bundle, progress)
    except BundleError as exc:
        raise UnavailableError(f"the agent bundle cannot be built: {exc}") from exc
    return bundle


def ensure_default_snapshot(data: Path, site: Site, progress: Callable[[str], None]) -> Image:
    """Return the image of the default snapshot, made from Debian's packages if it is not there.

    Raises:
        UnavailableError: a tool is missing here, or a mirror cannot be reached.
        InvalidError: a setting of the site is wrong.
    """
    digest = recipe_digest(site)
    with contextlib.suppress(NotFoundError):
        return read_image(data, digest)
    layer = layer_path(data, digest)
    with layers.exclusive(layer.parent, progress):
        if not layer.exists():
            with layers.unfinished(layer.parent) as root:
                build_root(root, site, progress)
                layers.finish(root)
                root.rename(layer)
        image = Image(
            id=digest,
            layers=[digest],
            env={"PATH": f"/home/daytona/.local/bin:{_PATH}", "LANG": "C.UTF-8"}
            | site.environment(),
            user="daytona",
            size_bytes=layers.size_bytes(layer),
        )
        write_image(data, image)
    return image


def import_layer(
    data: Path, digest: str, stream: IO[bytes], progress: Callable[[str], None]
) -> Path:
    """Unpack a layer from a tar stream whose SHA-256 is ``digest``; a layer that is there stays.

    What is kept of the archive, and what is not: see ``jobs.runner.layers.put``.

    Raises:
        InvalidError: the stream is no tar archive, is cut off, or has another digest.
    """
    layer = layer_path(data, digest)
    if layer.exists():
        return layer
    with layers.exclusive(layer.parent, progress):
        if not layer.exists():
            try:
                layers.put(layer, stream, digest)
            except layers.LayerError as exc:
                raise InvalidError(str(exc)) from exc
    return layer


def layer_path(data: Path, digest: str) -> Path:
    """Name the directory of a layer, whether it exists or not."""
    return data / "images" / "layers" / _checked(digest)


def read_image(data: Path, image_id: str) -> Image:
    """Read an image of this node, whole or not at all.

    Raises:
        NotFoundError: the node does not have the image, or lacks one of its layers.
    """
    path = _image_path(data, image_id)
    try:
        image = Image(**json.loads(path.read_text()))
    except FileNotFoundError as exc:
        raise NotFoundError(f"this node has no image {image_id}") from exc
    for layer in image.layers:
        if not layer_path(data, layer).is_dir():
            raise NotFoundError(f"layer {layer} of image {image_id} is missing on this node")
    return image


def write_image(data: Path, image: Image) -> None:
    """Make an image known, whose layers are there; the same id again overwrites."""
    path = _image_path(data, image.id)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(
        "w", dir=path.parent, prefix=layers.UNFINISHED, delete=False
    ) as new:
        json.dump(asdict(image), new, indent=1)
        new.flush()
        os.fsync(new.fileno())
    Path(new.name).rename(path)


def remove_image(data: Path, image_id: str, progress: Callable[[str], None]) -> None:
    """Remove an image and the layers that no other image has; one that is not there is fine.

    No sandbox of this node may be started from it: their files would vanish under them.
    """
    _checked(image_id)
    with layers.exclusive(data / "images" / "layers", progress):
        images.drop(data, image_id)


def _image_path(data: Path, image_id: str) -> Path:
    return data / "images" / f"{_checked(image_id)}.json"


def _checked(digest: str) -> str:
    if not _DIGEST.fullmatch(digest):
        raise InvalidError(
            f"{digest!r} is not the id of an image or layer: 64 characters of 0-9a-f"
        )
    return digest
