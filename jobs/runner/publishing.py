"""Publish images of this machine in an OCI registry, from which the nodes of a cluster fetch them.

The other way round is ``jobs.runner.images``. An image never changes, so one that is there already
is left alone. Deletions of an overlay are written as OCI's marks. Does not know what is made from
an image. Never loaded into a runner that holds a sandbox.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import subprocess
import time

from jobs.runner import layers, skopeo, spawn

_OUTGOING = "outgoing"
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
_OCI = "application/vnd.oci.image"
_SAID = 600


def publish(data: Path, image_id: str, registry: str, progress: Callable[[str], None]) -> None:
    """Push an image as ``<registry>/snapshots:<image_id>``, unless it is there already.

    Raises:
        FileNotFoundError: this machine does not have the image.
        RegistryError: the registry cannot be used, or no space is left; the text says which.
        LayerError: a layer cannot be packed.
    """
    image = json.loads((data / "images" / f"{image_id}.json").read_text())
    started = time.monotonic()
    outgoing = data / "images" / _OUTGOING
    target = skopeo.Reference(registry, image_id)
    if _is_there(target):
        progress(f"image {image_id}: in the registry already")
        return
    with layers.exclusive(outgoing, progress), layers.unfinished(outgoing) as layout:
        skopeo.require_room(str(outgoing), image["size_bytes"], image_id)
        progress(f"image {image_id}: packing")
        _write_layout(data, image, layout)
        progress(f"image {image_id}: pushing")
        target.push(str(layout))
    progress(f"image {image_id}: published after {time.monotonic() - started:.0f} s")


def _is_there(target: skopeo.Reference) -> bool:
    try:
        target.configuration()
    except skopeo.UnknownImageError:
        return False
    return True


def _write_layout(data: Path, image: dict[str, Any], layout: Path) -> None:
    """Write the image in the OCI image layout: its blobs, and the index that leads to them."""
    blobs = layout / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    store = data / "images" / "layers"
    packed = [_pack(store / layer, blobs) for layer in reversed(image["layers"])]
    configuration = _blob(blobs, _configuration(image, [each["digest"] for each in packed]))
    manifest = {
        "schemaVersion": 2,
        "mediaType": f"{_OCI}.manifest.v1+json",
        "config": {"mediaType": f"{_OCI}.config.v1+json", **configuration},
        "layers": [{"mediaType": f"{_OCI}.layer.v1.tar", **each} for each in packed],
    }
    entry = {"mediaType": f"{_OCI}.manifest.v1+json", **_blob(blobs, manifest)}
    (layout / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
    (layout / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')


def _configuration(image: dict[str, Any], digests: list[str]) -> dict[str, Any]:
    defaults = {
        "Env": [f"{name}={value}" for name, value in image["env"].items()],
        "Entrypoint": image["entrypoint"],
        "Cmd": image["cmd"],
        "User": image["user"],
        "WorkingDir": image["workdir"],
        "Labels": {skopeo.LABEL: json.dumps(image)},
    }
    return {
        "architecture": _ARCHITECTURES.get(os.uname().machine, os.uname().machine),
        "os": "linux",
        "config": defaults,
        "rootfs": {"type": "layers", "diff_ids": digests},
    }


def _blob(blobs: Path, content: dict[str, Any]) -> dict[str, Any]:
    text = json.dumps(content).encode()
    digest = hashlib.sha256(text).hexdigest()
    (blobs / digest).write_bytes(text)
    return {"digest": f"sha256:{digest}", "size": len(text)}


def _pack(layer: Path, blobs: Path) -> dict[str, Any]:
    """Archive a layer as a blob; the same files always make the same archive."""
    stage = blobs.parent / "packing"
    stage.mkdir()
    # Names as bytes: they may be in any encoding, and have line ends in them.
    files, marks = _members(os.fsencode(layer))
    for name, members in (("files", files), ("marks", marks)):
        (stage / f"{name}.list").write_bytes(b"".join(b"%b\0" % member for member in members))
    for mark in marks:
        path = os.path.join(os.fsencode(stage), b"marked", mark)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))
        os.utime(path, (0, 0))
    archive = stage / "archive"
    command = [
        *(*layers.WITH_PARENT, "tar", "--create", f"--file={archive}", "--format=posix"),
        *("--pax-option=exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime", *layers.XATTRS),
        *("--numeric-owner", "--no-recursion", "--null", "--verbatim-files-from"),
        *(f"--directory={layer}", f"--files-from={stage}/files.list"),
        *((f"--directory={stage}/marked", f"--files-from={stage}/marks.list") if marks else ()),
    ]
    done = subprocess.run(command, capture_output=True, check=False, env=spawn.ENVIRONMENT)
    if done.returncode:
        reason = done.stderr.decode(errors="replace").strip()[-_SAID:]
        raise layers.LayerError(f"layer {layer.name} cannot be packed: {reason}")
    digest, size = _digest(archive), archive.stat().st_size
    archive.rename(blobs / digest)
    layers.remove(stage)
    return {"digest": f"sha256:{digest}", "size": size}


def _members(layer: bytes) -> tuple[list[bytes], list[bytes]]:
    """List what goes into a layer's archive: its files, and OCI's marks for an overlay's own."""
    files, marks = [], []
    for directory, folders, names in os.walk(layer):
        folders.sort()
        below = os.path.relpath(directory, layer)
        files.append(below)
        if _is_opaque(directory):
            marks.append(os.path.join(below, os.fsencode(layers.OPAQUE)))
        links = [name for name in folders if os.path.islink(os.path.join(directory, name))]
        for name in sorted([*names, *links]):
            status = os.lstat(os.path.join(directory, name))
            if stat.S_ISCHR(status.st_mode) and status.st_rdev == 0:
                marks.append(os.path.join(below, os.fsencode(layers.WHITEOUT) + name))
            elif not name.startswith(os.fsencode(layers.WHITEOUT)):  # OCI has no way to write it
                files.append(os.path.join(below, name))
    return files, marks


def _is_opaque(directory: bytes) -> bool:
    try:
        return os.getxattr(directory, layers.OPAQUE_MARK) == b"y"
    except OSError:
        return False


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from typing import Any
