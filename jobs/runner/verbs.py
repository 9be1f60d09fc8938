"""The runner's other verbs: work on a node for sandboxes that are not running.

Each is a process of its own: arguments come as one JSON object, the result goes to standard output
as one JSON object, and an exit code other than 0 means that ``error`` in it says what went wrong.
With ``--result FILE`` the result goes into that file, too, which appears whole.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from jobs.runner import (
    archive,
    boot,
    cgroup,
    committing,
    disk,
    images,
    importing,
    layers,
    locks,
    network,
    plain,
    publishing,
    record,
    skopeo,
    spawn,
    volumes,
)

_UNFINISHED = (".new", ".tmp")
_TOLD = (
    *(archive.ArchiveError, boot.BootError, disk.DiskError),
    *(layers.LayerError, skopeo.RegistryError),
)


def prepare_node() -> dict[str, Any]:
    """Make what every sandbox of this node relies on; doing it again changes nothing.

    Forwarding answers from the uplinks is switched on for these interfaces only.
    """
    cgroup.enable_controllers()
    network.finish_rules(network.begin_rules(network.node_rules()))
    return {}


def remove_disk(*, data: str, sandbox_id: str, generation: int | None = None) -> dict[str, Any]:
    """Delete a sandbox's disk, and its run directory unless a runner has it.

    With a ``generation``, only if no later start has used the disk.
    """
    disk.remove(data, sandbox_id, generation)
    directory = f"{data}/run/sandboxes/{sandbox_id}"
    if os.path.isdir(directory):
        lock = locks.take(f"{directory}/lock")
        if lock is not None:
            shutil.rmtree(directory)
            os.close(lock)
    return {}


def make_volume(*, data: str, volume_id: str, size: int) -> dict[str, Any]:
    """Make a volume of ``size`` bytes, unless it is there."""
    volumes.make(data, volume_id, size)
    return {}


def remove_volume(*, data: str, volume_id: str) -> dict[str, Any]:
    """Delete a volume with all that is in it; one that a sandbox still has is busy."""
    volumes.remove(data, volume_id)
    return {}


def fetch_image(*, data: str, image_id: str, registry: str = "") -> dict[str, Any]:
    """Make sure that this node has an image, whole; by default from the node's own registry.

    Raises:
        RegistryError: it cannot be had; the text says why and what to do.
        LayerError: what arrived is damaged.
    """
    images.fetch(data, image_id, registry or record.read_node(data).registry)
    return {"image_id": image_id}


def import_image(*, data: str, reference: str, plain: bool, most_bytes: int) -> dict[str, Any]:
    """Bring an image of a foreign registry here, and to the nodes' own registry if there is one.

    Raises:
        RegistryError: it cannot be had; the text says why and what to do.
        LayerError: what arrived is damaged, or larger than it may be.
    """
    image = importing.import_image(data, reference, plain=plain, most_bytes=most_bytes)
    return _shared(data, image)


def commit_disk(*, data: str, **what: Any) -> dict[str, Any]:
    """Make an image of a sandbox's files: see ``committing.commit``."""
    return _shared(data, committing.commit(data=data, **what))


def derive_image(*, data: str, **what: Any) -> dict[str, Any]:
    """Make an image with the files of another one: see ``committing.derive``."""
    return _shared(data, committing.derive(data=data, **what))


def _shared(data: str, image: dict[str, Any]) -> dict[str, Any]:
    """Hand an image of this node to the others, and tell what it is and where."""
    node = record.read_node(data)
    if node.registry:
        publishing.publish(Path(data), image["id"], node.registry, images.say)
    return {"image": image, "node": node.name}


def collect_images(*, data: str, keep: list[str]) -> dict[str, Any]:
    """Drop the images that are neither to be kept nor in use here."""
    return {"removed": images.collect(data, keep)}


