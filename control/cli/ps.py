"""``yurt ps``: each sandbox as everybody tells it, side by side, with what does not fit marked."""

from __future__ import annotations

import asyncio
import json
import os
from typing import TYPE_CHECKING, Annotated, Any

import typer

from control.cli.output import failures_told, print_table, read_settings

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from control.audit import Line, View
    from control.cli.world import Sight
    from control.model import Sandbox
    from control.settings import Settings
    from control.store import Store
    from jobs.scheduler import Allocation

_BETWEEN_LOOKS_SECONDS = 1.0
_AT_ONCE = 32


def ps(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    every: Annotated[
        bool, typer.Option("--all", help="Also destroyed sandboxes, while they are kept.")
    ] = False,
) -> None:
    """Compare records, jobs, runners, disks and registrations; exit code 1 if they differ."""
    with failures_told():
        lines, silent = asyncio.run(_look(read_settings()))
    shown = [line for line in lines if every or line.differences or not _is_over(line)]
    if as_json:
        fields = {"sandboxes": [_fields(line) for line in shown], "silentNodes": silent}
        typer.echo(json.dumps(fields, indent=2))
    else:
        print_table(
            ("sandbox", "record", "job", "runner", "registration", "disk", "differences"),
            map(_cells, shown),
        )
        for name in silent:
            typer.echo(f"node {name} does not answer: its disks and runners were not looked at")
    raise typer.Exit(int(any(line.differences for line in lines)))


async def _look(settings: Settings) -> tuple[list[Line], list[str]]:
    from control.cli import checks
    from control.cli.world import open_sight
    from control.errors import UnavailableError

    if not settings.nomad_url and os.geteuid() != 0:
        raise UnavailableError(checks.root(os.geteuid()).advice)
    async with open_sight(settings) as world:
        return await look(world)


async def look(
    world: Sight, pause_seconds: float = _BETWEEN_LOOKS_SECONDS
) -> tuple[list[Line], list[str]]:
    """Audit everything; a second look decides where the first one saw differences.

    Returns:
        A line for each sandbox, and the nodes that did not say what they have.

    Raises:
        UnavailableError: store, Nomad or Consul cannot be asked.
    """
    from control.audit import audit, confirmed

    view, silent = await observe(world)
    lines = audit(view)
    if any(line.differences for line in lines):
        await asyncio.sleep(pause_seconds)
        view, silent = await observe(world)
        lines = confirmed(lines, audit(view))
    return lines, silent


async def observe(world: Sight) -> tuple[View, list[str]]:
    """Ask everybody. Records come last: what they say of a sandbox is never older than the rest."""
    from control.audit import Inventory, View
    from control.cli.nodes import ask_inventories

    nodes = await world.scheduler.nodes()
    told = await ask_inventories(world.scheduler, [node.name for node in nodes if node.is_ready])
    allocations = await world.scheduler.allocations()
    routes = await world.routes.routes()
    records = await every_record(world.store)
    view = View(
        records=records,
        allocations=allocations,
        said=await _ask_runners(world, records, allocations),
        routes=routes,
        inventories={
            name: Inventory(frozenset(stock["disks"]), frozenset(stock["running"]))
            for name, stock in told.items()
        },
    )
    return view, sorted({node.name for node in nodes} - set(told))


async def every_record(store: Store) -> list[Sandbox]:
    """Read all records, destroyed ones included."""
    from control.listing import Filter, Order

    page = await store.sandboxes.page(Filter(with_errored_deleted=True), Order())
    records = {record.id: record for record in page.sandboxes}
    for outline in await store.sandboxes.survey():
        if outline.id not in records:
            found = await store.sandboxes.get(outline.id)
            if found is not None:
                records[outline.id] = found
    return list(records.values())


async def _ask_runners(
    world: Sight, records: Iterable[Sandbox], allocations: Collection[Allocation]
) -> dict[str, str | None]:
    """Ask the runner of each sandbox that is to run what it is at."""
    from control.model import State

    where = {one.sandbox_id: one for one in allocations if one.running}
    asked = [
        record
        for record in records
        if record.id in where and record.state in {State.STARTED, State.UNKNOWN}
    ]
    places = asyncio.Semaphore(_AT_ONCE)

    async def ask(record: Sandbox) -> tuple[str, str | None]:
        async with places:
            return record.id, await _hello(world, record, where[record.id])

    return dict(await asyncio.gather(*map(ask, asked)))


async def _hello(world: Sight, record: Sandbox, allocation: Allocation) -> str | None:
    from control.errors import NotFoundError, UnavailableError
    from control.lifecycle import next_message

    try:
        numbered = await world.store.sandboxes.change(record.id, next_message)
        said = await world.gates.send(allocation, numbered.run, {"op": "hello"})
    except (UnavailableError, NotFoundError):
        return None
    return str(said.get("phase"))


def _is_over(line: Line) -> bool:
    from control.model import State

    return line.record is not None and line.record.state is State.DESTROYED


def _cells(line: Line) -> list[str]:
    record, job, route = line.record, line.allocation, line.route
    state = f"{record.state.value} #{record.run.generation}" if record else "-"
    if record and not record.is_settled:
        state += f" → {record.desired_state.value}"
    return [
        line.sandbox_id,
        state,
        f"{_phase(job)} #{job.generation} on {job.node or '?'}" if job else "-",
        (line.said or "no answer") if line.was_asked else "-",
        f"{route.address}:{route.port} #{route.generation}" if route else "-",
        ", ".join(line.disk_on) or "-",
        "; ".join(line.differences),
    ]


def _phase(job: Allocation) -> str:
    if not job.running:
        return "ended"
    return "running" if job.reachable else "lost"


def _fields(line: Line) -> dict[str, Any]:
    record, job, route = line.record, line.allocation, line.route
    return {
        "id": line.sandbox_id,
        "record": record
        and {
            "name": record.name,
            "state": record.state,
            "desiredState": record.desired_state,
            "generation": record.run.generation,
            "node": record.node,
            "errorReason": record.error_reason,
        },
        "job": job
        and {
            "phase": _phase(job),
            "generation": job.generation,
            "node": job.node,
            "address": job.address,
            "port": job.port,
        },
        "runner": {"asked": line.was_asked, "phase": line.said},
        "registration": route
        and {"address": route.address, "port": route.port, "generation": route.generation},
        "diskOn": line.disk_on,
        "runningOn": line.running_on,
        "differences": line.differences,
    }
