"""``yurt org``: the tenants of a server, for whoever runs it."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from yurt.client import Client

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]

app = typer.Typer(help="Organizations: tenants that see nothing of each other.")


@app.command("create")
def create(
    name: Annotated[str, typer.Argument(help="What to call it.")], as_json: Json = False
) -> None:
    """Make an organization and print its first API key, which is shown only now."""
    with Client.from_environment() as client:
        made = client.create_organization(name)
    if as_json:
        typer.echo(json.dumps(made, indent=2))
    else:
        typer.echo(f"{made['id']}\n{made['apiKey']['value']}")


@app.command("ls")
def list_(as_json: Json = False) -> None:
    """List the organizations that your key knows of."""
    with Client.from_environment() as client:
        known = client.organizations()
    if as_json:
        typer.echo(json.dumps(known, indent=2))
        return
    for organization in known:
        typer.echo(f"{organization['id']}  {organization['name']}")


@app.command("limit")
def limit(
    organization_id: Annotated[str, typer.Argument(metavar="ID", help="Its id.")],
    sandboxes: Annotated[int | None, typer.Option(help="How many may exist.")] = None,
    cpu: Annotated[int | None, typer.Option(help="Cores of all that run.")] = None,
    memory: Annotated[int | None, typer.Option(help="GiB of memory of all that run.")] = None,
    disk: Annotated[int | None, typer.Option(help="GiB of all disks.")] = None,
) -> None:
    """Say how much an organization may use together; what is not named has no limit."""
    limits = {
        "totalSandboxQuota": sandboxes,
        "totalCpuQuota": cpu,
        "totalMemoryQuota": memory,
        "totalDiskQuota": disk,
    }
    with Client.from_environment() as client:
        client.limit_organization(organization_id, limits)


@app.command("rm")
def remove(
    organization_id: Annotated[str, typer.Argument(metavar="ID", help="Its id.")],
    as_json: Json = False,
) -> None:
    """Remove an organization that has no sandboxes; its keys end."""
    with Client.from_environment() as client:
        client.delete_organization(organization_id)
    if as_json:
        typer.echo(json.dumps({"deleted": organization_id}))