def inventory(*, data: str) -> dict[str, Any]:
    """List what this node has: disks, volumes, images, live runners, and the space in bytes."""
    disks, shared = {}, {}
    for name in _listed(f"{data}/disks"):
        image, _ = disk.paths(data, name)
        if os.path.exists(image):
            usage = os.stat(image)
            sizes = {"limit": usage.st_size, "used": usage.st_blocks * 512}
            if name.startswith(volumes.PREFIX):
                shared[name.removeprefix(volumes.PREFIX)] = sizes
            else:
                disks[name] = sizes
    volume = os.statvfs(f"{data}/disks")
    names = [n.removesuffix(".json") for n in _listed(f"{data}/images") if n.endswith(".json")]
    return {
        "disks": disks,
        "volumes": shared,
        "images": sorted(names),
        "running": [directory.name for directory in images.live(data)],
        "free": volume.f_bavail * volume.f_frsize,
        "size": volume.f_blocks * volume.f_frsize,
    }


def sweep(*, data: str) -> dict[str, Any]:
    """Remove what killed runners of this data directory left: groups, rules, unfinished files."""
    removed = []
    for name in _listed(f"{data}/run/sandboxes"):
        if not locks.is_held(f"{data}/run/sandboxes/{name}/lock") and cgroup.directories(name):
            cgroup.kill(name)
            cgroup.remove(name)
            removed.append(f"cgroup {name}")
    for name in _listed(f"{data}/disks"):
        directory = f"{data}/disks/{name}"
        entries = _listed(directory) if os.path.isdir(directory) else []
        for entry in entries:
            if entry.endswith(_UNFINISHED) and not locks.is_held(f"{directory}/disk.lock"):
                os.unlink(f"{directory}/{entry}")
                removed.append(f"{name}/{entry}")
    removed += _sweep_slots()
    return {"removed": removed}


def _sweep_slots() -> list[str]:
    """Take the rules of slots that nobody holds out of the table."""
    swept = []
    for name in _listed(network.SLOTS_DIRECTORY):
        fd = network.lock_slot(int(name))
        if fd is None:
            continue
        subnet = os.pread(fd, 64, 0).decode()
        if subnet:
            network.release(network.Slot(int(name), fd, subnet))
            swept.append(f"slot {name}")
        os.close(fd)
    return swept


def forget_node() -> dict[str, Any]:
    """Undo ``prepare_node``, unless a sandbox of any data directory still runs here."""
    _sweep_slots()
    locks = [network.lock_slot(int(name)) for name in _listed(network.SLOTS_DIRECTORY)]
    try:
        if None in locks:
            return {"kept": "other sandboxes run on this host"}
        spawn.run(["nft", "-f", "-"], "table inet yurt\ndelete table inet yurt\n")
        shutil.rmtree(os.path.dirname(network.SLOTS_DIRECTORY), ignore_errors=True)
        cgroup.remove(".")
    finally:
        for fd in locks:
            if fd is not None:
                os.close(fd)
    return {}


def _listed(directory: str) -> list[str]:
    try:
        return sorted(os.listdir(directory))
    except FileNotFoundError:
        return []


VERBS: dict[str, Callable[..., dict[str, Any]]] = {
    "prepare-node": prepare_node,
    "forget-node": forget_node,
    "remove-disk": remove_disk,
    "make-volume": make_volume,
    "remove-volume": remove_volume,
    "archive-disk": archive.pack,
    "restore-disk": archive.restore,
    "fetch-image": fetch_image,
    "import-image": import_image,
    "commit-disk": commit_disk,
    "derive-image": derive_image,
    "collect-images": collect_images,
    "inventory": inventory,
    "sweep": sweep,
}


def run(verb: str, arguments: list[str]) -> int:
    """Run one verb and print its result."""
    text, *option = arguments or ["{}"]
    if verb not in VERBS or option[:1] not in ([], ["--result"]) or len(option) == 1:
        sys.stderr.write(f"usage: VERB [JSON] [--result FILE]; verbs: run, {', '.join(VERBS)}\n")
        return 2
    try:
        result = VERBS[verb](**plain.loads(text))
    except (OSError, *_TOLD) as error:
        result = {"error": str(error)}
    line = plain.dumps(result) + "\n"
    if option:
        record.write_whole(option[1], line)
    sys.stdout.write(line)
    return 1 if "error" in result else 0


TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any
