"""Bring images of foreign registries to a node: what users name, like ``python:3.12``.

Nothing of one is believed: sizes, names and numbers are bounded, and layers are unpacked where they
reach nothing else (``layers.put``). Never loaded into a runner that holds a sandbox.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
from contextlib import contextmanager
from pathlib import Path

from jobs.runner import images, layers, record, skopeo, spawn

_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
_MOST_LAYERS = 127
_MOST_TEXT = 1 << 20
_COMPRESSED = {b"\x1f\x8b": "gzip", b"\x28\xb5": "zstd"}  # by how a file begins


def import_image(data: str, reference: str, *, plain: bool, most_bytes: int) -> dict[str, Any]:
    """Make sure that this node has an image; return its description.

    Args:
        data: the data directory.
        reference: as users write it, with a tag or digest.
        plain: speak HTTP with its registry.
        most_bytes: how large it may be, unpacked.

    Raises:
        RegistryError: it cannot be had, or is none that runs here; the text says why.
        LayerError: a layer is damaged, too large, or no layer.
    """
    store = Path(data, "images")
    source = skopeo.Remote(
        f"docker://{reference}",
        name=reference,
        registry=f"of {reference}",
        plain=plain,
        auth=record.read_node(data).registry_auth,
    )
    source.unknown = f"there is no image {reference}, or it takes credentials to see it"
    incoming = store / "incoming"
    with layers.exclusive(incoming, images.say), layers.unfinished(incoming) as download:
        known = hashlib.sha256(source.configuration().encode()).hexdigest()
        if record.has_image(data, known):
            images.say(f"{reference} is here already")
            return _json(store / f"{known}.json")
        skopeo.require_room(data, 0, reference)
        images.say(f"downloading {reference}")
        source.pull(str(download), raw=True, largest=most_bytes)
        image, blobs = _described(download, reference)
        with layers.exclusive(store / "layers", images.say):
            image["size_bytes"] = _unpack(store / "layers", image["layers"], blobs, most_bytes)
            images.write_whole(store / f"{image['id']}.json", json.dumps(image, indent=1))
    return image


def _described(download: Path, reference: str) -> tuple[dict[str, Any], list[Path]]:
    """Read what was downloaded: the image as we describe it, and its layers' files, topmost first.

    The id is the digest of the image's own configuration.
    """
    try:
        manifest = _json(download / "manifest.json")
        name = _hexadecimal(manifest["config"]["digest"])
        configuration = _json(download / name)
        blobs = [download / _hexadecimal(layer["digest"]) for layer in manifest["layers"]]
        names = [_hexadecimal(text) for text in configuration["rootfs"]["diff_ids"]]
        if not 0 < len(names) == len(blobs) <= _MOST_LAYERS:
            raise ValueError(f"it has {len(blobs)} layers")
        image = {"id": name, "layers": names[::-1], **_defaults(configuration.get("config") or {})}
    except (KeyError, TypeError, AttributeError, ValueError, OSError) as error:
        message = f"{reference} is not an image that this server can use: {error}"
        raise skopeo.RegistryError(message) from error
    ours = _ARCHITECTURES.get(os.uname().machine, os.uname().machine)
    made_for = f"{configuration.get('os')}/{configuration.get('architecture')}"
    if made_for != f"linux/{ours}":
        raise skopeo.RegistryError(f"{reference} is made for {made_for}, not for linux/{ours}")
    return image, blobs[::-1]


def _defaults(given: dict[str, Any]) -> dict[str, Any]:
    """Read what an image's processes get, as OCI writes it."""
    env = dict(text.split("=", 1) for text in given.get("Env") or [] if "=" in text)
    lists = {key: given.get(name) or [] for key, name in (("entrypoint", "Entrypoint"),
                                                          ("cmd", "Cmd"))}  # fmt: skip
    texts = {key: given.get(name) or "" for key, name in (("user", "User"),
                                                          ("workdir", "WorkingDir"))}  # fmt: skip
    words = [*env, *env.values(), *lists["entrypoint"], *lists["cmd"], *texts.values()]
    if not all(isinstance(word, str) and "\0" not in word for word in words):
        raise ValueError("its configuration has something other than text in it")
    return {"env": env, **lists, **texts}


def _unpack(target: Path, names: list[str], blobs: list[Path], most_bytes: int) -> int:
    """Unpack the layers that are missing; return the size of all."""
    left = most_bytes
    for number, (name, blob) in enumerate(zip(names, blobs, strict=True), start=1):
        layer = target / name
        if not layer.is_dir():
            images.say(f"unpacking layer {number} of {len(names)}")
            with _opened(blob) as stream:
                layers.put(layer, stream, name, left)
        left -= layers.size_bytes(layer)
        if left < 0:
            raise layers.LayerError(f"the image is larger than {most_bytes >> 20} MiB")
    return most_bytes - left


@contextmanager
def _opened(blob: Path) -> Iterator[IO[bytes]]:
    """Open a layer's archive, compressed in whatever way."""
    with blob.open("rb", buffering=0) as file:  # its position is the program's, too
        program = _COMPRESSED.get(file.read(2))
        file.seek(0)
        if program is None:
            yield file
            return
        command = [*layers.WITH_PARENT, program, "--decompress", "--stdout"]
        with subprocess.Popen(
            command, stdin=file, stdout=subprocess.PIPE, env=spawn.ENVIRONMENT
        ) as process:
            assert process.stdout is not None
            try:
                yield process.stdout
            finally:
                process.kill()


def _json(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        text = file.read(_MOST_TEXT + 1)
    if len(text) > _MOST_TEXT:
        raise ValueError("its description is too long")
    found: dict[str, Any] = json.loads(text)
    return found


def _hexadecimal(digest: str) -> str:
    found = _DIGEST.fullmatch(digest)
    if found is None:
        raise ValueError(f"{digest[:80]!r} is no SHA-256 digest")
    return found[1]


TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import IO, Any
