"""What a runner reads before it starts and writes before it ends: three small JSON files.

``spec.json`` (the job) and ``exit.json`` lie in the sandbox's run directory; ``node.json`` holds
what is the same for every sandbox of the node, its key among it.
"""

from __future__ import annotations

import os
import time

from jobs.runner import plain

# The exit code of a runner whose sandbox control gave to another one.
FENCED_CODE = 75


class Job:
    """One start of one sandbox, as the scheduler placed it; no secret is in it.

    The port may be text: a scheduler that chooses it late can only put it between quotes.
    """

    def __init__(self, fields: dict[str, Any]) -> None:
        self.sandbox_id: str = fields["sandbox_id"]
        self.generation: int = fields["generation"]
        self.image_id: str = fields["image_id"]
        self.cpu: int = fields["cpu"]
        self.memory_mib: int = fields["memory_mib"]
        self.disk_bytes: int = fields["disk_bytes"]
        self.pids: int = fields["pids"]
        self.domain: str = fields["domain"]
        self.control_url: str = fields["control_url"]
        self.address: str = fields["address"]
        self.port = int(fields["port"])
        # A runner may be newer than who started it.
        self.restore: bool = fields.get("restore", False)
        self.data: str = fields["data"]


class Node:
    """The node's own configuration: its name and key, its networks, agent bundle and registry.

    ``registry_auth`` is a file of credentials for foreign registries, empty for none.
    """

    def __init__(self, fields: dict[str, Any]) -> None:
        self.name: str = fields["name"]
        self.key: bytes = bytes.fromhex(fields["key"])
        self.resolvers: list[str] = fields["resolvers"]
        self.never: list[str] = fields["never"]
        self.bundle: str = fields["bundle"]
        self.subnet: str = fields["subnet"]
        self.registry: str = fields["registry"]
        self.tools: str = fields.get("tools", "")
        self.registry_auth: str = fields.get("registry_auth", "")


class Image:
    """The parts of an image's description that a runner needs."""

    def __init__(self, fields: dict[str, Any]) -> None:
        self.layers: list[str] = fields["layers"]
        self.environment: dict[str, str] = fields["env"]
        self.user: str = fields["user"]
        self.workdir: str = fields["workdir"]
        self.entrypoint: list[str] = [*fields["entrypoint"], *fields["cmd"]]


def _read(path: str) -> dict[str, Any]:
    with open(path, encoding="utf-8") as file:
        fields: dict[str, Any] = plain.loads(file.read())
    return fields


def write_job(directory: str, text: str) -> Job:
    """Write the job into a run directory, in place of the one of an earlier start."""
    job = Job(plain.loads(text))
    write_whole(f"{directory}/spec.json", text)
    return job


def read_job(directory: str) -> Job:
    """Read the job in a run directory.

    Raises:
        FileNotFoundError: its runner has not written it yet.
    """
    return Job(_read(f"{directory}/spec.json"))


def read_node(data: str) -> Node:
    """Read the node's configuration."""
    return Node(_read(f"{data}/node.json"))


def read_image(data: str, image_id: str) -> Image:
    """Read an image's description.

    Raises:
        FileNotFoundError: the node does not have the image.
    """
    return Image(_read(f"{data}/images/{image_id}.json"))


def has_image(data: str, image_id: str) -> bool:
    """Tell whether the node has an image, with all of its layers."""
    try:
        layers = read_image(data, image_id).layers
    except FileNotFoundError:
        return False
    return all(os.path.isdir(f"{data}/images/layers/{layer}") for layer in layers)


def write_exit(
    directory: str, job: Job, incarnation: str, reason: str, code: int, phase: str
) -> None:
    """Write ``exit.json`` whole or not at all.

    Args:
        directory: the run directory.
        job: whose end it is.
        incarnation: of this start.
        reason: for the user; empty when it ended as asked.
        code: exit code of the runner.
        phase: how far it had come: ``assign``, ``ready`` or ``stopping``.
    """
    fields = {
        "generation": job.generation,
        "incarnation": incarnation,
        "reason": reason,
        "code": code,
        "phase": phase,
        "at": time.time(),
    }
    write_whole(f"{directory}/exit.json", plain.dumps(fields))


def write_whole(path: str, text: str) -> None:
    """Write a file, for root's eyes only, that appears whole or not at all."""
    with open(f"{path}.new", "w", encoding="utf-8", opener=_private) as file:
        file.write(text)
    os.rename(f"{path}.new", path)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o600)


TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any
