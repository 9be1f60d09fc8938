"""The Nomad job of a sandbox, and of a piece of work on a node: pure, in the API's JSON shape.

Knows nothing of the API, of tokens or of what happens to a job. Nothing secret is in one: anybody
who may read jobs reads it.

Each Nomad client has meta ``yurt_data`` (the data directory) and ``yurt_python`` (an interpreter),
a host volume ``yurt``, and ``raw_exec``.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from hashlib import sha256
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from jobs.nomad import NomadSettings
    from jobs.scheduler import Job

GROUP = "sandbox"
TASK = "runner"
PORT = "gate"
VOLUME = "yurt"
RESULT = "alloc/result.json"

SANDBOX_PREFIX = "yurt-"
WORK_PREFIX = "yurt-work-"

_DATA = "${meta.yurt_data}"
_PYTHON = "${meta.yurt_python}"
_RUNNER = f"{_DATA}/lib/runner/jobs/runner/main.py"
_NODE = "${node.unique.name}"
_CLASS = "${node.class}"

_NANOSECONDS = 1_000_000_000
MIB = 1 << 20

# A client that is away keeps its sandboxes for a month: they run on, and nobody else may.
_LOST_AFTER_NANOSECONDS = 720 * 3600 * _NANOSECONDS
# Nomad's client allows no more by itself (``max_kill_timeout``).
KILL_SECONDS = 30

# The sandbox has a control group of its own; these are the guard and the holder in Nomad's.
RUNNER_MIB = 64
# Shares, in Nomad's MHz, among runners only: so few that memory and disk decide who fits.
_CPU_SHARES = 10
_WORK_MEMORY_MIB, _WORK_MEMORY_MAX_MIB = 64, 1024
_WORK_DISK_MIB = 10
# Nomad's smallest reservation.
_LEAST_MEMORY_MIB = 10


def job_id(sandbox_id: str) -> str:
    """Name the Nomad job of a sandbox. Inverse: ``sandbox_of``."""
    return SANDBOX_PREFIX + sandbox_id


def sandbox_of(job_id: str) -> str | None:
    """Tell whose job this is; None if it is no sandbox's."""
    if not job_id.startswith(SANDBOX_PREFIX) or job_id.startswith(WORK_PREFIX):
        return None
    return job_id.removeprefix(SANDBOX_PREFIX)


def render_job(job: Job, settings: NomadSettings, avoid: Collection[str] = ()) -> dict[str, Any]:
    """Render a sandbox's job, to be placed on none of the nodes to ``avoid``."""
    told = asdict(job) | {
        "address": f"${{NOMAD_IP_{PORT}}}",
        "port": f"${{NOMAD_PORT_{PORT}}}",
        "data": _DATA,
    }
    del told["node"]  # where it is, it sees
    arguments = ["run", f"{_DATA}/run/sandboxes/{job.sandbox_id}", _compact(told)]
    limit = job.memory_mib + RUNNER_MIB
    reserved = max(round(limit * settings.memory_reserve), _LEAST_MEMORY_MIB)
    group = _group(arguments, memory=(reserved, limit), disk_mib=_mib(job.disk_bytes))
    group["Networks"] = [{"DynamicPorts": [{"Label": PORT}]}]
    meta = {"yurt": "sandbox", "sandbox": job.sandbox_id, "generation": str(job.generation)}
    return _job(job_id(job.sandbox_id), meta, group, settings) | {
        "Constraints": [*_constraints(job.node, settings), *map(_unlike, sorted(avoid))]
    }


def render_work(
    verb: str, arguments: Mapping[str, Any], node: str, settings: NomadSettings
) -> dict[str, Any]:
    """Render one of the runner's other verbs as a job; the same work has the same id."""
    told = {"data": _DATA, **arguments}
    command = [verb, _compact(told), "--result", "${NOMAD_ALLOC_DIR}/result.json"]
    memory = (_WORK_MEMORY_MIB, _WORK_MEMORY_MAX_MIB)
    group = _group(command, memory=memory, disk_mib=_WORK_DISK_MIB)
    digest = sha256(json.dumps([node, told], sort_keys=True).encode()).hexdigest()[:8]
    meta = {"yurt": "work", "verb": verb}
    return _job(f"{WORK_PREFIX}{verb}-{digest}", meta, group, settings) | {
        "Constraints": _constraints(node, settings)
    }


def _job(
    name: str, meta: Mapping[str, str], group: dict[str, Any], settings: NomadSettings
) -> dict[str, Any]:
    job = {
        "ID": name,
        "Name": name,
        "Type": "batch",
        "Namespace": settings.namespace,
        "NodePool": settings.node_pool,
        "Datacenters": ["*"],
        "Meta": dict(meta),
        "TaskGroups": [group],
    }
    return job | ({"Region": settings.region} if settings.region else {})


def _constraints(node: str, settings: NomadSettings) -> list[dict[str, str]]:
    constraints = [{"LTarget": "${meta.yurt_data}", "Operand": "is_set"}]
    if settings.node_class:
        constraints.append({"LTarget": _CLASS, "RTarget": settings.node_class, "Operand": "="})
    if node:
        constraints.append({"LTarget": _NODE, "RTarget": node, "Operand": "="})
    return constraints


def _unlike(node: str) -> dict[str, str]:
    return {"LTarget": _NODE, "RTarget": node, "Operand": "!="}


def _group(arguments: list[str], *, memory: tuple[int, int], disk_mib: int) -> dict[str, Any]:
    """One task that runs the runner once: nobody but control starts it again or elsewhere."""
    reserved, limit = memory
    task = {
        "Name": TASK,
        "Driver": "raw_exec",
        "Config": {"command": _PYTHON, "args": ["-I", "-S", _RUNNER, *arguments]},
        "Resources": {"CPU": _CPU_SHARES, "MemoryMB": reserved, "MemoryMaxMB": limit},
        # Also where they are off, Nomad wants room for logs on the disk.
        "LogConfig": {"Disabled": True, "MaxFiles": 1, "MaxFileSizeMB": 1},
        "KillSignal": "SIGTERM",
        "KillTimeout": KILL_SECONDS * _NANOSECONDS,
    }
    return {
        "Name": GROUP,
        "Count": 1,
        "Disconnect": {
            "LostAfter": _LOST_AFTER_NANOSECONDS,
            "Replace": False,
            "Reconcile": "keep_original",
        },
        "RestartPolicy": {"Attempts": 0, "Mode": "fail"},
        "ReschedulePolicy": {"Attempts": 0, "Unlimited": False},
        # A request without a mount: where the volume is, and nothing more.
        "Volumes": {VOLUME: {"Name": VOLUME, "Type": "host", "Source": VOLUME}},
        # Nomad's one number for room on a disk; the client is told how much there is.
        "EphemeralDisk": {"SizeMB": disk_mib},
        "Tasks": [task],
    }


def _mib(size: int) -> int:
    return -(-size // MIB)


def _compact(value: Mapping[str, Any]) -> str:
    return json.dumps(value, separators=(",", ":"))
