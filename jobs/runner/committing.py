"""Make images of sandboxes' files, and of other images with other defaults.

The files that a sandbox changed become a layer above those it was made from. What runs in it is
frozen while they are read, so that they are of one moment. Nothing of its record goes into the
image: no environment, no token, no volume. Never loaded into a runner that holds a sandbox.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from contextlib import contextmanager
from pathlib import Path

from jobs.runner import boot, disk, freezing, images, layers, linux, locks, loop, record, skopeo

_MOST_LAYERS = 127
# Everything that tells files apart, and an overlay's marks, but not where a file was copied from.
_KEEP = (
    *("--numeric-owner", "--xattrs", "--xattrs-include=*", "--acls"),
    *("--xattrs-exclude=user.overlay.origin", "--xattrs-exclude=user.overlay.impure"),
    *("--xattrs-exclude=trusted.*", "--xattrs-exclude=security.selinux"),
)
_SAID = 500


def commit(
    *, data: str, sandbox_id: str, image_id: str, generation: int, most_bytes: int
) -> dict[str, Any]:
    """Make an image of a sandbox's files; return its description.

    Args:
        data: the data directory.
        sandbox_id: whose files, which must be on this node.
        image_id: what it was made from.
        generation: of its newest start.
        most_bytes: how large the image may be.

    Raises:
        DiskError: the disk is not here, in use by something else, or of a later start.
        LayerError: the image would be too large, or cannot be written.
        RegistryError: what it was made from is not here.
    """
    base = _read(data, image_id)
    if len(base["layers"]) >= _MOST_LAYERS:
        raise layers.LayerError(f"an image can have at most {_MOST_LAYERS} layers")
    image, _ = disk.paths(data, sandbox_id)
    if not os.path.exists(image):
        raise disk.DiskError("the sandbox has no disk on this node: start it once")
    store = Path(data, "images")
    # Names that nobody can guess: an image of another tenant cannot claim to have this layer.
    made = {**base, "id": os.urandom(32).hex(), "layers": [os.urandom(32).hex(), *base["layers"]]}
    with layers.exclusive(store / "layers", images.say), _still(data, sandbox_id, generation) as at:
        size = _used_bytes(at)
        if base["size_bytes"] + size > most_bytes:
            raise layers.LayerError(f"the image would be larger than {most_bytes >> 20} MiB")
        skopeo.require_room(data, size, sandbox_id)
        with layers.unfinished(store / "layers") as root:
            _copy(at, root)
            root.rename(store / "layers" / made["layers"][0])
        made["size_bytes"] = base["size_bytes"] + size
        images.write_whole(store / f"{made['id']}.json", json.dumps(made, indent=1))
    return made


def derive(*, data: str, image_id: str, defaults: dict[str, Any]) -> dict[str, Any]:
    """Make an image with the files of another, and other defaults; return its description.

    Raises:
        RegistryError: the other image is not here.
    """
    made = {**_read(data, image_id), **defaults}
    made["id"] = hashlib.sha256(json.dumps(made, sort_keys=True).encode()).hexdigest()
    store = Path(data, "images")
    with layers.exclusive(store / "layers", images.say):
        images.write_whole(store / f"{made['id']}.json", json.dumps(made, indent=1))
    return made


def _read(data: str, image_id: str) -> dict[str, Any]:
    """Read an image of this node, fetched if it is not here yet."""
    images.fetch(data, image_id, record.read_node(data).registry)
    read: dict[str, Any] = json.loads(Path(data, "images", f"{image_id}.json").read_text())
    return read


@contextmanager
def _still(data: str, sandbox_id: str, generation: int) -> Iterator[str]:
    """Yield the directory of what a sandbox changed, which nothing changes meanwhile."""
    linux.unshare(linux.CLONE_NEWNS)
    volume = f"{boot.private_mounts(data)}/volume"
    os.mkdir(volume, 0o700)
    image, lock = disk.paths(data, sandbox_id)
    disk.require_generation(data, sandbox_id, generation)
    if locks.is_held(lock):
        with freezing.frozen(sandbox_id):
            _join(image, volume)
            yield from _mounted(volume)
        return
    held = disk.claim(data, sandbox_id)
    try:
        disk.require_generation(data, sandbox_id, generation)
        disk.mount(image, volume)
        yield from _mounted(volume)
    finally:
        os.close(held)


def _join(image: str, volume: str) -> None:
    """Mount the file system that the sandbox has, too: what it wrote last is seen."""
    joined = loop.join(image)
    if joined is None:
        raise disk.DiskError("the sandbox is just starting or ending: try again")
    fd, device = joined
    try:
        flags = linux.MS_NOATIME | linux.MS_NODEV
        linux.mount(device, volume, "ext4", flags, disk.MOUNT_OPTIONS)
        linux.set_mounts(volume, set_attributes=linux.MOUNT_ATTR_RDONLY)
    finally:
        os.close(fd)


def _mounted(volume: str) -> Iterator[str]:
    try:
        yield f"{volume}/upper"
    finally:
        linux.umount(volume)


def _copy(source: str, target: Path) -> None:
    """Copy a tree; what is written sees nothing but its target (``layers.confine``)."""
    pack = ["tar", "--create", "--file=-", "--format=posix", "--sparse", *_KEEP]
    unpack = [
        *(*layers.RIGHTS, "tar", "--extract", "--file=-", f"--directory={target}", *_KEEP),
        *("--same-owner", "--same-permissions", "--delay-directory-restore"),
    ]
    with (
        subprocess.Popen(
            [*layers.WITH_PARENT, *pack, f"--directory={source}", "."],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as packing,
        subprocess.Popen(
            unpack,
            stdin=packing.stdout,
            stderr=subprocess.PIPE,
            preexec_fn=lambda: layers.confine(str(target)),
        ) as unpacking,
    ):
        assert packing.stdout is not None
        packing.stdout.close()
        said = unpacking.communicate()[1] + packing.communicate()[1]
    if packing.returncode or unpacking.returncode:
        reason = said.decode(errors="replace").strip()[-_SAID:]
        raise layers.LayerError(f"the sandbox's files cannot be copied: {reason}")
    layers.write_out(target)


def _used_bytes(directory: str) -> int:
    """Sum up what a tree takes on the disk, hard links once."""
    sizes: dict[int, int] = {}
    for parent, folders, names in os.walk(directory):
        for name in (*folders, *names):
            status = os.lstat(os.path.join(parent, name))
            sizes[status.st_ino] = status.st_blocks * 512
    return sum(sizes.values())


TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any
