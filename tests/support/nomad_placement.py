"""Which node of the Nomad double takes a group, and how Nomad says that none does.

Pure: dictionaries in Nomad's JSON form go in, a place or the reasons come out. It knows nothing of
HTTP, of time, or of what is already decided.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

Json = dict[str, Any]

CLIENT_TERMINAL = frozenset({"complete", "failed", "lost"})
_NO_PORT = "network: dynamic port selection failed"


@dataclass(frozen=True, slots=True)
class Spec:
    """What a node of the double has."""

    name: str
    memory_mib: int
    cpu_mhz: int
    ports: tuple[int, int]
    addresses: tuple[str, ...]
    volumes: tuple[str, ...]
    meta: dict[str, str]
    node_class: str
    pool: str
    datacenter: str

    def computed_class(self) -> str:
        """Name what nodes have in common that Nomad looks at once for all of them."""
        meta = sorted((k, v) for k, v in self.meta.items() if not k.startswith("unique."))
        return repr((self.datacenter, self.pool, self.node_class, meta))


@dataclass(slots=True)
class Candidate:
    """A node that is ready, and the allocations that Nomad still counts there."""

    node_id: str
    spec: Spec
    allocations: list[Json]

    def used(self, what: str, unit: str) -> int:
        return sum(
            task[what][unit]
            for allocation in self.allocations
            for task in allocation["AllocatedResources"]["Tasks"].values()
        )

    def free_ports(self, wanted: int) -> tuple[str, list[int]] | None:
        """Take the lowest free ports of the first address with enough: a freed one at once."""
        first, last = self.spec.ports
        for address in self.spec.addresses:
            used = {
                port["Value"]
                for allocation in self.allocations
                for port in allocation["AllocatedResources"]["Shared"]["Ports"] or ()
                if port["HostIP"] == address
            }
            free = [port for port in range(first, last + 1) if port not in used]
            if len(free) >= wanted:
                return address, free[:wanted]
        return None


@dataclass(slots=True)
class Place:
    """Where a group goes, and what it gets there."""

    candidate: Candidate
    address: str
    ports: list[int]
    score: float


@dataclass(slots=True)
class Metrics:
    """What Nomad tells of one search; the same for one that found a place."""

    pool: str
    in_pool: dict[str, int]
    evaluated: int = 0
    filtered: int = 0
    exhausted: int = 0
    constraints: dict[str, int] = field(default_factory=dict)
    dimensions: dict[str, int] = field(default_factory=dict)
    classes_filtered: dict[str, int] = field(default_factory=dict)
    classes_exhausted: dict[str, int] = field(default_factory=dict)

    def filter(self, spec: Spec, reason: str) -> None:
        self.filtered += 1
        _count(self.constraints, reason)
        _count(self.classes_filtered, spec.node_class)

    def exhaust(self, spec: Spec, dimension: str) -> None:
        self.exhausted += 1
        _count(self.dimensions, dimension)
        _count(self.classes_exhausted, spec.node_class)

    def json(self) -> Json:
        return {
            "AllocationTime": 20000,
            "ClassExhausted": self.classes_exhausted or None,
            "ClassFiltered": self.classes_filtered or None,
            "CoalescedFailures": 0,
            "ConstraintFiltered": self.constraints or None,
            "DimensionExhausted": self.dimensions or None,
            "NodePool": self.pool,
            "NodesAvailable": self.in_pool,
            "NodesEvaluated": self.evaluated,
            "NodesExhausted": self.exhausted,
            "NodesFiltered": self.filtered,
            "NodesInPool": sum(self.in_pool.values()),
            "QuotaExhausted": None,
            "ResourcesExhausted": None,
            "ScoreMetaData": None,
            "Scores": None,
        }


def place(job: Json, group: Json, ready: Sequence[Candidate]) -> tuple[Place | None, Metrics]:
    """Find the fullest node that takes the group, as Nomad's bin packing prefers."""
    nodes = [node for node in ready if _is_reachable_for(job, node.spec)]
    in_pool: dict[str, int] = {}
    for node in nodes:
        _count(in_pool, node.spec.datacenter)
    metrics = Metrics(job["NodePool"], in_pool)
    constraints = _constraints(job, group)
    escaped = any(_is_escaped(constraint) for constraint in constraints)
    ineligible: set[str] = set()
    places = []
    for node in nodes:
        metrics.evaluated += 1
        kind = node.spec.computed_class()
        if kind in ineligible and not escaped:
            metrics.filter(node.spec, "computed class ineligible")
        elif reason := _unmet(node, constraints):
            ineligible.add(kind)
            metrics.filter(node.spec, reason)
        elif not _has_volumes(node.spec, group):
            metrics.filter(node.spec, "missing compatible host volumes")
        elif isinstance(found := _fit(node, group), Place):
            places.append(found)
        else:
            metrics.exhaust(node.spec, found)
    return max(places, key=lambda found: found.score, default=None), metrics


