"""What control asks of whatever runs jobs: Nomad on a cluster, the local scheduler on one machine.

A job is one start of one sandbox. A scheduler never restarts one: control decides.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from datetime import datetime


@dataclass(frozen=True, slots=True)
class Job:
    """What a runner is told before its assignment: no secret, and nothing that may change later."""

    sandbox_id: str
    generation: int
    image_id: str
    cpu: int
    memory_mib: int
    disk_bytes: int
    pids: int
    domain: str
    control_url: str


@dataclass(frozen=True, slots=True)
class Exit:
    """How a runner ended; ``reason`` is empty if it was asked to.

    ``phase`` is how far it had come: ``assign``, ``ready`` or ``stopping``; ``unknown`` when it was
    killed.
    """

    reason: str
    code: int
    phase: str
    at: datetime


@dataclass(frozen=True, slots=True)
class Allocation:
    """Where a job is, by the scheduler's word; its gate listens on ``address:port``."""

    sandbox_id: str
    generation: int
    node: str
    address: str
    port: int
    running: bool
    exit: Exit | None


class Scheduler(Protocol):
    """Runs jobs, at most one per sandbox."""

    async def submit(self, job: Job) -> Allocation:
        """Place and start a job; asked again for the same generation it returns what is there.

        Raises:
            NoCapacityError: no node has room; nothing was started.
            ConflictError: another generation of this sandbox still runs.
            UnavailableError: the scheduler cannot be asked.
        """
        ...

    async def stop(self, sandbox_id: str, *, grace_seconds: float) -> None:
        """End a job and return when it is over; a job that is not there counts as over.

        It is asked to unmount first and killed after ``grace_seconds``.
        """
        ...

    async def allocation(self, sandbox_id: str) -> Allocation | None:
        """Return where the newest job of a sandbox is, or None if there is none."""
        ...

    async def allocations(self) -> list[Allocation]:
        """List every job, also ended ones that were not forgotten: complete, or it raises."""
        ...

    async def forget(self, sandbox_id: str) -> None:
        """Drop an ended job; dropping one that is not there succeeds.

        Raises:
            ConflictError: it still runs.
        """
        ...

    def changes(self) -> AsyncIterator[str]:
        """Yield ids whose allocation may have changed: a hint to look, never the truth."""
        ...

    async def work(self, verb: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Run one of the runner's other verbs on the node concerned, and return its result.

        Verbs: ``remove-disk`` (``sandbox_id``), ``fetch-image`` (``image_id``), ``sweep``,
        ``inventory``.
        """
        ...
