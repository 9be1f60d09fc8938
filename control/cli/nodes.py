"""``yurt nodes``, ``yurt cordon``, ``yurt uncordon``: the machines that sandboxes run on."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from control.cli.output import Output, failures_told, print_table, read_settings

if TYPE_CHECKING:
    from control.cli.world import Jobs, World
    from control.settings import Settings
    from control.store import Store
    from jobs.scheduler import NodeStatus

KEY_BYTES = 32
GIB = 1 << 30
_ASK_SECONDS = 20.0

app = typer.Typer(help="The machines that sandboxes run on.", add_completion=False)

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Name = Annotated[str, typer.Argument(metavar="NODE", help="Its name, as Nomad knows it.")]


@app.callback(invoke_without_command=True)
def nodes(context: typer.Context, as_json: Json = False) -> None:
    """List the nodes, or add, remove and prepare one."""
    if context.invoked_subcommand is not None:
        return
    with failures_told():
        rows = asyncio.run(_list(read_settings()))
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
    else:
        print_table(
            ("name", "address", "state", "class", "version", "memory MiB", "sandboxes", "disk"),
            [_cells(row) for row in rows],
        )


async def _list(settings: Settings) -> list[dict[str, Any]]:
    from control.cli.world import open_world

    async with open_world(settings) as world:
        return await describe_nodes(world)


async def describe_nodes(world: World) -> list[dict[str, Any]]:
    """Describe each node, also those that only Nomad or only the store knows."""
    found = {node.name: node for node in await world.scheduler.nodes()}
    keys = {node.name for node in await world.store.nodes.all()}
    allocations = await world.scheduler.allocations()
    ready = [node.name for node in found.values() if node.is_ready]
    stocks = await ask_inventories(world.scheduler, ready)
    return [
        {
            **_status(found.get(name)),
            "name": name,
            "hasKey": name in keys,
            "sandboxes": sum(one.running and one.node == name for one in allocations),
            "diskFreeBytes": stocks[name].get("free") if name in stocks else None,
        }
        for name in sorted({*found, *keys})
    ]


def _status(node: NodeStatus | None) -> dict[str, Any]:
    """Tell what Nomad says; a node that it does not know is as good as down."""
    return {
        "name": "",
        "address": node.address if node else "",
        "state": ("ready" if node.is_ready else "down") if node else "unknown to Nomad",
        "cordoned": bool(node and node.is_cordoned),
        "class": node.node_class if node else "",
        "version": node.version if node else "",
        "memoryReservedMiB": node.memory_reserved_mib if node else 0,
        "memoryMiB": node.memory_mib if node else 0,
    }


def _cells(row: dict[str, Any]) -> list[str]:
    state = [row["state"], "cordoned" if row["cordoned"] else "", "" if row["hasKey"] else "no key"]
    free = row["diskFreeBytes"]
    return [
        row["name"],
        row["address"],
        ", ".join(filter(None, state)),
        row["class"],
        row["version"],
        f"{row['memoryReservedMiB']}/{row['memoryMiB']}",
        str(row["sandboxes"]),
        "" if free is None else f"{free / GIB:.1f} GiB free",
    ]


async def ask_inventories(scheduler: Jobs, names: list[str]) -> dict[str, dict[str, Any]]:
    """Ask nodes what they have, all at once; those that do not answer are left out."""
    from control.errors import YurtError

    async def ask(name: str) -> tuple[str, dict[str, Any]] | None:
        try:
            async with asyncio.timeout(_ASK_SECONDS):
                return name, await scheduler.work("inventory", {}, node=name)
        except (YurtError, TimeoutError):
            return None

    return dict(filter(None, await asyncio.gather(*map(ask, names))))


@app.command("add")
def add(
    name: Name,
    resolvers: Annotated[
        str, typer.Option(help="IPv4 addresses of name servers for its sandboxes; default: ours.")
    ] = "",
    rotate: Annotated[
        bool, typer.Option("--rotate", help="Give a node that is known a new key.")
    ] = False,
) -> None:
    """Make a node's key and print its node.json, to be put on the node; keep it secret."""
    with failures_told():
        settings = read_settings()
        made = asyncio.run(_add(settings, name, rotate=rotate))
        configuration = node_configuration(settings, name, made, resolvers)
    Output().say(
        f"Put this on {name} as a file for root only (umask 077), and run there:\n"
        f"    yurt nodes prepare --config FILE"
    )
    typer.echo(json.dumps(configuration, indent=2))


async def _add(settings: Settings, name: str, *, rotate: bool) -> bytes:
    from control.cli.world import open_store

    async with open_store(settings) as store:
        return await make_key(store, name, rotate=rotate)


