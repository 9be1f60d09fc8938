"""``yurt volume``: files that sandboxes share and that outlive them."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from yurt.client import Client

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Mounts = Annotated[
    list[str] | None,
    typer.Option(metavar="VOLUME[/SUBPATH]:PATH", help="Mount a volume; may be repeated."),
]

app = typer.Typer(help="Volumes: files that sandboxes share and that outlive them.")


@app.command("create")
def create(
    name: Annotated[str, typer.Argument(help="What to call it.")], as_json: Json = False
) -> None:
    """Make a volume and print its id."""
    with Client.from_environment() as client:
        made = client.create_volume(name)
    typer.echo(json.dumps(made, indent=2) if as_json else made["id"])


@app.command("list")
def list_(as_json: Json = False) -> None:
    """List the volumes."""
    with Client.from_environment() as client:
        known = client.volumes()
    if as_json:
        typer.echo(json.dumps(known, indent=2))
        return
    for volume in known:
        reason = f"  {volume['errorReason']}" if volume.get("errorReason") else ""
        typer.echo(f"{volume['id']}  {volume['state']}  {volume['name']}{reason}")


@app.command("delete")
def delete(
    names: Annotated[list[str], typer.Argument(metavar="VOLUME...", help="Ids or names.")],
    as_json: Json = False,
) -> None:
    """Delete volumes with everything in them; no sandbox may have them."""
    with Client.from_environment() as client:
        for name in names:
            client.delete_volume(name)
    if as_json:
        typer.echo(json.dumps({"deleted": names}))


def mounts(texts: list[str] | None) -> list[dict[str, str]] | None:
    """Read where volumes are to be: ``VOLUME:PATH`` or ``VOLUME/SUBPATH:PATH`` each.

    Raises:
        BadParameter: one is neither.
    """
    found = []
    for text in texts or []:
        source, _, path = text.partition(":")
        name, _, subpath = source.partition("/")
        if not name or not path:
            message = f"{text!r} is not VOLUME[/SUBPATH]:PATH"
            raise typer.BadParameter(message)
        part = {"subpath": subpath} if subpath else {}
        found.append({"volumeId": name, "mountPath": path} | part)
    return found or None
