"""The command line ``yurt``: client commands here, server commands joined by entry points.

A distribution adds a command by an entry point of the group ``yurt.commands``: its name is the
command's, its object the function, or a ``Typer`` with commands of its own.
"""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterable
from importlib.metadata import EntryPoint, entry_points
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from yurt import organizations, snapshots, volumes
from yurt.client import Client, Sandbox, YurtClientError

GROUP = "yurt.commands"

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Name = Annotated[str, typer.Argument(metavar="SANDBOX", help="Id or name of a sandbox.")]
Pairs = Annotated[list[str] | None, typer.Option(metavar="NAME=VALUE", help="May be repeated.")]

app = typer.Typer(
    name="yurt",
    help="Sandboxes for AI agents, on your own machines.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

app.add_typer(organizations.app, name="org")
app.add_typer(snapshots.app, name="snapshot")
app.add_typer(volumes.app, name="volume")


@app.command()
def create(  # noqa: PLR0913 - its options
    name: Annotated[str | None, typer.Option(help="A name of your choice.")] = None,
    snapshot: Annotated[str | None, typer.Option(help="What to start from.")] = None,
    env: Pairs = None,
    label: Pairs = None,
    public: Annotated[bool, typer.Option("--public", help="Open its previews to all.")] = False,
    volume: volumes.Mounts = None,
    as_json: Json = False,
) -> None:
    """Create a sandbox and print its id."""
    with Client.from_environment() as client:
        sandbox = client.create(
            name=name,
            snapshot=snapshot,
            env=_mapping(env),
            labels=_mapping(label),
            public=public or None,
            volumes=volumes.mounts(volume),
        )
    if as_json:
        _print_json(sandbox.fields)
    else:
        typer.echo(sandbox.id)


@app.command("ls")
def list_(as_json: Json = False) -> None:
    """List the sandboxes."""
    with Client.from_environment() as client:
        sandboxes = list(client.list())
    if as_json:
        _print_json([sandbox.fields for sandbox in sandboxes])
        return
    table = Table("id", "name", "state", "snapshot", "created", box=None, pad_edge=False)
    for sandbox in sandboxes:
        table.add_row(*_row(sandbox))
    # Without a terminal nothing is cut: the output may be read by a program.
    Console(width=None if sys.stdout.isatty() else 200).print(table)


@app.command("exec", context_settings={"allow_interspersed_args": False})
def execute(
    name: Name,
    command: Annotated[list[str], typer.Argument(help="One shell command, or its words.")],
    cwd: Annotated[str | None, typer.Option(help="Directory to run it in.")] = None,
    env: Pairs = None,
    timeout: Annotated[int | None, typer.Option(help="Seconds it may take.")] = None,
    as_json: Json = False,
) -> None:
    """Run a command in a sandbox; its exit code is ours. Options come before the sandbox."""
    line = command[0] if len(command) == 1 else shlex.join(command)
    with Client.from_environment() as client:
        finished = client.execute(
            client.get(name),
            line,
            cwd=cwd,
            env=_mapping(env),
            timeout_seconds=timeout,
        )
    if as_json:
        _print_json({"exitCode": finished.exit_code, "result": finished.output})
    elif finished.output:
        typer.echo(finished.output, nl=not finished.output.endswith("\n"))
    raise typer.Exit(finished.exit_code & 0xFF)


@app.command()
def shell(name: Name) -> None:
    """Open a terminal in a sandbox."""
    from yurt.terminal import run_shell

    with Client.from_environment() as client:
        raise typer.Exit(run_shell(client, client.get(name)) & 0xFF)


@app.command("rm")
def remove(
    names: Annotated[list[str], typer.Argument(metavar="SANDBOX...", help="Ids or names.")],
    as_json: Json = False,
) -> None:
    """Delete sandboxes with everything in them."""
    with Client.from_environment() as client:
        for name in names:
            client.delete(name)
    if as_json:
        _print_json({"deleted": names})


@app.command()
def audit(
    limit: Annotated[int, typer.Option(min=1, max=200, help="How many lines.")] = 50,
    as_json: Json = False,
) -> None:
    """Show who did what in your organization, the newest first."""
    with Client.from_environment() as client:
        lines = client.audit_log(limit)
    if as_json:
        _print_json(lines)
        return
    for line in lines:
        what = f"{line['action']} {line['targetType']} {line.get('targetId') or ''}".rstrip()
        typer.echo(f"{line['createdAt'][:19]}  {line['actorId']}  {what}  {line['statusCode']}")


def join(points: Iterable[EntryPoint], to: typer.Typer = app) -> None:
    """Add the commands that installed distributions bring; a group that is there gets more."""
    groups = {group.name: group.typer_instance for group in to.registered_groups}
    for point in sorted(points, key=lambda point: point.name):
        added = point.load()
        known = groups.get(point.name)
        if isinstance(added, typer.Typer) and known is not None:
            known.registered_commands += added.registered_commands
        elif isinstance(added, typer.Typer):
            to.add_typer(added, name=point.name)
        else:
            to.command(point.name)(added)


def main() -> None:
    """Run the command line; refusals become one line on standard error."""
    join(entry_points(group=GROUP))
    try:
        app()
    except YurtClientError as error:
        typer.echo(f"yurt: {error}", err=True)
        sys.exit(1)


def _row(sandbox: Sandbox) -> list[str]:
    fields = sandbox.fields
    created = str(fields.get("createdAt") or "")[:19].replace("T", " ")
    return [sandbox.id, sandbox.name, sandbox.state, str(fields.get("snapshot") or ""), created]


def _mapping(pairs: list[str] | None) -> dict[str, str] | None:
    mapping = {}
    for pair in pairs or []:
        name, equals, value = pair.partition("=")
        if not name or not equals:
            message = f"{pair!r} is not NAME=VALUE"
            raise typer.BadParameter(message)
        mapping[name] = value
    return mapping or None


def _print_json(value: object) -> None:
    typer.echo(json.dumps(value, indent=2))