async def make_key(store: Store, name: str, *, rotate: bool) -> bytes:
    """Make a node's key and store it.

    Raises:
        ConflictError: it has one, and is not to get another.
        InvalidError: it cannot be a node's name.
    """
    from control.errors import ConflictError, InvalidError
    from control.model import Node

    if not name or not all(c.isalnum() or c in "-_." for c in name) or not name.isascii():
        raise InvalidError(f"{name!r} is no name of a node: take letters, digits, '-', '_' and '.'")
    if await store.nodes.get(name) is not None and not rotate:
        raise ConflictError(
            f"node {name} has a key already; with --rotate it gets a new one, and what runs there "
            "must be stopped first: its runners keep the old one"
        )
    key = secrets.token_bytes(KEY_BYTES)
    await store.nodes.put(Node(name, key, datetime.now(UTC)))
    return key


def node_configuration(
    settings: Settings, name: str, key: bytes, resolvers: str = ""
) -> dict[str, Any]:
    """Write the configuration that ``jobs.node prepare`` takes.

    Raises:
        InvalidError: a resolver is not an IPv4 address.
    """
    import ipaddress

    from control.errors import InvalidError
    from control.resolvers import name_servers

    given = resolvers.replace(",", " ").split()
    try:
        servers = [str(ipaddress.IPv4Address(one)) for one in given] or name_servers(settings)
    except ValueError as exc:
        raise InvalidError(f"--resolvers: {exc}") from exc
    return {
        "name": name,
        "key": key.hex(),
        "subnet": settings.subnet,
        "resolvers": servers,
        "registry": settings.registry,
    }


@app.command("remove")
def remove(
    name: Name,
    forget_disks: Annotated[
        bool,
        typer.Option("--forget-disks", help="Also when disks or volumes are there."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Revoke a node's key: control believes nothing more that comes from there."""
    with failures_told():
        asyncio.run(_remove(read_settings(), name, forget_disks=forget_disks))
    text = f"Node {name} has no key any more; end its Nomad client, too."
    Output(as_json=as_json).result({"removed": name}, text)


async def _remove(settings: Settings, name: str, *, forget_disks: bool) -> None:
    from control.cli.world import open_store

    async with open_store(settings) as store:
        await revoke_key(store, name, forget_disks=forget_disks)


async def revoke_key(store: Store, name: str, *, forget_disks: bool) -> None:
    """Revoke a node's key.

    Raises:
        NotFoundError: it has none.
        ConflictError: disks of sandboxes or volumes are there.
    """
    from control.errors import ConflictError, NotFoundError
    from control.listing import Filter, Order
    from control.model import State, VolumeState

    if await store.nodes.get(name) is None:
        raise NotFoundError(f"no such node: {name}")
    page = await store.sandboxes.page(Filter(with_errored_deleted=True), Order())
    held = [
        one.name for one in page.sandboxes if one.node == name and one.state is not State.DESTROYED
    ]
    every = await store.volumes.all(frozenset(VolumeState) - {VolumeState.DELETED})
    shared = [f"volume {one.name}" for one in every if one.node == name]
    if (held or shared) and not forget_disks:
        shown = ", ".join((held + shared)[:5]) + (" …" if len(held + shared) > 5 else "")
        raise ConflictError(
            f"{len(held)} sandboxes have their disks on {name}, and {len(shared)} volumes are "
            f"there ({shown}): delete them, or add --forget-disks if the machine is gone for good"
        )
    await store.nodes.remove(name)


@app.command("prepare")
def prepare(
    config: Annotated[
        Path | None,
        typer.Option(help="What `yurt nodes add` printed; default: node.json in YURT_DATA."),
    ] = None,
) -> None:
    """Make this machine ready for sandboxes; again renews what has changed."""
    with failures_told():
        from control.cli import checks
        from control.cli.prepare import data_directory
        from control.errors import NotFoundError, UnavailableError

        if os.geteuid() != 0:
            raise UnavailableError(checks.root(os.geteuid()).advice)
        data = read_settings().data
        path = config or data / "node.json"
        if not path.is_file():
            raise NotFoundError(f"no {path}: `yurt nodes add NAME` beside control prints it")
        data_directory(data, expected=("node.json", "disks"))
        command = [sys.executable, "-m", "jobs.node", "prepare"]
        done = subprocess.run([*command, "--data", data, "--config", path], check=False)
    raise typer.Exit(done.returncode)


def cordon(name: Name, as_json: Json = False) -> None:
    """Start nothing more on a node; what runs there goes on."""
    _cordon(name, as_json=as_json, on=True)


def uncordon(name: Name, as_json: Json = False) -> None:
    """Start sandboxes on a node again."""
    _cordon(name, as_json=as_json, on=False)


def _cordon(name: str, *, as_json: bool, on: bool) -> None:
    with failures_told():
        asyncio.run(_set_cordon(read_settings(), name, on=on))
    text = f"{name} gets no more sandboxes." if on else f"{name} gets sandboxes again."
    Output(as_json=as_json).result({"name": name, "cordoned": on}, text)


async def _set_cordon(settings: Settings, name: str, *, on: bool) -> None:
    from control.cli.world import open_world

    async with open_world(settings) as world:
        await world.scheduler.cordon(name, on=on)