def _is_reachable_for(job: Json, spec: Spec) -> bool:
    where = job["Datacenters"] or ["*"]
    in_datacenter = "*" in where or spec.datacenter in where
    return in_datacenter and job["NodePool"] in {"all", spec.pool}


def _constraints(job: Json, group: Json) -> list[Json]:
    tasks = [constraint for task in group["Tasks"] for constraint in task["Constraints"] or ()]
    return [*(job["Constraints"] or ()), *(group["Constraints"] or ()), *tasks]


def _is_escaped(constraint: Json) -> bool:
    sides = (constraint.get("LTarget", ""), constraint.get("RTarget", ""))
    return any(side.startswith(("${node.unique.", "${meta.unique.")) for side in sides)


def _unmet(node: Candidate, constraints: Iterable[Json]) -> str:
    for constraint in constraints:
        left, right = constraint["LTarget"], constraint.get("RTarget", "")
        operand = constraint.get("Operand") or "="
        if not _is_met(_value(node, left), operand, _value(node, right)):
            return f"{left} {operand} {right}"
    return ""


def _is_met(left: str | None, operand: str, right: str | None) -> bool:
    match operand:
        case "=" | "==" | "is":
            return left is not None and left == right
        case "!=" | "not":
            return left != right
        case "is_set":
            return left is not None
        case "is_not_set":
            return left is None
        case _:
            raise NotImplementedError(f"the double knows no constraint operand {operand!r}")


def _value(node: Candidate, target: str) -> str | None:
    if not (target.startswith("${") and target.endswith("}")):
        return target
    name = target[2:-1]
    known = {
        "node.unique.name": node.spec.name,
        "node.unique.id": node.node_id,
        "node.class": node.spec.node_class,
        "node.pool": node.spec.pool,
        "node.datacenter": node.spec.datacenter,
    }
    return node.spec.meta.get(name[5:]) if name.startswith("meta.") else known.get(name)


def _has_volumes(spec: Spec, group: Json) -> bool:
    wanted = (group["Volumes"] or {}).values()
    return all(volume["Source"] in spec.volumes for volume in wanted if volume["Type"] == "host")


def _fit(node: Candidate, group: Json) -> Place | str:
    networks = group["Networks"] or [{}]
    ports = node.free_ports(len(networks[0].get("DynamicPorts") or ()))
    if ports is None:
        return _NO_PORT
    wanted = [task["Resources"] for task in group["Tasks"]]
    cpu = node.used("Cpu", "CpuShares") + sum(task["CPU"] for task in wanted)
    memory = node.used("Memory", "MemoryMB") + sum(task["MemoryMB"] for task in wanted)
    if cpu > node.spec.cpu_mhz:
        return "cpu"
    if memory > node.spec.memory_mib:
        return "memory"
    return Place(node, *ports, score=memory / node.spec.memory_mib)


def _count(counts: dict[str, int], key: str) -> None:
    if key:
        counts[key] = counts.get(key, 0) + 1
