"""``yurt snapshot``: what sandboxes are made from, and where nodes find it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer

from control.cli.output import Output, failures_told, read_settings

if TYPE_CHECKING:
    from control.model import Snapshot
    from control.settings import Settings

app = typer.Typer(help="What sandboxes are made from.", add_completion=False)


@app.callback()
def snapshot() -> None:
    """Hand snapshots to nodes."""


@app.command("publish")
def publish(
    name: Annotated[str, typer.Argument(metavar="SNAPSHOT", help="Its id or name.")] = "default",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Put a snapshot's image, which must be on this machine, into the registry of the nodes."""
    output = Output(as_json=as_json)
    with failures_told():
        from control.errors import InvalidError

        settings = read_settings()
        if not settings.registry:
            raise InvalidError("there is no registry: set YURT_REGISTRY, as for control")

        from jobs.registry import publish as push

        found = asyncio.run(_find(settings, name))
        with output.step(f"publishing {found.name}") as progress:
            push(settings.data, found.image_id, settings.registry, progress)
    text = f"Nodes find {found.name} in {settings.registry} ({found.image_id[:12]})."
    output.result({"name": found.name, "imageId": found.image_id}, text)


async def _find(settings: Settings, name: str) -> Snapshot:
    from control.cli.world import open_store
    from control.model import ORGANIZATION
    from control.snapshots import existing_snapshot

    async with open_store(settings) as store:
        return await existing_snapshot(store.snapshots, ORGANIZATION, name)
