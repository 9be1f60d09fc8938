"""The servers' half of the Nomad double: what is stored, its indexes, its events, and evaluations.

Every change is one entry with one index, as in Nomad's log. It knows nothing of HTTP; what clients
do with an allocation is told by ``NomadClients``, which this calls when a plan concerns a node.
"""

from __future__ import annotations

import copy
import threading
import uuid
from collections import deque
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tests.support import nomad_forms as forms
from tests.support.nomad_log import Clockwork, Entry
from tests.support.nomad_placement import CLIENT_TERMINAL, Candidate, Place, Spec, place

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

Json = dict[str, Any]
_PLACEMENT_SECONDS = 0.02
_NOT_NEEDED = "alloc not needed due to job update"
_UPDATED = "alloc is being updated due to job update"
_LOST = "alloc is lost since its node is down"
_UNKNOWN = "alloc is unknown since its node is disconnected"


class NomadState:
    """What the servers hold. Whoever reads or writes it holds ``changed``."""

    def __init__(self, event_buffer: int, never_places: Callable[[], bool]) -> None:
        self.changed = threading.Condition(threading.RLock())
        self.clockwork = Clockwork()
        self.index = 8
        self.tables = dict.fromkeys(("jobs", "allocs", "evals", "nodes"), 0)
        self.jobs: dict[tuple[str, str], Json] = {}
        self.evaluations: dict[str, Json] = {}
        self.allocations: dict[str, Json] = {}
        self.nodes: dict[str, Json] = {}
        self.specs: dict[str, Spec] = {}
        self.ring: deque[tuple[int, list[Json]]] = deque(maxlen=event_buffer)
        self.wake_client: Callable[[str], None] = lambda _: None
        self._never_places = never_places

    # -- reading -----------------------------------------------------------------------------

    def of_job(self, key: tuple[str, str], records: dict[str, Json]) -> list[Json]:
        return [r for r in records.values() if (r["Namespace"], r["JobID"]) == key]

    def on_node(self, node_id: str) -> list[Json]:
        return [a for a in self.allocations.values() if a["NodeID"] == node_id]

    def summary(self, job: Json) -> Json:
        key = (job["Namespace"], job["ID"])
        blocked = [e for e in self.of_job(key, self.evaluations) if e["Status"] == "blocked"]
        return forms.summary(job, self.of_job(key, self.allocations), len(blocked))

    # -- writing -----------------------------------------------------------------------------

    @contextmanager
    def write(self, kind: str) -> Iterator[Entry]:
        with self.changed:
            self.index += 1
            entry = Entry(self.index, self.tables, kind)
            yield entry
            for key in sorted(entry.job_keys & self.jobs.keys()):
                job = self.jobs[key]
                if (status := self._status(job)) != job["Status"]:
                    job["Status"] = status
                    entry.job(job)
            self.ring.append((entry.index, entry.events()))
            self.changed.notify_all()

    def _status(self, job: Json) -> str:
        key = (job["Namespace"], job["ID"])
        if any(not is_terminal(a) for a in self.of_job(key, self.allocations)):
            return "running"
        open_states = {"pending", "blocked"}
        is_open = any(e["Status"] in open_states for e in self.of_job(key, self.evaluations))
        return "pending" if is_open else "dead"

    def register(self, given: Json) -> tuple[Json, int]:
        """Store a canonical job; return its evaluation and the index that the answer tells."""
        key = (given["Namespace"], given["ID"])
        with self.write("JobRegistered") as entry:
            stored = self.jobs.get(key)
            if stored is not None and not _differs(stored, given):
                answered = stored["ModifyIndex"]
            else:
                answered = entry.index
                first = entry.index if stored is None else stored["CreateIndex"]
                version = 0 if stored is None else stored["Version"] + 1
                status = "pending" if stored is None else stored["Status"]
                stored = given | {"CreateIndex": first, "Version": version, "Status": status}
                stored |= {"JobModifyIndex": entry.index, "SubmitTime": forms.now_ns()}
                self.jobs[key] = stored
                entry.job(stored)
            evaluation = self._evaluation(stored, "job-register", JobModifyIndex=entry.index)
            entry.evaluation(evaluation)
        self._queue(evaluation)
        return evaluation, answered

    def deregister(self, key: tuple[str, str], *, purge: bool) -> Json | None:
        """Stop a job, or forget it with its allocations while its tasks may still run."""
        with self.changed:
            if (job := self.jobs.get(key)) is None:
                return None
            nodes = {a["NodeID"] for a in self.of_job(key, self.allocations)}
            with self.write("JobDeregistered") as entry:
                job |= {"Stop": True, "Version": job["Version"] + 1}
                job["JobModifyIndex"] = entry.index
                if purge:
                    self._purge(key, job)
                entry.job(job, is_deleted=purge)
                evaluation = self._evaluation(
                    job, "job-deregister", Type="service", JobModifyIndex=entry.index
                )
                entry.evaluation(evaluation)
        self._queue(evaluation)
        for node_id in nodes:
            self.wake_client(node_id)
        return evaluation

    def _purge(self, key: tuple[str, str], job: Json) -> None:
        for allocation in self.of_job(key, self.allocations):
            del self.allocations[allocation["ID"]]
            self.tables["allocs"] = self.index
        del self.jobs[key]
        job["Status"] = "dead"

    def _evaluation(self, job: Json, trigger: str, **more: Any) -> Json:
        evaluation = {
            "CreateIndex": self.index,
            "CreateTime": forms.now_ns(),
            "ID": str(uuid.uuid4()),
            "JobID": job["ID"],
            "Namespace": job["Namespace"],
            "Priority": job["Priority"],
            "Status": "pending",
            "TriggeredBy": trigger,
            "Type": job["Type"],
        } | more
        self.evaluations[str(evaluation["ID"])] = evaluation
        return evaluation

    # -- scheduling --------------------------------------------------------------------------

    def _queue(self, evaluation: Json) -> None:
        self.clockwork.later(_PLACEMENT_SECONDS, lambda: self._process(evaluation))

    def _process(self, evaluation: Json) -> None:
        if self._never_places():
            self._queue(evaluation)
            return
        with self.changed:
            if evaluation["Status"] not in {"pending", "blocked"}:
                return
            evaluation["SnapshotIndex"] = self.index
            key = (evaluation["Namespace"], evaluation["JobID"])
            job = self.jobs.get(key)
            if job is None or job["Stop"]:
                self._stop(evaluation, job)
                return
            for group in job["TaskGroups"]:
                self._reconcile(evaluation, job, group)

    def _stop(self, evaluation: Json, job: Json | None) -> None:
        key = (evaluation["Namespace"], evaluation["JobID"])
        live = [a for a in self.of_job(key, self.allocations) if not is_terminal(a)]
        self._plan(evaluation, [(allocation, _NOT_NEEDED) for allocation in live])
        with self.write("EvaluationUpdated") as entry:
            for other in self.of_job(key, self.evaluations):
                if other["Status"] == "blocked":
                    other["Status"] = "canceled"
                    other["StatusDescription"] = f'evaluation "{evaluation["ID"]}" successful'
                    entry.evaluation(other)
            if job is not None:
                queued = {group["Name"]: 0 for group in job["TaskGroups"]}
                evaluation["QueuedAllocations"] = queued
            evaluation["Status"] = "complete"
            entry.evaluation(evaluation)

    def _reconcile(self, evaluation: Json, job: Json, group: Json) -> None:
        mine = self.of_job((job["Namespace"], job["ID"]), self.allocations)
        current = [a for a in mine if a["JobVersion"] == job["Version"]]
        old = [a for a in mine if a["JobVersion"] != job["Version"] and not is_terminal(a)]
        if any(_counts(allocation, group) for allocation in current):
            self._plan(evaluation, [(a, _UPDATED) for a in old])
            self._complete(evaluation, group, 0)
            return
        found, metrics = place(job, group, self._ready(without=old))
        if found is None:
            self._plan(evaluation, [(a, _UPDATED) for a in old])
            self._block(evaluation, job, group, metrics.json())
            return
        allocation = self._allocate(evaluation, job, group, found)
        allocation["Metrics"] = metrics.json()
        self._plan(evaluation, [(a, _UPDATED) for a in old], allocation)
        self._complete(evaluation, group, 0)

    def _ready(self, without: list[Json]) -> list[Candidate]:
        return [
            Candidate(
                node_id,
                self.specs[node_id],
                [
                    allocation
                    for allocation in self.on_node(node_id)
                    if allocation["ClientStatus"] not in CLIENT_TERMINAL
                    and allocation not in without
                ],
            )
            for node_id, node in self.nodes.items()
            if node["Status"] == "ready" and node["SchedulingEligibility"] == "eligible"
        ]

    def _plan(
        self, evaluation: Json, stops: list[tuple[Json, str]], start: Json | None = None
    ) -> None:
        if not stops and start is None:
            return
        with self.write("PlanResult") as entry:
            entry.evaluation(evaluation)
            for allocation, reason in stops:
                allocation |= {"DesiredStatus": "stop", "DesiredDescription": reason}
                allocation["AllocModifyIndex"] = entry.index
                entry.allocation(allocation)
            if start is not None:
                start |= {"CreateIndex": entry.index, "AllocModifyIndex": entry.index}
                self.allocations[start["ID"]] = start
                entry.allocation(start)
        touched = [allocation for allocation, _ in stops] + ([start] if start else [])
        for node_id in {allocation["NodeID"] for allocation in touched}:
            self.wake_client(node_id)

    def _complete(self, evaluation: Json, group: Json, queued: int) -> None:
        with self.write("EvaluationUpdated") as entry:
            if evaluation["Status"] == "blocked":
                evaluation.pop("FailedTGAllocs", None)
                evaluation.pop("StatusDescription", None)
            evaluation["QueuedAllocations"] = {group["Name"]: queued}
            evaluation["Status"] = "complete"
            entry.evaluation(evaluation)

    def _block(self, evaluation: Json, job: Json, group: Json, metrics: Json) -> None:
        failed = {group["Name"]: metrics}
        if evaluation["Status"] == "blocked":
            evaluation["FailedTGAllocs"] = failed
            return
        with self.write("EvaluationUpdated") as entry:
            for other in self.of_job((job["Namespace"], job["ID"]), self.evaluations):
                if other["Status"] == "blocked":
                    other["Status"] = "canceled"
                    entry.evaluation(other)
            blocked = self._evaluation(
                job,
                "queued-allocs",
                FailedTGAllocs=failed,
                JobModifyIndex=job["JobModifyIndex"],
                PreviousEval=evaluation["ID"],
                SnapshotIndex=evaluation["SnapshotIndex"],
                Status="blocked",
                StatusDescription="created to place remaining allocations",
            )
            entry.evaluation(blocked)
        evaluation |= {"BlockedEval": blocked["ID"], "FailedTGAllocs": failed}
        self._complete(evaluation, group, 1)

    def unblock(self) -> None:
        """Look again at what found no room; a purge does not do this, just as in Nomad."""
        with self.changed:
            for evaluation in self.evaluations.values():
                if evaluation["Status"] == "blocked":
                    self._queue(evaluation)

    def _allocate(self, evaluation: Json, job: Json, group: Json, found: Place) -> Json:
        labels = [
            port["Label"]
            for network in group["Networks"] or ()
            for port in network["DynamicPorts"] or ()
        ]
        ports = [
            {"HostIP": found.address, "Label": label, "Value": value}
            for label, value in zip(labels, found.ports, strict=True)
        ]
        dynamic = [
            {"HostNetwork": "default", "Label": port["Label"], "Value": port["Value"]}
            for port in ports
        ]
        network = {"DynamicPorts": dynamic, "IP": found.address, "Mode": "host"}
        tasks = {
            task["Name"]: {
                "Cpu": {"CpuShares": task["Resources"]["CPU"]},
                "Memory": {"MemoryMB": task["Resources"]["MemoryMB"], "MemoryMaxMB": 0},
            }
            for task in group["Tasks"]
        }
        shared = {"Networks": [network] if ports else None, "Ports": ports or None}
        return {
            "AllocatedResources": {"Shared": shared, "Tasks": tasks},
            "ClientDescription": "",
            "ClientStatus": "pending",
            "CreateTime": forms.now_ns(),
            "DesiredDescription": "",
            "DesiredStatus": "run",
            "EvalID": evaluation["ID"],
            "FollowupEvalID": "",
            "ID": str(uuid.uuid4()),
            "Job": copy.deepcopy(job),
            "JobID": job["ID"],
            "JobType": job["Type"],
            "JobVersion": job["Version"],
            "Name": f"{job['ID']}.{group['Name']}[0]",
            "Namespace": job["Namespace"],
            "NextAllocation": "",
            "NodeID": found.candidate.node_id,
            "NodeName": found.candidate.spec.name,
            "TaskGroup": group["Name"],
            "TaskStates": None,
        }

    # -- nodes -------------------------------------------------------------------------------

    def set_node(self, node_id: str, **changes: Any) -> int:
        """Change a node; return the index of that."""
        with self.write("NodeStreamEvent") as entry:
            node = self.nodes[node_id]
            node |= changes
            entry.node(node)
            return entry.index

    def miss(self, node_id: str) -> None:
        """Do what servers do when a node's heartbeat is overdue."""
        with self.changed:
            here = [a for a in self.on_node(node_id) if a["ClientStatus"] not in CLIENT_TERMINAL]
            waiting = [a for a in here if _lost_after(a) and a["DesiredStatus"] == "run"]
            self.set_node(node_id, Status="disconnected" if waiting else "down")
            for allocation in here:
                self._miss_allocation(allocation)

    def _miss_allocation(self, allocation: Json) -> None:
        job = self.jobs[allocation["Namespace"], allocation["JobID"]]
        node_id = allocation["NodeID"]
        with self.write("EvaluationUpdated") as entry:
            evaluation = self._evaluation(job, "node-update", NodeID=node_id)
            entry.evaluation(evaluation)
        limit = _lost_after(allocation)
        if not limit or allocation["DesiredStatus"] != "run":
            self.lose(allocation, evaluation)
            return
        with self.write("EvaluationUpdated") as entry:
            later = self._evaluation(
                job,
                "max-disconnect-timeout",
                PreviousEval=evaluation["ID"],
                StatusDescription="created for delayed disconnect timeout",
            )
            evaluation["NextEval"] = later["ID"]
            entry.evaluation(later)
        with self.write("PlanResult") as entry:
            entry.evaluation(evaluation)
            allocation |= {"ClientStatus": "unknown", "ClientDescription": _UNKNOWN}
            allocation["FollowupEvalID"] = later["ID"]
            note_state(allocation)
            entry.allocation(allocation)
        with self.write("EvaluationUpdated") as entry:
            evaluation["Status"] = "complete"
            entry.evaluation(evaluation)
        self.clockwork.later(limit, lambda: self._give_up(allocation, later))

    def _give_up(self, allocation: Json, evaluation: Json) -> None:
        with self.changed:
            if evaluation["Status"] == "pending" and allocation["ClientStatus"] == "unknown":
                self.lose(allocation, evaluation)
                self.set_node(allocation["NodeID"], Status="down")

    def lose(self, allocation: Json, evaluation: Json) -> None:
        """Give an allocation up; whether it is replaced is for its group to say."""
        with self.write("PlanResult") as entry:
            reason = allocation["DesiredDescription"] or _LOST
            allocation |= {"DesiredStatus": "stop", "DesiredDescription": reason}
            allocation["ClientStatus"] = "lost"
            entry.allocation(allocation)
        self._queue(evaluation)

    def reconnected(self, allocation: Json, entry: Entry) -> None:
        """Forget that an allocation was out of sight."""
        note_state(allocation)
        later = self.evaluations.get(allocation["FollowupEvalID"])
        if later is not None and later["Status"] == "pending":
            later["Status"] = "canceled"
            entry.evaluation(later)
        allocation["FollowupEvalID"] = ""


