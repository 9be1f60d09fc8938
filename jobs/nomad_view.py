"""What Nomad says, in our words: pure functions from its JSON to allocations, nodes and reasons.

A status that Nomad sets because it lost a node says nothing about what runs there: neither
``unknown`` nor ``lost`` is an end, until the node itself has been heard again.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from jobs.runner.record import FENCED_CODE
from jobs.scheduler import Allocation, Exit, NodeStatus
from jobs.spec import PORT, TASK, VOLUME, sandbox_of

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from jobs.nomad import NomadSettings

Json = dict[str, Any]

_ENDED = frozenset({"complete", "failed"})
_OUT_OF_REACH = frozenset({"unknown", "lost"})
_KILLED_CODE = 137
# What Nomad notes of every task, or of every one that failed.
_GENERAL = frozenset({"Received", "Task Setup", "Not Restarting"})


def newest(allocations: Iterable[Json]) -> Json | None:
    """Choose the allocation that counts: the one that was placed last."""
    return max(allocations, key=lambda one: int(one["CreateIndex"]), default=None)


def waits_to_run(allocation: Mapping[str, Any]) -> bool:
    """Tell whether it has a place, and nothing else has become of it yet."""
    return (allocation["ClientStatus"], allocation["DesiredStatus"]) == ("pending", "run")


def is_over(allocation: Mapping[str, Any], heard: Collection[str] = ()) -> bool:
    """Tell whether nothing of it runs; ``heard`` are the nodes that are ready.

    A node is ready again only after its client has told what became of its allocations.
    """
    status = allocation["ClientStatus"]
    return status in _ENDED or (status == "lost" and allocation["NodeName"] in heard)


def is_out_of_reach(allocation: Mapping[str, Any], heard: Collection[str] = ()) -> bool:
    """Tell whether its node is lost."""
    return allocation["ClientStatus"] in _OUT_OF_REACH and not is_over(allocation, heard)


def allocation(
    job_id: str, meta: Mapping[str, str], placed: Mapping[str, Any] | None, heard: Collection[str]
) -> Allocation:
    """Read where a sandbox's job is; it has no place yet if ``placed`` is None."""
    sandbox_id, generation = sandbox_of(job_id) or "", int(meta["generation"])
    if placed is None:
        return Allocation(sandbox_id, generation, "", "", 0, True, None)
    address, port = _gate(placed)
    over = is_over(placed, heard)
    return Allocation(
        sandbox_id,
        generation,
        node=placed["NodeName"],
        address=address,
        port=port,
        running=not over,
        exit=exit_of(placed) if over else None,
        reachable=not is_out_of_reach(placed, heard),
    )


def _gate(placed: Mapping[str, Any]) -> tuple[str, int]:
    for port in placed["AllocatedResources"]["Shared"]["Ports"] or ():
        if port["Label"] == PORT:
            return port["HostIP"], port["Value"]
    return "", 0


def exit_of(placed: Mapping[str, Any]) -> Exit:
    """Tell how a task ended, by Nomad's word: it knows the code, and not how far it had come."""
    task = (placed["TaskStates"] or {}).get(TASK) or {}
    events = task.get("Events") or []
    at = _time(task.get("FinishedAt")) or datetime.fromtimestamp(
        int(placed["ModifyTime"]) / 1e9, UTC
    )
    terminated = next((one for one in reversed(events) if one["Type"] == "Terminated"), None)
    if terminated is not None:
        reason, code = _termination(terminated, any(one["Type"] == "Killing" for one in events))
    else:
        reason, code = _never_started(placed, events)
    return Exit(reason, code, "unknown", at)


def _termination(event: Mapping[str, Any], asked: bool) -> tuple[str, int]:
    code, signal = int(event["ExitCode"]), int(event["Signal"])
    details = event.get("Details") or {}
    if details.get("oom_killed") == "true":
        return "the runner was killed: it ran out of memory", code or _KILLED_CODE
    if signal:
        late = ": it did not end in time" if asked and signal == 9 else ""
        return f"the runner was killed (signal {signal}){late}", code or 128 + signal
    if code == FENCED_CODE:
        # Only Nomad's client starts one allocation's runner twice, after its machine was restarted.
        return "its node was restarted", code
    if code < 0:
        # A client that was away while its task ended has not been told how.
        return "the runner ended, and Nomad cannot tell how", code
    if code:
        return f"the runner ended with exit code {code}", code
    return "", 0


def _never_started(placed: Mapping[str, Any], events: list[Json]) -> tuple[str, int]:
    if placed["ClientStatus"] == "lost":
        return f"node {placed['NodeName']} was lost", _KILLED_CODE
    if placed["ClientStatus"] == "complete":
        return "", 0
    told = [one.get("DriverError") or one.get("SetupError") or "" for one in events]
    told += [one.get("DisplayMessage", "") for one in events if one["Type"] not in _GENERAL]
    words = next(filter(None, told), placed["ClientDescription"])
    return f"the runner did not start: {words}", 1


