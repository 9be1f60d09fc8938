"""The JSON forms of the Nomad double: what Nomad fills in, and what each list leaves out.

Field names are those of Nomad's HTTP API (2.0). Pure, and ignorant of the state they describe.
"""

from __future__ import annotations

import copy
import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.support.nomad_placement import Spec

Json = dict[str, Any]
VERSION = "2.0.5"

_JOB: Json = {
    "Affinities": None,
    "AllAtOnce": False,
    "Constraints": None,
    "Datacenters": ["*"],
    "Meta": None,
    "Namespace": "default",
    "NodePool": "default",
    "ParameterizedJob": None,
    "ParentID": "",
    "Payload": None,
    "Periodic": None,
    "Priority": 50,
    "Region": "global",
    "Spreads": None,
    "Stable": False,
    "StatusDescription": "",
    "Stop": False,
    "Type": "service",
    "Version": 0,
}
_GROUP: Json = {
    "Constraints": None,
    "Count": 1,
    "Disconnect": None,
    "EphemeralDisk": {"Migrate": False, "SizeMB": 300, "Sticky": False},
    "MaxRunDuration": None,
    "Meta": None,
    "Networks": None,
    "ReschedulePolicy": None,
    "RestartPolicy": None,
    "Volumes": None,
}
_DISCONNECT: Json = {
    "LostAfter": 0,
    "Reconcile": "best_score",
    "Replace": True,
    "StopOnClientAfter": None,
}
_TASK: Json = {
    "Config": None,
    "Constraints": None,
    "Env": None,
    "KillSignal": "",
    "KillTimeout": 5_000_000_000,
    "Meta": None,
    "User": "",
}
_RESOURCES: Json = {"CPU": 100, "Cores": 0, "DiskMB": 0, "MemoryMB": 300, "MemoryMaxMB": 0}
_LOGS: Json = {"Disabled": False, "MaxFileSizeMB": 10, "MaxFiles": 10}
_EVENT: Json = {
    "Details": {},
    "DisplayMessage": "",
    "DriverError": "",
    "ExitCode": 0,
    "FailsTask": False,
    "KillError": "",
    "KillReason": "",
    "KillTimeout": 0,
    "Message": "",
    "RestartReason": "",
    "Signal": 0,
}
_STUB = (
    "ClientDescription",
    "ClientStatus",
    "CreateIndex",
    "CreateTime",
    "DesiredDescription",
    "DesiredStatus",
    "EvalID",
    "FollowupEvalID",
    "ID",
    "JobID",
    "JobType",
    "JobVersion",
    "ModifyIndex",
    "ModifyTime",
    "Name",
    "Namespace",
    "NextAllocation",
    "NodeID",
    "NodeName",
    "TaskGroup",
    "TaskStates",
)
_JOB_STUB = (
    "CreateIndex",
    "Datacenters",
    "ID",
    "JobModifyIndex",
    "ModifyIndex",
    "Name",
    "Namespace",
    "NodePool",
    "ParentID",
    "Priority",
    "Status",
    "StatusDescription",
    "Stop",
    "SubmitTime",
    "Type",
)
# Left out while empty, as Nomad does it.
_SPARSE_ALLOCATION = ("ClientDescription", "DesiredDescription", "FollowupEvalID", "AllocStates")


def now_ns() -> int:
    return int(datetime.now(UTC).timestamp() * 1e9)


def now_text() -> str:
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


def canonical(job: Json) -> Json:
    """Fill in what a caller may leave out."""
    whole = _over(_JOB, job)
    whole["Name"] = whole.get("Name") or whole["ID"]
    whole["TaskGroups"] = [_group(group) for group in job.get("TaskGroups") or ()]
    return whole


def _group(group: Json) -> Json:
    whole = _over(_GROUP, group)
    if whole["Disconnect"] is not None:
        whole["Disconnect"] = _over(_DISCONNECT, whole["Disconnect"])
    whole["Networks"] = [_network(network) for network in whole["Networks"] or ()] or None
    whole["Tasks"] = [_task(task) for task in group.get("Tasks") or ()]
    return whole


def _network(network: Json) -> Json:
    ports = [{"HostNetwork": "default", **port} for port in network.get("DynamicPorts") or ()]
    return {"Mode": "host", **network, "DynamicPorts": ports}


def _task(task: Json) -> Json:
    whole = _over(_TASK, task)
    whole["Resources"] = _over(_RESOURCES, task.get("Resources") or {})
    whole["LogConfig"] = _over(_LOGS, task.get("LogConfig") or {})
    return whole


def _over(defaults: Json, given: Json) -> Json:
    whole = copy.deepcopy(defaults)
    whole.update(copy.deepcopy({key: value for key, value in given.items() if value is not None}))
    return whole


def invalid(job: Json) -> str:
    """Say what Nomad refuses of a canonical job; empty if nothing of what the double knows."""
    faults = [] if job["TaskGroups"] else ["Missing job task groups"]
    faults += [] if job["ID"] else ["Missing job ID"]
    for group in job["TaskGroups"]:
        for task in group["Tasks"]:
            logs = task["LogConfig"]
            storage = logs["MaxFiles"] * logs["MaxFileSizeMB"]
            disk = group["EphemeralDisk"]["SizeMB"]
            if storage >= disk:
                faults.append(
                    f"log storage ({storage} MB) must be less than requested disk capacity"
                    f" ({disk} MB)"
                )
            if (memory := task["Resources"]["MemoryMB"]) < 10:
                faults.append(f"minimum MemoryMB value is 10; got {memory}")
    return "".join(f"{len(faults)} error occurred:\n\t* {fault}\n\n" for fault in faults)