def note_state(allocation: Json) -> None:
    state = {"Field": 0, "Time": forms.now_text(), "Value": allocation["ClientStatus"]}
    allocation.setdefault("AllocStates", []).append(state)


def is_terminal(allocation: Json) -> bool:
    """Tell whether Nomad takes an allocation for over: its client may be of another opinion."""
    return allocation["DesiredStatus"] == "stop" or allocation["ClientStatus"] in CLIENT_TERMINAL


def group_of(allocation: Json) -> Json:
    groups: Iterable[Json] = allocation["Job"]["TaskGroups"]
    return next(group for group in groups if group["Name"] == allocation["TaskGroup"])


def _counts(allocation: Json, group: Json) -> bool:
    """Tell whether a batch job's group has had this allocation and needs no other."""
    if allocation["ClientStatus"] == "lost":
        return not (group["Disconnect"] or {"Replace": True})["Replace"]
    return bool(allocation["DesiredStatus"] == "run")


def _lost_after(allocation: Json) -> float:
    return ((group_of(allocation)["Disconnect"] or {}).get("LostAfter") or 0) / 1e9


def _differs(stored: Json, given: Json) -> bool:
    own = {"CreateIndex", "JobModifyIndex", "ModifyIndex", "Status", "SubmitTime", "Version"}
    return any(stored.get(key) != given[key] for key in given if key not in own)
