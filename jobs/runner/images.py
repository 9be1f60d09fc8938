"""Images of a node, from and to which sandboxes come and go: fetch one, drop those nobody needs.

Both work under the lock of the layers, so that one process makes an image for many that wait.
Never loaded into a runner that holds a sandbox.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
import tempfile
import time
from pathlib import Path

from jobs.runner import layers, locks, record, skopeo

_ID = re.compile(r"[0-9a-f]{64}")
_SPEC_WAIT_SECONDS = 2.0


def fetch(data: str, image_id: str, registry: str) -> None:
    """Make sure that this node has an image; what is there stays, half of one never is.

    Raises:
        RegistryError: it cannot be had; the text says why and what to do.
        LayerError: what arrived is damaged.
    """
    if record.has_image(data, image_id):
        return
    source = skopeo.Reference(registry, image_id)
    store = Path(data, "images")
    with layers.exclusive(store / "layers", say):
        if record.has_image(data, image_id):
            return  # another process was faster
        say(f"asking the registry for image {image_id}")
        image, digests = _described(source)
        wanted = dict(zip(image["layers"], digests, strict=True))
        missing = {
            layer: digest
            for layer, digest in wanted.items()
            if not (store / "layers" / layer).is_dir()
        }
        if missing:
            # Archive and layer are there at the same time.
            skopeo.require_room(data, 2 * image["size_bytes"], image_id)
            _make_layers(source, missing, store / "layers")
        write_whole(store / f"{image_id}.json", json.dumps(image, indent=1))


def _described(source: skopeo.Reference) -> tuple[dict[str, Any], list[str]]:
    """Return the image's description, and the digests of its layers' archives, topmost first."""
    try:
        configuration = json.loads(source.configuration())
        image = json.loads(configuration["config"]["Labels"][skopeo.LABEL])
        digests = [name.removeprefix("sha256:") for name in configuration["rootfs"]["diff_ids"]]
        names = [image["id"], *image["layers"], *digests]
        if not all(_ID.fullmatch(name) for name in names) or len(digests) != len(image["layers"]):
            raise ValueError
    except (ValueError, KeyError, TypeError) as error:
        raise skopeo.RegistryError(
            f"{source.url} is not an image of this program's making: publish image "
            f"{source.image_id} anew"
        ) from error
    if image["id"] != source.image_id:
        raise skopeo.RegistryError(f"{source.url} is image {image['id']}, not what its name says")
    return image, digests[::-1]


def _make_layers(source: skopeo.Reference, missing: dict[str, str], target: Path) -> None:
    """Download the image, and unpack those of its layers that are missing."""
    with layers.unfinished(target) as download:
        say(f"downloading image {source.image_id}")
        source.pull(str(download))
        for number, (layer, digest) in enumerate(missing.items(), start=1):
            say(f"unpacking layer {number} of {len(missing)} of image {source.image_id}")
            try:
                with (download / digest).open("rb") as archive:
                    layers.put(target / layer, archive, digest)
            except FileNotFoundError as error:
                message = f"layer {digest} of image {source.image_id} did not arrive"
                raise layers.LayerError(message) from error


def collect(data: str, keep: list[str]) -> list[str]:
    """Drop every image that is not to be kept and that no running sandbox is made from.

    Returns:
        The ids of what was dropped.

    Raises:
        OSError: what runs here cannot be told; nothing more is dropped.
    """
    store = Path(data, "images")
    dropped = []
    with layers.exclusive(store / "layers", say):
        for path in sorted(store.glob("*.json")):
            if path.stem in keep or path.stem in _in_use(data):
                continue
            # Whoever starts from now on finds no image and waits for our lock, to fetch it; whoever
            # was faster has written by now what it uses.
            text = path.read_text()
            path.unlink()
            if path.stem in _in_use(data):
                write_whole(path, text)
                continue
            dropped.append(path.stem)
        # Also those of an image that was refused when some of them were there.
        _drop_layers(store, [path.name for path in (store / "layers").glob("[!.]*")])
    return dropped


def drop(data: str | Path, image_id: str) -> None:
    """Drop an image and the layers that no other image has; ``layers.exclusive`` must be held."""
    store = Path(data, "images")
    path = store / f"{image_id}.json"
    if path.exists():
        unused = json.loads(path.read_text())["layers"]
        path.unlink()
        _drop_layers(store, unused)


def _drop_layers(store: Path, unused: list[str]) -> None:
    left = set(unused)
    for other in store.glob("*.json"):
        left -= set(json.loads(other.read_text())["layers"])
    for layer in left:
        layers.remove(store / "layers" / layer)


def _in_use(data: str) -> set[str]:
    """Name the images of all sandboxes that run here."""
    return {_job(directory).image_id for directory in live(data)}


def live(data: str) -> list[Path]:
    """List the run directories of runners that live, also of those that have just started."""
    sandboxes = Path(data, "run", "sandboxes")
    found = sorted(sandboxes.iterdir()) if sandboxes.is_dir() else []
    return [directory for directory in found if locks.is_held(str(directory / "lock"))]


def _job(directory: Path) -> record.Job:
    """Read what a runner that lives has written, or is just about to write."""
    deadline = time.monotonic() + _SPEC_WAIT_SECONDS
    while True:
        try:
            return record.read_job(str(directory))
        except FileNotFoundError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def write_whole(path: Path, text: str) -> None:
    """Write a file of the store that appears whole; ``layers.exclusive`` must be held."""
    with tempfile.NamedTemporaryFile(
        "w", dir=path.parent / "layers", prefix=layers.UNFINISHED, delete=False
    ) as new:
        new.write(text)
        new.flush()
        os.fsync(new.fileno())
    os.rename(new.name, path)


def say(text: str) -> None:
    """Tell how far it has come, on standard error."""
    with contextlib.suppress(BrokenPipeError):
        sys.stderr.write(text + "\n")
        sys.stderr.flush()


TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any