def summary(job: Json, allocations: list[Json], queued: int) -> Json:
    """Count a job's allocations by what their clients say."""
    names = {
        "complete": "Complete",
        "failed": "Failed",
        "lost": "Lost",
        "pending": "Starting",
        "running": "Running",
        "unknown": "Unknown",
    }
    groups = {}
    for group in job["TaskGroups"]:
        counts = dict.fromkeys(sorted([*names.values(), "Queued"]), 0)
        counts["Queued"] = queued
        for allocation in allocations:
            counts[names[allocation["ClientStatus"]]] += 1
        groups[group["Name"]] = counts
    return {"JobID": job["ID"], "Namespace": job["Namespace"], "Summary": groups}


def job_stub(job: Json, counts: Json, *, meta: bool) -> Json:
    stub = {key: job[key] for key in _JOB_STUB}
    stub |= {"JobSummary": counts, "ParameterizedJob": False, "Periodic": False}
    return stub | {"Meta": job["Meta"]} if meta else stub


def allocation_stub(allocation: Json, *, resources: bool, task_states: bool) -> Json:
    stub = {key: allocation[key] for key in _STUB}
    if not task_states:
        stub["TaskStates"] = None
    if resources:
        stub["AllocatedResources"] = allocation["AllocatedResources"]
    return stub


def whole_allocation(allocation: Json) -> Json:
    whole = {
        key: value
        for key, value in allocation.items()
        if key not in {"JobType", "JobVersion", "NextAllocation"}
    }
    for key in _SPARSE_ALLOCATION:
        if not whole.get(key):
            whole.pop(key, None)
    return whole


def node(spec: Spec, node_id: str, index: int) -> Json:
    """Describe a node as ``GET /v1/node/:id`` does."""
    minimum, maximum = spec.ports
    networks = [
        {"CIDR": f"{address}/32", "Device": "lo", "IP": address, "MBits": 1000, "Mode": "host"}
        for address in spec.addresses
    ]
    volumes = {
        name: {"ID": "", "Name": name, "Path": f"/{name}", "ReadOnly": False}
        for name in spec.volumes
    }
    return {
        "Attributes": {
            "driver.raw_exec": "1",
            "kernel.name": "linux",
            "nomad.version": VERSION,
            "unique.hostname": spec.name,
            "unique.network.ip-address": spec.addresses[0],
        },
        "CreateIndex": index,
        "Datacenter": spec.datacenter,
        "Drain": False,
        "DrainStrategy": None,
        "Drivers": {"raw_exec": {"Attributes": {}, "Detected": True, "Healthy": True}},
        "Events": [],
        "HTTPAddr": f"{spec.addresses[0]}:4646",
        "HostVolumes": volumes,
        "ID": node_id,
        "LastDrain": None,
        "Meta": dict(spec.meta),
        "ModifyIndex": index,
        "Name": spec.name,
        "NodeClass": spec.node_class,
        "NodePool": spec.pool,
        "NodeResources": {
            "Cpu": {"CpuShares": spec.cpu_mhz, "TotalCpuCores": 2},
            "Devices": None,
            "Disk": {"DiskMB": 100_000},
            "MaxDynamicPort": maximum,
            "Memory": {"MemoryMB": spec.memory_mib},
            "MinDynamicPort": minimum,
            "Networks": networks,
        },
        "ReservedResources": {
            "Cpu": {"CpuShares": 0, "ReservedCpuCores": None},
            "Disk": {"DiskMB": 0},
            "Memory": {"MemoryMB": 0},
            "Networks": {"ReservedHostPorts": ""},
        },
        "SchedulingEligibility": "eligible",
        "SecretID": "",
        "Status": "ready",
        "StatusDescription": "",
    }


def node_stub(node: Json, *, resources: bool) -> Json:
    keys = (
        "CreateIndex",
        "Datacenter",
        "Drain",
        "Drivers",
        "HostVolumes",
        "ID",
        "LastDrain",
        "ModifyIndex",
        "Name",
        "NodeClass",
        "NodePool",
        "SchedulingEligibility",
        "Status",
        "StatusDescription",
    )
    stub = {key: node[key] for key in keys}
    stub |= {"Address": node["HTTPAddr"].rpartition(":")[0], "Version": VERSION}
    if resources:
        stub |= {key: node[key] for key in ("NodeResources", "ReservedResources")}
    return stub


def task_event(kind: str, message: str, **more: Any) -> Json:
    return _EVENT | {"Type": kind, "DisplayMessage": message, "Time": now_ns()} | more


def fresh_task() -> Json:
    return {
        "Events": [task_event("Received", "Task received by client")],
        "Failed": False,
        "FinishedAt": None,
        "LastRestart": None,
        "Restarts": 0,
        "StartedAt": None,
        "State": "pending",
    }


def terminated(exit_code: int, signal: int) -> Json:
    message = f"Exit Code: {exit_code}" + (f", Signal: {signal}" if signal else "")
    details = {"exit_code": str(exit_code), "oom_killed": "false", "signal": str(signal)}
    return task_event("Terminated", message, ExitCode=exit_code, Signal=signal, Details=details)


_UNIT_SECONDS = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION = re.compile(r"([0-9.]+)(ns|us|ms|s|m|h)")


def seconds(duration: str) -> float:
    """Read a duration as Go writes it (``1m30s``).

    Raises:
        ValueError: it is none.
    """
    if not re.fullmatch(f"(?:{_DURATION.pattern})+", duration):
        raise ValueError(f"not a duration: {duration!r}")
    return sum(float(n) * _UNIT_SECONDS[unit] for n, unit in _DURATION.findall(duration))
