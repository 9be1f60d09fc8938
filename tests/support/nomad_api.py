"""What the Nomad double answers: which path, which status and text, and when a query may wait.

Statuses and texts are Nomad's own, odd ones too: most failures are a plain 500, and a file that is
not there is a 200 with the reason in place of the file.
"""

from __future__ import annotations

import copy
import json
import re
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from tests.support import nomad_forms as forms
from tests.support.nomad_filter import FilterError, matching

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.nomad_clients import NomadClients
    from tests.support.nomad_state import NomadState

Json = dict[str, Any]
_ZEROS = {"Index": 0, "KnownLeader": False, "LastContact": 0, "NextToken": ""}
_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@dataclass
class Faults:
    """What goes wrong, from now until it is switched off again.

    ``status`` answers every request whose method and path fit; ``times`` counts such answers down.
    """

    never_places: bool = False
    loses_events: bool = False
    no_leader: bool = False
    cuts_lists: bool = False
    loses_answers: bool = False
    slow_seconds: float = 0.0
    driver_error: str = ""
    status: int = 0
    text: str = "rpc error: the double was told to fail"
    method: str = ""
    path: str = ""
    times: int | None = None
    streams: int = field(default=0, repr=False)

    def cut_event_streams(self) -> None:
        """End the streams that are open now."""
        self.streams += 1

    def clear(self) -> None:
        self.__dict__.update(Faults(streams=self.streams).__dict__)

    def concerns(self, method: str, path: str) -> bool:
        fits = self.method in {"", method} and self.path in path
        if not fits or self.times == 0:
            return False
        if self.times is not None and (self.status or self.loses_answers):
            self.times -= 1
        return True


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer; ``value`` is sent as JSON unless it is text or bytes."""

    status: int
    value: Any
    index: int | None = None
    is_query: bool = False
    next_token: str = ""
    is_json: bool = True

    def body(self) -> bytes:
        return json.dumps(self.value).encode() if self.is_json else self.value.encode()


def text(status: int, words: str) -> Answer:
    return Answer(status, words, is_json=False)


@dataclass(frozen=True, slots=True)
class Found:
    """What a read sees, and the index that wakes whoever waits for a change of it."""

    index: int
    value: Any
    status: int = 200

    def is_text(self) -> bool:
        return self.status != 200


@dataclass(frozen=True, slots=True)
class Request:
    method: str
    path: str
    query: dict[str, str]
    topics: list[str]
    body: Json
    token: str

    def asks(self, name: str, default: str = "") -> bool:
        return self.query.get(name, default).lower() in {"1", "true"}


class NomadApi:
    """Answers requests out of a state."""

    def __init__(
        self, state: NomadState, clients: NomadClients, faults: Faults, token: str, region: str
    ) -> None:
        self.state, self.clients, self.faults = state, clients, faults
        self.region = region
        self.is_open = True
        self._token = token
        self.pools = {"default", "all"}
        self._reads: list[tuple[str, Callable[[Request, str], Found]]] = [
            (r"jobs", self._jobs),
            (r"job/([^/]+)", self._job),
            (r"job/([^/]+)/allocations", self._job_allocations),
            (r"job/([^/]+)/evaluations", self._job_evaluations),
            (r"evaluation/([^/]+)", self._evaluation),
            (r"allocations", self._allocations),
            (r"allocation/([^/]+)", self._allocation),
            (r"nodes", self._nodes),
            (r"node/([^/]+)", self._node),
        ]
        self._others: list[tuple[str, str, Callable[[Request, str], Answer]]] = [
            ("GET", r"status/leader", self._leader),
            ("GET", r"agent/self", self._self),
            ("GET", r"client/fs/cat/([^/]+)", self._file),
            ("PUT", r"jobs", self._register),
            ("PUT", r"job/([^/]+)", self._register),
            ("DELETE", r"job/([^/]+)", self._deregister),
            ("PUT", r"node/([^/]+)/eligibility", self._eligibility),
        ]

    def is_allowed(self, request: Request) -> bool:
        return not self._token or request.token == self._token

    def answer(self, request: Request) -> Answer:
        """Answer one request; it may take as long as the request says it would wait."""
        if (query := self._refusal(request)) is not None:
            return query
        method = "PUT" if request.method == "POST" else request.method
        known = False
        for wanted, pattern, handle in self._others:
            if match := re.fullmatch(f"/v1/{pattern}", request.path):
                known = True
                if wanted == method:
                    return handle(request, unquote(match[1]) if match.groups() else "")
        for pattern, read in self._reads:
            if match := re.fullmatch(f"/v1/{pattern}", request.path):
                if method != "GET":
                    return text(405, "Invalid method")
                return self._query(request, read, unquote(match[1]) if match.groups() else "")
        return text(405, "Invalid method") if known else Answer(404, "", is_json=False)

    def _refusal(self, request: Request) -> Answer | None:
        is_file = request.path.startswith("/v1/client/fs/")
        if request.query.get("region", self.region) != self.region:
            return text(500, "No path to region")
        if self.faults.no_leader and not request.asks("stale"):
            if request.path == "/v1/status/leader":
                return Answer(200, "")
            return text(500, "No cluster leader")
        if request.path == "/v1/status/leader" or self.is_allowed(request):
            return None
        return text(200 if is_file else 403, "Permission denied")

    # -- reads -------------------------------------------------------------------------------

    def _query(self, request: Request, read: Callable[[Request, str], Found], key: str) -> Answer:
        try:
            index = int(request.query.get("index") or 0)
        except ValueError:
            return text(400, "Invalid index")
        try:
            wait = min(forms.seconds(request.query.get("wait") or "5m"), 300.0)
        except ValueError:
            return text(400, "Invalid wait time")
        # Nomad waits up to a sixteenth longer than asked; the double always does.
        end = time.monotonic() + wait * (1 + 1 / 16)
        with self.state.changed:
            try:
                found = read(request, key)
                while index and found.index <= index and self.is_open and time.monotonic() < end:
                    self.state.changed.wait(end - time.monotonic())
                    found = read(request, key)
                return self._page(request, found)
            except FilterError as failure:
                return text(400, str(failure))

    def _page(self, request: Request, found: Found) -> Answer:
        value, after = found.value, ""
        if isinstance(value, list):
            value, after = _paginate(value, request.query)
        if found.status == 500:
            return text(500, str(value))
        return Answer(
            found.status,
            copy.deepcopy(value),
            found.index,
            is_query=True,
            next_token=after,
            is_json=not found.is_text(),
        )

    def _namespaced(self, request: Request, records: list[Json]) -> list[Json]:
        namespace = request.query.get("namespace", "default")
        return [r for r in records if namespace in {"*", r["Namespace"]}]

    def _jobs(self, request: Request, _: str) -> Found:
        prefix = request.query.get("prefix", "")
        jobs = [job for job in self.state.jobs.values() if job["ID"].startswith(prefix)]
        kept = self._filter(request, self._namespaced(request, jobs))
        stubs = [
            forms.job_stub(job, self.state.summary(job), meta=request.asks("meta")) for job in kept
        ]
        return Found(self.state.tables["jobs"], sorted(stubs, key=lambda stub: str(stub["ID"])))

    def _job(self, request: Request, job_id: str) -> Found:
        job = self.state.jobs.get(self._key(request, job_id))
        if job is None:
            return Found(self.state.tables["jobs"], "job not found", 404)
        return Found(job["ModifyIndex"], job)

    def _key(self, request: Request, job_id: str) -> tuple[str, str]:
        return request.query.get("namespace", "default"), job_id

    def _job_allocations(self, request: Request, job_id: str) -> Found:
        key = self._key(request, job_id)
        allocations = self.state.of_job(key, self.state.allocations)
        stubs = [
            forms.allocation_stub(allocation, resources=False, task_states=True)
            for allocation in allocations
        ]
        # The index is that of all allocations; so other jobs' changes may wake who waits here.
        return Found(self.state.tables["allocs"], sorted(stubs, key=lambda stub: str(stub["ID"])))

    def _job_evaluations(self, request: Request, job_id: str) -> Found:
        evaluations = self.state.of_job(self._key(request, job_id), self.state.evaluations)
        return _newest(evaluations, self.state.tables["evals"])

    def _evaluation(self, _: Request, key: str) -> Found:
        return _one(self.state.evaluations, key, "eval", self.state.tables["evals"])

    def _allocations(self, request: Request, _: str) -> Found:
        if reason := _bad_prefix(request.query.get("prefix", "")):
            return Found(0, f"alloc lookup failed: index error: {reason}", 500)
        kept = self._filter(
            request, self._namespaced(request, list(self.state.allocations.values()))
        )
        stubs = [
            forms.allocation_stub(
                allocation,
                resources=request.asks("resources"),
                task_states=request.asks("task_states", "true"),
            )
            for allocation in kept
            if allocation["ID"].startswith(request.query.get("prefix", ""))
        ]
        return Found(self.state.tables["allocs"], sorted(stubs, key=lambda stub: str(stub["ID"])))

    def _allocation(self, _: Request, key: str) -> Found:
        found = _one(self.state.allocations, key, "alloc", self.state.tables["allocs"])
        if found.status != 200:
            return found
        return Found(found.index, forms.whole_allocation(found.value))

    def _nodes(self, request: Request, _: str) -> Found:
        if reason := _bad_prefix(request.query.get("prefix", "")):
            return Found(0, f"node lookup failed: index error: {reason}", 500)
        stubs = [
            forms.node_stub(node, resources=request.asks("resources"))
            for node in self._filter(request, list(self.state.nodes.values()))
            if node["ID"].startswith(request.query.get("prefix", ""))
        ]
        return Found(self.state.tables["nodes"], sorted(stubs, key=lambda stub: str(stub["ID"])))

    def _node(self, _: Request, key: str) -> Found:
        return _one(self.state.nodes, key, "node", self.state.tables["nodes"])

    def _filter(self, request: Request, records: list[Json]) -> list[Json]:
        expression = request.query.get("filter", "")
        return matching(expression, records) if expression else records

    # -- the rest ----------------------------------------------------------------------------

    def _leader(self, _: Request, __: str) -> Answer:
        return Answer(200, "127.0.0.1:4647")

    def _self(self, _: Request, __: str) -> Answer:
        version = {"Version": forms.VERSION, "VersionPrerelease": ""}
        config = {"Datacenter": "dc1", "Region": self.region, "Version": version}
        member = {"Name": f"double.{self.region}", "Tags": {"build": forms.VERSION}}
        return Answer(200, {"config": config, "member": member, "stats": {}})

    def _file(self, request: Request, allocation_id: str) -> Answer:
        task = self.clients.find(allocation_id)
        path = request.query.get("path", "").lstrip("/")
        with self.state.changed:
            if not path:
                return text(200, "must provide a file name")
            if task is None or allocation_id not in self.state.allocations:
                return text(200, f'Unknown allocation "{allocation_id}"')
        if not self.clients.is_reachable(task):
            return text(200, "")
        if path in task.files:
            return text(200, task.files[path].decode())
        return text(200, f"stat /alloc/{allocation_id}/{path}: no such file or directory")

    def _register(self, request: Request, job_id: str) -> Answer:
        given = request.body.get("Job") or {}
        if given.get("ID") is None:
            return text(400, "Job ID hasn't been provided")
        if job_id and job_id != given["ID"]:
            return text(400, "Job ID does not match name")
        namespace = given.get("Namespace") or request.query.get("namespace", "default")
        job = forms.canonical(given | {"Namespace": namespace})
        if reason := forms.invalid(job):
            return text(500, reason)
        if reason := self._nowhere(job):
            return text(500, f'1 error occurred:\n\t* job "{job["ID"]}" is in {reason}\n\n')
        with self.state.changed:
            if request.body.get("EnforceIndex") and (
                conflict := self._conflict(job, request.body.get("JobModifyIndex") or 0)
            ):
                return text(500, conflict)
            evaluation, index = self.state.register(job)
        created = evaluation["CreateIndex"]
        own = {"EvalCreateIndex": created, "EvalID": evaluation["ID"], "Warnings": ""}
        return Answer(200, _ZEROS | own | {"Index": created, "JobModifyIndex": index}, created)

    def _nowhere(self, job: Json) -> str:
        if job["Namespace"] != "default":
            return f'nonexistent namespace "{job["Namespace"]}"'
        return "" if job["NodePool"] in self.pools else f'nonexistent node pool "{job["NodePool"]}"'

    def _conflict(self, job: Json, wanted: int) -> str:
        stored = self.state.jobs.get((job["Namespace"], job["ID"]))
        enforcing = f"Enforcing job modify index {wanted}: job"
        if stored is None:
            return f"{enforcing} does not exist" if wanted else ""
        if not wanted:
            return f"{enforcing} already exists"
        has = stored["JobModifyIndex"]
        if has == wanted:
            return ""
        return f"{enforcing} exists with conflicting job modify index: {has}"

    def _deregister(self, request: Request, job_id: str) -> Answer:
        key = self._key(request, job_id)
        evaluation = self.state.deregister(key, purge=request.asks("purge"))
        none = {"EvalCreateIndex": 0, "EvalID": "", "JobModifyIndex": 0}
        answer = _ZEROS | none | {"VolumeEvalID": "", "VolumeEvalIndex": 0}
        if evaluation is None:
            return Answer(200, answer, 0)
        index = evaluation["CreateIndex"]
        own = {"EvalCreateIndex": index, "EvalID": evaluation["ID"], "JobModifyIndex": index}
        return Answer(200, answer | own | {"Index": index}, index)

    def _eligibility(self, request: Request, node_id: str) -> Answer:
        wanted = request.body.get("Eligibility", "")
        if wanted not in {"eligible", "ineligible"}:
            return text(500, f'invalid scheduling eligibility "{wanted}"')
        with self.state.changed:
            if node_id not in self.state.nodes:
                return text(500, "node not found")
            index = self.state.set_node(node_id, SchedulingEligibility=wanted)
            if wanted == "eligible":
                self.state.unblock()
        nothing = {"EvalCreateIndex": 0, "EvalIDs": None, "NodeModifyIndex": 0}
        return Answer(200, nothing | {"Index": index}, index)


def _newest(records: list[Json], table: int) -> Found:
    indexes = [record["ModifyIndex"] for record in records]
    return Found(max(indexes, default=table), sorted(records, key=lambda r: str(r["ID"])))


def _one(records: dict[str, Json], key: str, what: str, table: int) -> Found:
    if len(key) != 36:
        return Found(0, f"{what} lookup failed: index error: UUID must be 36 characters", 500)
    if key not in records:
        return Found(table, f"{what} not found", 404)
    return Found(records[key]["ModifyIndex"], records[key])


def _bad_prefix(prefix: str) -> str:
    """Say why an id cannot begin so: lists of allocations and nodes take ids only."""
    bare = prefix.replace("-", "")
    if wrong := next((c for c in bare if c not in "0123456789abcdefABCDEF"), ""):
        return f"Invalid UUID: encoding/hex: invalid byte: U+{ord(wrong):04X} '{wrong}'"
    return "Input (without hyphens) must be even length" if len(bare) % 2 else ""


def _paginate(values: list[Json], query: dict[str, str]) -> tuple[list[Json], str]:
    after = query.get("next_token", "").rpartition(".")[2]
    values = [value for value in values if str(value["ID"]) >= after]
    size = int(query.get("per_page") or 0)
    if not size or len(values) <= size:
        return values, ""
    first = values[size]
    prefix = "default." if "JobSummary" in first else ""
    return values[:size], f"{prefix}{first['ID']}"
