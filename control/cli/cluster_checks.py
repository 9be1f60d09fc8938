"""What Yurt needs of a cluster: each need with what was found and what to do about it. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from control.cli.checks import Check, Verdict, version_of

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from control.cli.cluster_facts import Heartbeats, NodeFacts, NomadFacts

NOMAD = (2, 0)
NOMAD_GOOD = (2, 0, 5)
# "node unreachable" is to be said within half a minute.
_LOST_SECONDS = 30.0
_CLOCK_SECONDS = 5.0
_META = ("yurt_data", "yurt_python")


def nomad_checks(facts: NomadFacts) -> Iterator[Check]:
    """Judge Nomad's servers."""
    yield _leader("Nomad leader", facts.leader)
    yield nomad_version(facts.version)
    yield heartbeats(facts.heartbeats)
    if facts.oversubscription:
        yield Check("memory oversubscription", Verdict.OK, "on")
    else:
        advice = (
            "sandboxes are held to what they reserve: `nomad operator scheduler set-config "
            "-memory-oversubscription=true`"
        )
        yield Check("memory oversubscription", Verdict.FAIL, "off", advice)


def consul_leader(leader: str) -> Check:
    """Without a leader no route can be made."""
    return _leader("Consul leader", leader)


def _leader(name: str, leader: str) -> Check:
    if leader:
        return Check(name, Verdict.OK, leader)
    return Check(name, Verdict.FAIL, "none", "start a majority of its servers; see their logs")


def nomad_version(version: str) -> Check:
    """Older ones lack what sandboxes need, or have known faults."""
    found = version_of(version)
    if found < NOMAD:
        return Check("Nomad version", Verdict.FAIL, version or "unknown", "needs 2.0 or newer")
    if found < NOMAD_GOOD:
        floor = ".".join(map(str, NOMAD_GOOD))
        return Check("Nomad version", Verdict.WARN, version, f"{floor} mends known faults")
    return Check("Nomad version", Verdict.OK, version)


def heartbeats(found: Heartbeats | None) -> Check:
    """A dead node is to be known as such soon, also when the leader died with it."""
    name = "heartbeats"
    if found is None:
        advice = "set YURT_NOMAD_URL to a server to have this looked at"
        return Check(name, Verdict.WARN, "what was asked is no server", advice)
    text = (
        f"min_heartbeat_ttl {found.min_ttl:.0f} s, heartbeat_grace {found.grace:.0f} s, "
        f"failover_heartbeat_ttl {found.failover_ttl:.0f} s"
    )
    # A time to live is drawn between the least and twice that.
    if 2 * found.min_ttl + found.grace > _LOST_SECONDS:
        advice = "dead nodes are noticed late: min_heartbeat_ttl 10s, heartbeat_grace 5s"
        return Check(name, Verdict.WARN, text, advice)
    if found.failover_ttl > _LOST_SECONDS:
        advice = "a node that dies with the leader is missed that late: failover_heartbeat_ttl 30s"
        return Check(name, Verdict.WARN, text, advice)
    return Check(name, Verdict.OK, text)


def node_list(nodes: Sequence[NodeFacts], keys: Collection[str]) -> Iterator[Check]:
    """Judge every node, and that each has a key; ``keys`` are the nodes that do."""
    able = [node for node in nodes if node.is_ready and not node.is_cordoned]
    advice = "" if able else "start Nomad on one, in the pool and class that the settings name"
    verdict = Verdict.OK if able else Verdict.FAIL
    yield Check("nodes", verdict, f"{len(able)} of {len(nodes)} take sandboxes", advice)
    for node in nodes:
        yield _node(node, has_key=node.name in keys)
    for name in sorted(set(keys) - {node.name for node in nodes}):
        advice = f"start Nomad there; `yurt nodes remove {name}` if it is gone for good"
        yield Check(f"node {name}", Verdict.WARN, "has a key, but Nomad has no such node", advice)


def _node(node: NodeFacts, *, has_key: bool) -> Check:
    name = f"node {node.name}"
    if not node.is_ready:
        return Check(name, Verdict.WARN, "down", "see Nomad's log there; its sandboxes may run on")
    faults = [*node_faults(node)]
    if not has_key:
        faults.append(("no key", f"`yurt nodes add {node.name}`"))
    if faults:
        found, advice = zip(*faults, strict=True)
        return Check(name, Verdict.FAIL, "; ".join(found), "; ".join(advice))
    found_text = f"ready, Nomad {node.version}" + (", cordoned" if node.is_cordoned else "")
    if node.clock_seconds is not None and abs(node.clock_seconds) > _CLOCK_SECONDS:
        text = f"its clock differs by {abs(node.clock_seconds):.0f} s from the one here"
        return Check(name, Verdict.WARN, text, "keep clocks by NTP on all machines")
    return Check(name, Verdict.OK, found_text)


def node_faults(node: NodeFacts) -> Iterator[tuple[str, str]]:
    """Tell what Nomad's client lacks for sandboxes, each with what to do."""
    for name in _META:
        if not node.meta.get(name):
            yield f"no meta {name}", f"set {name} in `client {{ meta }}`"
    data = node.meta.get("yurt_data", "")
    if not node.volume:
        yield "no writable host volume yurt", 'add `host_volume` "yurt" with path <data>/disks'
    elif data and node.volume.rstrip("/") != f"{data.rstrip('/')}/disks":
        yield f"host volume yurt is {node.volume}", f"its path must be {data}/disks"
    if not node.has_raw_exec:
        yield "no raw_exec", 'enable it: `plugin "raw_exec" { config { enabled = true } }`'


def registry_snapshot(name: str, image_id: str, *, is_there: bool) -> Check:
    """A node that has never seen a snapshot fetches it from there."""
    if is_there:
        return Check(f"snapshot {name}", Verdict.OK, f"in the registry ({image_id[:12]})")
    advice = f"`yurt snapshot publish {name}` where its image is"
    return Check(f"snapshot {name}", Verdict.FAIL, "not in the registry", advice)
