"""The scheduler over Nomad: each start of a sandbox is one job, which runs the runner by raw_exec.

A job is stopped, waited for and only then purged: what is purged while it runs gives its port and
memory away at once, and runs on. So a job id has one generation, and at most one allocation. That
the runner is ready is not seen here: Nomad says ``running`` a second late, the runner says more.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections import OrderedDict
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from control.errors import (
    ConflictError,
    NoCapacityError,
    NotFoundError,
    UnavailableError,
    WorkError,
)
from jobs import nomad_view as view
from jobs.nomad_wire import Wire
from jobs.spec import (
    KILL_SECONDS,
    RESULT,
    SANDBOX_PREFIX,
    job_id,
    render_job,
    render_work,
    sandbox_of,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Mapping
    from pathlib import Path
    from typing import Self

    from jobs.scheduler import Allocation, Job, NodeStatus

logger = logging.getLogger(__name__)

Json = dict[str, Any]

_PLACE_SECONDS = 5.0
# A client sends ends within a second or two of them.
_END_SECONDS = KILL_SECONDS + 10.0
_TOPICS = ["Allocation", "Job", "Node"]
_OURS = f'JobID contains "{SANDBOX_PREFIX}"'
# As many sandboxes as one control looks after, roughly; what fell out is asked for again.
_MOST_PLACES = 10_000


@dataclass(frozen=True, slots=True)
class NomadSettings:
    """Which Nomad, as whom, and where it may place sandboxes.

    Attributes:
        url: of any agent: ``http(s)://host:port``.
        token: its policy has ``list-jobs``, ``read-job``, ``submit-job`` and ``read-fs`` in the
            namespace, and ``write`` for nodes and for the host volume ``yurt``.
        ca: certifies the agent; without it the authorities of the certifi package do.
        cert: is shown to an agent that asks, with its ``key``.
        region: empty for the agent's own.
        node_pool: ``all`` for any.
        node_class: empty for any.
        memory_reserve: share of its memory limit that a sandbox reserves. Nomad must have memory
            oversubscription enabled, else it is its limit, too.
    """

    url: str
    token: str = field(default="", repr=False)
    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None
    namespace: str = "default"
    region: str = ""
    node_pool: str = "default"
    node_class: str = ""
    memory_reserve: float = 0.25


class NomadScheduler:
    """``Scheduler`` over Nomad; use as an asynchronous context manager."""

    def __init__(self, settings: NomadSettings) -> None:
        self._settings = settings
        self._wire = Wire(settings)
        self._seen_index = 0
        self._places: OrderedDict[str, Json] = OrderedDict()
        self._warnings: set[str] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._wire.__aexit__()

    # -- sandboxes ---------------------------------------------------------------------------

    async def submit(self, job: Job, *, avoid: Collection[str] = ()) -> Allocation:
        """See ``Scheduler.submit``; returns when it is placed, which is before it runs."""
        body = render_job(job, self._settings, avoid)
        evaluation = await self._register(body)
        if evaluation is None:
            there = await self._there(job)
            if there is not None:
                return there
            evaluation = await self._register(body)
        if evaluation is None:
            raise ConflictError(f"another start of sandbox {job.sandbox_id} came first")
        placed = await self._place(body, evaluation, job.node)
        return view.allocation(body["ID"], body["Meta"], placed, ())

    async def _there(self, job: Job) -> Allocation | None:
        """Return what runs or ran of the same generation; make way where nothing does."""
        name = job_id(job.sandbox_id)
        found = await self._wire.job(name)
        if found is None:
            return None
        placed = view.newest(await self._wire.job_allocations(name))
        generation = int(found["Meta"]["generation"])
        heard = await self._heard([placed] if placed else [])
        over = found["Stop"] if placed is None else view.is_over(placed, heard)
        if generation != job.generation and not over:
            raise ConflictError(f"generation {generation} of the sandbox still runs")
        if generation == job.generation and placed is not None:
            return await self._whole(name, placed)
        if generation == job.generation and not over:
            placed = await self._wait_for_place(found, job.node)
            return view.allocation(name, found["Meta"], placed, ())
        await self._wire.deregister(name, purge=True)
        return None

    async def _wait_for_place(self, found: Json, node: str) -> Json:
        evaluations = await self._wire.evaluations(found["ID"])
        first = min(evaluations, key=lambda one: int(one["CreateIndex"]), default=None)
        if first is None:
            raise UnavailableError(f"job {found['ID']} is not evaluated by Nomad; purge it")
        return await self._place(found, (first["ID"], int(first["CreateIndex"])), node)

    async def _whole(self, name: str, stub: Json) -> Allocation | None:
        place = self._places.get(stub["ID"])
        if place is None:
            whole = await self._wire.allocation(stub["ID"])
            if whole is None:
                return None
            place = self._keep_place(whole)
        heard = await self._heard([stub])
        return view.allocation(name, place["Meta"], stub | place, heard)

    def _keep_place(self, whole: Json) -> Json:
        """Keep what a list does not tell of an allocation, and what never changes of one."""
        place = {"Meta": whole["Job"]["Meta"], "AllocatedResources": whole["AllocatedResources"]}
        self._places[whole["ID"]] = place
        if len(self._places) > _MOST_PLACES:
            self._places.popitem(last=False)
        return place

    async def stop(self, sandbox_id: str, *, grace_seconds: float) -> None:
        """See ``Scheduler.stop``; a job's own 30 s are its grace, whatever is asked for."""
        await self._stop(job_id(sandbox_id))

    async def _stop(self, name: str) -> None:
        if await self._wire.job(name) is None:
            return
        # Once this has been evaluated nothing more is placed, and the list of allocations is final.
        evaluation = await self._wire.deregister(name, purge=False)
        if evaluation:
            await self._evaluated(evaluation)
        await self._until_over(name, _END_SECONDS)

    async def _until_over(self, name: str, seconds: float | None) -> Json | None:
        """Wait until every allocation of a job is over, and return the newest.

        Raises:
            UnavailableError: it takes too long, or a node is lost.
        """
        try:
            async with asyncio.timeout(seconds):
                return await self._last(name)
        except TimeoutError as error:
            raise UnavailableError(f"{name} does not end within {seconds:.0f} s") from error

    async def _last(self, name: str) -> Json | None:
        path, index = f"/job/{name}/allocations", 0
        while True:
            index, listed = await self._wire.changed(path, index)
            heard = await self._heard(listed)
            for one in listed:
                if view.is_out_of_reach(one, heard):
                    raise UnavailableError(
                        f"node {one['NodeName']} is lost, and what becomes of {name} there is only"
                        " known when it is back"
                    )
            if all(view.is_over(one, heard) for one in listed):
                return view.newest(listed)

    async def allocation(self, sandbox_id: str) -> Allocation | None:
        """See ``Scheduler.allocation``."""
        name = job_id(sandbox_id)
        stub = view.newest(await self._wire.job_allocations(name))
        if stub is not None:
            return await self._whole(name, stub)
        job = await self._wire.job(name)
        if job is None or job["Stop"]:
            return None
        return view.allocation(name, job["Meta"], None, ())

    async def allocations(self) -> list[Allocation]:
        """See ``Scheduler.allocations``."""
        # Jobs after allocations: what is placed meanwhile shows as a job without one. Only an
        # allocation that is younger than its job is of this generation.
        listed: dict[str, list[Json]] = {}
        for one in await self._wire.allocations(_OURS):
            listed.setdefault(one["JobID"], []).append(one)
        jobs = [job for job in await self._wire.jobs(SANDBOX_PREFIX) if sandbox_of(job["ID"])]
        heard = await self._heard([one for group in listed.values() for one in group])
        found = []
        for job in jobs:
            of_job = listed.get(job["ID"], [])
            placed = view.newest(
                one for one in of_job if int(one["CreateIndex"]) >= int(job["CreateIndex"])
            )
            if placed is not None:
                found.append(view.allocation(job["ID"], job["Meta"], placed, heard))
            elif (late := await self.allocation(sandbox_of(job["ID"]) or "")) is not None:
                found.append(late)
        return found

    async def forget(self, sandbox_id: str) -> None:
        """See ``Scheduler.forget``."""
        name = job_id(sandbox_id)
        job = await self._wire.job(name)
        if job is None:
            return
        listed = await self._wire.job_allocations(name)
        heard = await self._heard(listed)
        waits = not listed and not job["Stop"]
        if waits or not all(view.is_over(one, heard) for one in listed):
            raise ConflictError(f"the runner of {sandbox_id} still runs")
        await self._wire.deregister(name, purge=True)

    async def changes(self) -> AsyncIterator[str]:
        """See ``Scheduler.changes``; called again it goes on where it was cut."""
        async with aclosing(self._wire.events(_TOPICS, self._seen_index)) as stream:
            async for index, events in stream:
                for event in events:
                    for sandbox_id in await self._concerned(event):
                        yield sandbox_id
                self._seen_index = index + 1

    async def _concerned(self, event: Json) -> list[str]:
        payload = event["Payload"] or {}
        match event["Topic"]:
            case "Allocation":
                # That it waits to run, whoever had it placed knows, and has no time to lose.
                is_news = not view.waits_to_run(payload["Allocation"])
                names = [payload["Allocation"]["JobID"]] if is_news else []
            case "Node":
                here = f'NodeID == "{event["Key"]}" and {_OURS}'
                names = [one["JobID"] for one in await self._wire.allocations(here)]
            case _:
                names = [] if event["Type"] == "JobRegistered" else [event["Key"]]
        return [found for name in names if (found := sandbox_of(name))]

    # -- work --------------------------------------------------------------------------------

    async def work(
        self, verb: str, arguments: Mapping[str, Any], *, node: str = ""
    ) -> dict[str, Any]:
        """See ``Scheduler.work``; who asks for what is being done already, gets its result."""
        body = render_work(verb, arguments, node, self._settings)
        name = body["ID"]
        evaluation = await self._register(body)
        if evaluation is None:
            there = await self._wire.job(name)
            listed = await self._wire.job_allocations(name)
            if there is not None and not there["Stop"] and not listed:
                await self._wait_for_place(there, node)  # somebody else has just asked for it
            elif there is None or there["Stop"] or all(view.is_over(one) for one in listed):
                await self._stop(name)
                await self._wire.deregister(name, purge=True)
                evaluation = await self._register(body)
        try:
            if evaluation is not None:
                await self._place(body, evaluation, node)
            ended = await self._until_over(name, None)
            if ended is None:
                raise UnavailableError(f"{verb} was taken away while it ran; it is to be repeated")
            return await self._result(verb, ended)
        finally:
            await self._discard(name)

    async def _result(self, verb: str, ended: Json) -> dict[str, Any]:
        said = await self._wire.file(ended["ID"], RESULT)
        try:
            result: dict[str, Any] = dict(json.loads(said))
        except ValueError as error:
            reason = view.exit_of(ended).reason or said
            raise UnavailableError(
                f"{verb} on {ended['NodeName']} left no result: {reason}"
            ) from error
        if "error" in result:
            raise WorkError(verb, str(result["error"]), ended["NodeName"])
        return result

    async def _discard(self, name: str) -> None:
        """Take a piece of work away: now if it is over, else it is stopped, and purged by Nomad."""
        listed = await self._wire.job_allocations(name)
        await self._wire.deregister(name, purge=all(view.is_over(one) for one in listed))

    # -- nodes -------------------------------------------------------------------------------

    async def nodes(self) -> list[NodeStatus]:
        """See ``Scheduler.nodes``."""
        nodes, allocations = await asyncio.gather(self._wire.nodes(), self._wire.allocations())
        return view.node_statuses(nodes, allocations, self._settings)

    async def disk_sizes(self) -> dict[str, int]:
        """See ``Scheduler.disk_sizes``."""
        statuses = view.node_statuses(await self._wire.nodes(), (), self._settings)
        return {node.name: node.disk_mib for node in statuses}

    async def cordon(self, node: str, *, on: bool) -> None:
        """See ``Scheduler.cordon``."""
        named = [one for one in await self._wire.nodes() if one["Name"] == node]
        if not named:
            raise NotFoundError(f"no such node: {node}")
        for one in named:
            await self._wire.set_eligible(one["ID"], not on)

    async def _heard(self, allocations: Collection[Json]) -> frozenset[str]:
        """Name the nodes that are ready, where it matters."""
        if all(one["ClientStatus"] != "lost" for one in allocations):
            return frozenset()
        nodes = await self._wire.nodes()
        return frozenset(node["Name"] for node in nodes if node["Status"] == "ready")

    # -- placing -----------------------------------------------------------------------------

    async def _register(self, body: Json) -> tuple[str, int] | None:
        """Register a job that must not be there; None if it is.

        Returns its evaluation and the index at which that came.
        """
        try:
            told = await self._wire.register(body)
        except ConflictError:
            return None
        warning = told.get("Warnings")
        if warning and warning not in self._warnings:
            self._warnings.add(warning)
            logger.warning("nomad warns of every job: %s", " ".join(warning.split()))
        return str(told["EvalID"]), int(told["EvalCreateIndex"])

    async def _place(self, body: Json, evaluation: tuple[str, int], node: str) -> Json:
        """Wait until a job has its place.

        Raises:
            NoCapacityError: there is none; the job is not there any more.
            UnavailableError: Nomad does not say; the job may be there.
        """
        name = body["ID"]
        try:
            done = await self._evaluated(*evaluation)
        except UnavailableError:
            await self._wire.deregister(name, purge=False)  # so that it gets no place later, either
            raise
        stub = view.newest(await self._wire.job_allocations(name))
        if stub is not None:
            placed = await self._wire.allocation(stub["ID"])
            if placed is not None:
                self._keep_place(placed)
                return placed
        (group,) = body["TaskGroups"]
        metric = (done.get("FailedTGAllocs") or {}).get(group["Name"])
        await self._withdraw(name)
        if metric is None:
            raise UnavailableError(f"Nomad took {name} away before it had a place")
        nodes = await self._wire.nodes() if node else []
        trouble = view.pinned_trouble(node, nodes, self._settings) if node else ""
        raise NoCapacityError(view.no_room(metric, group, trouble))

    async def _evaluated(self, evaluation: str, index: int = 0) -> Json:
        """Wait until Nomad has decided, and return the evaluation, which came at ``index``."""
        try:
            async with asyncio.timeout(_PLACE_SECONDS):
                while True:
                    index, found = await self._wire.changed(f"/evaluation/{evaluation}", index)
                    if found["Status"] != "pending":
                        return dict(found)
        except TimeoutError as error:
            raise UnavailableError(
                f"Nomad has decided nothing within {_PLACE_SECONDS:.0f} s: are its servers busy?"
            ) from error

    async def _withdraw(self, name: str) -> None:
        """Take away a job that has no place; one that got it meanwhile is stopped, and stays."""
        evaluation = await self._wire.deregister(name, purge=False)
        if evaluation:
            await self._evaluated(evaluation)
        if not await self._wire.job_allocations(name):
            await self._wire.deregister(name, purge=True)
