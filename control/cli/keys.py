"""``yurt keys``: the installation's master key, and another one in its place."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated

import typer

from control.cli.output import Output, failures_told, read_settings

if TYPE_CHECKING:
    from control.settings import Settings

# Longer than a running control needs to store what it sealed just before it saw the new key.
_SETTLE_SECONDS = 15.0

app = typer.Typer(help="The installation's keys.", add_completion=False)


@dataclass(frozen=True, slots=True)
class Rotated:
    """What a rotation did; keys are named by their fingerprints."""

    old: str
    new: str
    values: int
    went_on: bool


@app.callback()
def keys() -> None:
    """Change what everything secret is encrypted by."""


@app.command("rotate")
def rotate_(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Make a new master key and encrypt everything by it; one that was cut off goes on."""
    output = Output(as_json=as_json)
    with failures_told():
        from control.cli import checks
        from control.errors import UnavailableError

        if os.geteuid() != 0:
            raise UnavailableError(checks.root(os.geteuid()).advice)
        settings = read_settings()
        with output.step("rotating the master key"):
            done = rotate(settings, settle_seconds=_SETTLE_SECONDS)
    file = settings.data / "secrets.json"
    text = (
        f"{done.values} values are encrypted by the new master key {done.new}; the old one "
        f"({done.old}) opens nothing here any more, and is not kept.\nBackups of before need the "
        f"keys of before: keep your copy of those with them, and make a new one of {file}."
    )
    if settings.is_shared:
        text += f"\nGive {file} to every control before you start it."
    fields = {"old": done.old, "new": done.new, "values": done.values, "wentOn": done.went_on}
    output.result(fields, text)


def rotate(settings: Settings, *, settle_seconds: float) -> Rotated:
    """Put a new master key in the place of the old one, which opens values until none is left.

    A control on this machine may run: it sees the new key at once. Those of several machines have
    their own copies of the keys, so they must be stopped.

    Raises:
        ConflictError: another rotation runs, or several controls do.
        NotFoundError: there are no keys here.
        UnavailableError: the database does not answer; the rotation can be gone on with.
    """
    from control.errors import ConflictError, NotFoundError, UnavailableError
    from control.store.dump import controls_at
    from control.vault import fingerprint, new_master_key, read_keys, replace_keys
    from jobs.runner import locks

    path = settings.data / "secrets.json"
    if not path.exists():
        raise NotFoundError(f"there is no {path}: set YURT_DATA to control's own")
    (settings.data / "run").mkdir(mode=0o700, exist_ok=True)
    lock = locks.take(str(settings.data / "run" / "rotate.lock"))
    if lock is None:
        raise ConflictError("another rotation runs")
    try:
        if settings.is_shared and (others := controls_at(settings.database_url)):
            raise ConflictError(
                f"{others} connections of controls are open: stop every control first; sandboxes "
                "go on meanwhile"
            )
        known = read_keys(path)
        went_on = bool(known.older_keys)
        if not went_on:
            known = replace(known, master_key=new_master_key(), older_keys=(known.master_key,))
            replace_keys(path, known)
        values = asyncio.run(_rekey(settings, settle_seconds))
        replace_keys(path, replace(known, older_keys=()))
    except OSError as error:
        raise UnavailableError(f"{path} cannot be written: {error.strerror}") from error
    finally:
        os.close(lock)
    old = fingerprint(known.older_keys[0])
    return Rotated(old, fingerprint(known.master_key), values, went_on)


async def _rekey(settings: Settings, settle_seconds: float) -> int:
    """Seal anew until nothing is left, also of what a running control was about to store."""
    from control.cli.world import open_store
    from jobs.runner import locks

    values, settled = 0, False
    async with open_store(settings) as store:
        while True:
            found = await store.rekey()
            values += found
            if found:
                continue
            if settled or not locks.is_held(str(settings.data / "run" / "control.lock")):
                return values
            await asyncio.sleep(settle_seconds)
            settled = True
