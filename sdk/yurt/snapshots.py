"""``yurt snapshot``: what sandboxes are made from."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from yurt.client import Client, YurtClientError

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]

POLL_SECONDS = 1.0
_FAILED = {"error", "build_failed"}

app = typer.Typer(help="Snapshots: what sandboxes are made from.")


@app.command("create")
def create(  # noqa: PLR0913 - its options
    name: Annotated[str, typer.Argument(help="What to call it.")],
    image: Annotated[str | None, typer.Option(help="An image, like node:22.")] = None,
    dockerfile: Annotated[str | None, typer.Option(help="File to build it from.")] = None,
    sandbox: Annotated[str | None, typer.Option(help="Id or name of a sandbox.")] = None,
    cpu: Annotated[int | None, typer.Option(help="Cores of sandboxes made from it.")] = None,
    memory: Annotated[int | None, typer.Option(help="Their memory, GiB.")] = None,
    disk: Annotated[int | None, typer.Option(help="Their disk, GiB.")] = None,
    as_json: Json = False,
) -> None:
    """Make a snapshot from an image, a Dockerfile or a sandbox, and print its id when it is there.

    What a build says goes to standard error.
    """
    if sum(source is not None for source in (image, dockerfile, sandbox)) != 1:
        message = "give one of --image, --dockerfile and --sandbox"
        raise typer.BadParameter(message)
    with Client.from_environment() as client:
        if sandbox is not None:
            client.snapshot_sandbox(sandbox, name)
        else:
            text = _text(dockerfile) if dockerfile is not None else None
            build = {"dockerfileContent": text} if text is not None else None
            wanted = {"imageName": image, "buildInfo": build, "cpu": cpu}
            client.create_snapshot(name=name, memory=memory, disk=disk, **wanted)
        made = _until_made(client, name, says=dockerfile is not None)
    typer.echo(json.dumps(made, indent=2) if as_json else made["id"])


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        message = f"{path} cannot be read: {error}"
        raise YurtClientError(message) from error


def _until_made(client: Client, name: str, *, says: bool) -> dict[str, Any]:
    """Wait for a snapshot; tell what its build says.

    Raises:
        YurtClientError: it could not be made.
    """
    if says:
        for piece in client.build_log(name):
            typer.echo(piece, nl=False, err=True)
    while (made := client.snapshot(name))["state"] not in {"active", *_FAILED}:
        time.sleep(POLL_SECONDS)
    if made["state"] in _FAILED:
        message = f"snapshot {name} could not be made: {made['errorReason']}"
        raise YurtClientError(message)
    return made


@app.command("list")
def list_(as_json: Json = False) -> None:
    """List the snapshots."""
    with Client.from_environment() as client:
        known = list(client.snapshots())
    if as_json:
        typer.echo(json.dumps(known, indent=2))
        return
    for snapshot in known:
        reason = (snapshot.get("errorReason") or "").partition("\n")[0]
        line = f"{snapshot['id']}  {snapshot['state']}  {snapshot['name']}  {reason}"
        typer.echo(line.rstrip())


@app.command("delete")
def delete(
    names: Annotated[list[str], typer.Argument(metavar="SNAPSHOT...", help="Ids or names.")],
    as_json: Json = False,
) -> None:
    """Delete snapshots; sandboxes made from them go on, and start again."""
    with Client.from_environment() as client:
        for name in names:
            client.delete_snapshot(name)
    if as_json:
        typer.echo(json.dumps({"deleted": names}))
