"""Whether records, jobs, runners, disks, routes and archives tell the same of every sandbox.

What the study of reliability asks of eight relations is spread over two looks: ``yurt ps`` holds
records against jobs, runners, registrations and disks, and here are added what it cannot judge at
any time, as it may look while things are under way: states that ought to have ended, files that
ought to have gone, archives. Tokens and quotas are no copies that could differ: both are read from
the records.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.instance import Instance

_AT_REST = {"started", "stopped", "archived", "destroyed"}
_OF_A_DISK = {"disk.img", "disk.lock", "generation"}


def differences(instance: Instance) -> list[str]:
    """Every difference that there is now."""
    said = instance.run("ps", "--json", "--all", check=False)
    assert said.returncode in {0, 1}, said.stdout
    told: dict[str, Any] = json.loads(said.stdout)
    silent = [f"{name} does not answer" for name in told["silentNodes"]]
    found = [text for one in told["sandboxes"] for text in _of(one)]
    states = {one["id"]: one["record"]["state"] for one in told["sandboxes"] if one["record"]}
    return [*silent, *found, *_files(instance, states)]


def _of(one: dict[str, Any]) -> Iterator[str]:
    for text in one["differences"]:
        yield f"{one['id']}: {text}"
    record = one["record"]
    if record is None:
        return
    if record["state"] not in _AT_REST or record["state"] != record["desiredState"]:
        way, reason = f"{record['state']} → {record['desiredState']}", record["errorReason"]
        yield f"{one['id']}: {way} ({reason})"


def _files(instance: Instance, states: dict[str, str]) -> Iterator[str]:
    for path in instance.data.glob("disks/*/*"):
        if path.name not in _OF_A_DISK:
            yield f"{path.parent.name}: {path.name} is left beside its disk"
    archives = instance.data / "archive"
    stored = {path.name: list(path.iterdir()) for path in archives.glob("*") if path.is_dir()}
    for sandbox_id in states.keys() | stored.keys():
        state = states.get(sandbox_id, "without a record")
        wanted, there = int(state == "archived"), len(stored.get(sandbox_id, []))
        if there != wanted:
            yield f"{sandbox_id}: {state}, with {there} archives"
