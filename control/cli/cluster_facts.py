"""What Nomad tells about itself and its nodes, in as few words as the checks need."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from control.errors import NotFoundError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from control.cli.asking import Server
    from control.settings import Settings

NANOSECONDS = 1_000_000_000
# What Nomad takes for settings that are not there.
DEFAULT_MIN_TTL, DEFAULT_GRACE, DEFAULT_FAILOVER_TTL = 10.0, 10.0, 300.0


@dataclass(frozen=True, slots=True)
class Heartbeats:
    """When a Nomad server takes a node for dead, in seconds."""

    min_ttl: float = DEFAULT_MIN_TTL
    grace: float = DEFAULT_GRACE
    failover_ttl: float = DEFAULT_FAILOVER_TTL


@dataclass(frozen=True, slots=True)
class NomadFacts:
    """``heartbeats`` is None if what was asked is no server."""

    leader: str
    version: str
    oversubscription: bool
    heartbeats: Heartbeats | None


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """One node as Nomad knows it.

    Attributes:
        volume: path of the host volume ``yurt``, "" if it has none.
        clock_seconds: how far its clock is ahead of ours, None if it was not told.
        ports: first and last port for allocations.
    """

    name: str
    is_ready: bool
    is_cordoned: bool
    version: str
    has_raw_exec: bool
    volume: str
    meta: Mapping[str, str] = field(default_factory=dict)
    ports: tuple[int, int] = (20000, 32000)
    clock_seconds: float | None = None


def read_nomad(nomad: Server) -> NomadFacts:
    """Ask a Nomad agent about itself and its region.

    Raises:
        UnavailableError: it does not answer, or there is no leader.
    """
    leader = str(nomad.get("/v1/status/leader") or "")
    about = nomad.get("/v1/agent/self")["config"]
    scheduling = nomad.get("/v1/operator/scheduler/configuration")["SchedulerConfig"]
    return NomadFacts(
        leader=leader,
        version=str(about["Version"]["Version"]),
        oversubscription=bool(scheduling["MemoryOversubscriptionEnabled"]),
        heartbeats=_heartbeats(about.get("Server") or {}),
    )


def _heartbeats(server: Mapping[str, Any]) -> Heartbeats | None:
    if not server.get("Enabled"):
        return None

    def seconds(name: str, default: float) -> float:
        return (server.get(name) or 0) / NANOSECONDS or default

    return Heartbeats(
        seconds("MinHeartbeatTTL", DEFAULT_MIN_TTL),
        seconds("HeartbeatGrace", DEFAULT_GRACE),
        seconds("FailoverHeartbeatTTL", DEFAULT_FAILOVER_TTL),
    )


def read_nodes(nomad: Server, settings: Settings) -> list[NodeFacts]:
    """Ask Nomad about every node that sandboxes may be placed on.

    Raises:
        UnavailableError: it does not answer; the list would not be complete.
    """
    listed = nomad.get("/v1/nodes")
    return [
        _node(nomad, node)
        for node in sorted(listed, key=lambda node: str(node["Name"]))
        if node["NodePool"] == settings.node_pool and settings.node_class in {"", node["NodeClass"]}
    ]


def _node(nomad: Server, listed: Mapping[str, Any]) -> NodeFacts:
    node_id, is_ready = listed["ID"], listed["Status"] == "ready"
    return node_from(nomad.get(f"/v1/node/{node_id}"), _clock(nomad, node_id) if is_ready else None)


def node_from(node: Mapping[str, Any], clock_seconds: float | None = None) -> NodeFacts:
    """Read what Nomad's API has of a node."""
    volume = (node.get("HostVolumes") or {}).get("yurt") or {}
    raw_exec = (node.get("Drivers") or {}).get("raw_exec") or {}
    resources = node.get("NodeResources") or {}
    return NodeFacts(
        name=node["Name"],
        is_ready=node["Status"] == "ready",
        is_cordoned=node["SchedulingEligibility"] != "eligible",
        version=(node.get("Attributes") or {}).get("nomad.version", ""),
        has_raw_exec=bool(raw_exec.get("Healthy")),
        volume="" if volume.get("ReadOnly") else volume.get("Path", ""),
        meta={k: v for k, v in (node.get("Meta") or {}).items() if k.startswith("yurt_")},
        ports=(resources.get("MinDynamicPort", 20000), resources.get("MaxDynamicPort", 32000)),
        clock_seconds=clock_seconds,
    )


def _clock(nomad: Server, node_id: str) -> float | None:
    """Tell how far a node's clock is ahead; its figures may be a second old."""
    try:
        told = nomad.get("/v1/client/stats", node_id=node_id)["Timestamp"]
    except (UnavailableError, NotFoundError):
        return None
    return float(told) / NANOSECONDS - time.time()
