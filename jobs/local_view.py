"""A look at what the local scheduler has, from another process: nothing is adopted or changed."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from control.errors import NotFoundError
from jobs.installed import install_runner
from jobs.local import (
    CORDONED,
    GATE_ADDRESS,
    NODE,
    allocation_of,
    is_live,
    read_exit,
    read_job,
    run_directories,
    run_verb,
)
from jobs.scheduler import NodeStatus

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from jobs.scheduler import Allocation


class LocalView:
    """What the run directories of a data directory tell; its control may run or not."""

    def __init__(self, data: Path) -> None:
        self._data = data

    async def nodes(self) -> list[NodeStatus]:
        """Describe this machine, whose sizes are not looked at."""
        here = NodeStatus(
            name=NODE,
            address=GATE_ADDRESS,
            is_ready=True,
            is_cordoned=(self._data / CORDONED).exists(),
            node_class="",
            version="",
            memory_mib=0,
            memory_reserved_mib=0,
        )
        return [here]

    async def allocations(self) -> list[Allocation]:
        """List every job, also ended ones that were not forgotten."""
        return await asyncio.to_thread(self._read)

    def _read(self) -> list[Allocation]:
        found = []
        for directory in run_directories(self._data):
            try:
                job, port = read_job(directory)
                lives = is_live(directory)
                ended = None if lives else read_exit(directory)
            except FileNotFoundError:
                continue  # just being made, or forgotten since it was listed
            found.append(allocation_of(job, port, ended, running=lives))
        return found

    async def work(
        self, verb: str, arguments: Mapping[str, Any], *, node: str = ""
    ) -> dict[str, Any]:
        """Run one of the runner's other verbs, as ``Scheduler.work`` does.

        Raises:
            NotFoundError: there is no such node.
            UnavailableError: it failed; the text says why.
        """
        if node not in {"", NODE}:
            raise NotFoundError(f"no such node: {node} (there is only {NODE})")
        runner = await asyncio.to_thread(install_runner, self._data)
        return await run_verb(runner, verb, {"data": str(self._data), **arguments})