def _time(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None


# -- nodes -------------------------------------------------------------------------------------


def node_statuses(
    nodes: Iterable[Json], allocations: Iterable[Json], settings: NomadSettings
) -> list[NodeStatus]:
    """Describe the nodes that sandboxes may be placed on, one a name: the one that is ready."""
    reserved: dict[str, int] = {}
    for one in allocations:
        if one["ClientStatus"] not in _ENDED:
            tasks = one["AllocatedResources"]["Tasks"].values()
            memory = sum(task["Memory"]["MemoryMB"] for task in tasks)
            reserved[one["NodeName"]] = reserved.get(one["NodeName"], 0) + memory
    ours = [node for node in nodes if _is_ours(node, settings)]
    ours.sort(key=lambda node: (node["Status"] == "ready", node["ModifyIndex"]))
    found = {node["Name"]: _node_status(node, reserved.get(node["Name"], 0)) for node in ours}
    return [found[name] for name in sorted(found)]


def _is_ours(node: Json, settings: NomadSettings) -> bool:
    in_pool = settings.node_pool in {"all", node["NodePool"]}
    of_class = settings.node_class in {"", node["NodeClass"]}
    return in_pool and of_class and VOLUME in (node["HostVolumes"] or {})


def _node_status(node: Json, reserved_mib: int) -> NodeStatus:
    has, kept = node["NodeResources"], node["ReservedResources"] or {}
    return NodeStatus(
        name=node["Name"],
        address=node["Address"],
        is_ready=node["Status"] == "ready",
        is_cordoned=node["SchedulingEligibility"] != "eligible",
        node_class=node["NodeClass"],
        version=node["Version"],
        memory_mib=has["Memory"]["MemoryMB"] - kept.get("Memory", {}).get("MemoryMB", 0),
        memory_reserved_mib=reserved_mib,
        disk_mib=has["Disk"]["DiskMB"] - kept.get("Disk", {}).get("DiskMB", 0),
    )


# -- why there is no room ----------------------------------------------------------------------


def no_room(metric: Mapping[str, Any], wanted: Mapping[str, Any], pinned: str) -> str:
    """Say why a job found no place: ``metric`` is Nomad's account of its search.

    ``wanted`` is the group that was to be placed; ``pinned`` says what is wrong with the only node
    that could take it, if anything is.
    """
    if pinned:
        return f"no room: {pinned}"
    evaluated, pool = metric["NodesEvaluated"], metric["NodePool"]
    if not evaluated:
        return (
            f"no room: no node of pool {pool} is ready and takes jobs; "
            "join, start or uncordon one, or set YURT_NODE_POOL"
        )
    counts = {
        **{_dimension(key, wanted): n for key, n in (metric["DimensionExhausted"] or {}).items()},
        **{_constraint(key): n for key, n in (metric["ConstraintFiltered"] or {}).items()},
    }
    reasons = ", ".join(f"{count} {words}" for words, count in counts.items()) or "none fits"
    advice = "stop or delete sandboxes, or join a node"
    return f"no room: of {evaluated} nodes in pool {pool}, {reasons}; {advice}"


def pinned_trouble(name: str, nodes: Iterable[Json], settings: NomadSettings) -> str:
    """Say why nothing can start on a node, whatever it has free; empty if it could."""
    named = [node for node in nodes if node["Name"] == name]
    if not named:
        return f"there is no node {name}, where this has its disk; start its Nomad client again"
    node = max(named, key=lambda one: (one["Status"] == "ready", one["ModifyIndex"]))
    if node["Status"] != "ready":
        return f"node {name}, where this has its disk, is {node['Status']}; bring it back"
    if node["SchedulingEligibility"] != "eligible":
        return f"node {name}, where this has its disk, is cordoned; uncordon it"
    if not _is_ours(node, settings):
        return (
            f"node {name}, where this has its disk, lacks the host volume {VOLUME}, or is not of"
            f" pool {settings.node_pool!r} and class {settings.node_class!r}"
        )
    return ""


def _dimension(name: str, wanted: Mapping[str, Any]) -> str:
    (task,) = wanted["Tasks"]
    match name:
        case "memory":
            return f"have no {task['Resources']['MemoryMB']} MiB of memory left"
        case "disk":
            return f"have no {wanted['EphemeralDisk']['SizeMB']} MiB of disk left"
        case "cpu":
            return "have no processor time left"
        case "network: dynamic port selection failed":
            return "have no port left in their dynamic range"
        case _:
            return f"lack {name}"


def _constraint(name: str) -> str:
    left, _, right = name.partition(" ")
    if name == "missing compatible host volumes":
        return f"have no host volume {VOLUME}"
    if name == "missing drivers":
        return "do not run raw_exec"
    if left == "${meta.yurt_data}":
        return "have no meta yurt_data"
    if left == "${node.class}":
        return f"are not of class {right.removeprefix('= ')} (YURT_NODE_CLASS)"
    if left == "${node.unique.name}" and right.startswith("!="):
        return "have no room for one more disk"
    if left == "${node.unique.name}":
        return f"are not {right.removeprefix('= ')}, where this has its disk"
    return f"do not fit ({name})"
