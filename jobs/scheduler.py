"""What control asks of whatever runs jobs: Nomad on a cluster, the local scheduler on one machine.

A job is one start of one sandbox. A scheduler never restarts one: control decides.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Mapping
    from datetime import datetime


@dataclass(frozen=True, slots=True)
class Job:
    """What a runner is told before its assignment: no secret, and nothing that may change later.

    ``node`` is where the sandbox's disk is, and the only place where it may start; empty before
    the first start. With ``restore`` a disk that is not there is made from the sandbox's archive.
    """

    sandbox_id: str
    generation: int
    image_id: str
    cpu: int
    memory_mib: int
    disk_bytes: int
    pids: int
    domain: str
    control_url: str
    node: str = ""
    restore: bool = False


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
    """Where a job is, by the scheduler's word; its gate listens on ``address:port``.

    While the scheduler has lost its node it is not ``reachable``: it may run all the same, and
    counts as running. One that waits for a place has no ``node`` yet.
    """

    sandbox_id: str
    generation: int
    node: str
    address: str
    port: int
    running: bool
    exit: Exit | None
    reachable: bool = True


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """A machine that may run jobs, by the scheduler's word.

    ``version`` is the scheduler's own on that node. The disks' share of it is what the limits of
    all disks there may sum up to.
    """

    name: str
    address: str
    is_ready: bool
    is_cordoned: bool
    node_class: str
    version: str
    memory_mib: int
    memory_reserved_mib: int
    disk_mib: int = 0


class Scheduler(Protocol):
    """Runs jobs, at most one per sandbox."""

    async def submit(self, job: Job, *, avoid: Collection[str] = ()) -> Allocation:
        """Place and start a job; asked again for the same generation it returns what is there.

        A scheduler counts the disks of what runs; ``avoid`` names the nodes where those that
        stopped leave no room for a new one.

        Raises:
            NoCapacityError: no node has room; nothing was started.
            ConflictError: another generation of this sandbox still runs.
            UnavailableError: the scheduler cannot be asked.
        """
        ...

    async def stop(self, sandbox_id: str, *, grace_seconds: float) -> None:
        """End a job and return when it is over; a job that is not there counts as over.

        It is asked to unmount first and killed after ``grace_seconds``.

        Raises:
            UnavailableError: nobody can tell whether it is over, as when its node is lost.
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

    async def work(
        self, verb: str, arguments: Mapping[str, Any], *, node: str = ""
    ) -> dict[str, Any]:
        """Run one of the runner's other verbs on a node, by default on any, and return its result.

        Verbs: ``remove-disk`` (``sandbox_id``), ``archive-disk`` (``sandbox_id``, ``generation``,
        ``control_url``), ``make-volume`` (``volume_id``, ``size`` in bytes), ``remove-volume``
        (``volume_id``), ``fetch-image`` (``image_id``), ``import-image`` (``reference``, ``plain``,
        ``most_bytes``), ``commit-disk`` (``sandbox_id``, ``image_id``, ``generation``,
        ``most_bytes``), ``derive-image`` (``image_id``, ``defaults``), ``collect-images``
        (``keep``), ``sweep``, ``inventory``. Whoever is
        cancelled while waiting has the work ended.

        Raises:
            WorkError: it failed; the text says why.
            UnavailableError: the node cannot run it now.
        """
        ...

    async def nodes(self) -> list[NodeStatus]:
        """List every node that jobs may be placed on, also lost ones: complete, or it raises."""
        ...

    async def disk_sizes(self) -> dict[str, int]:
        """Return each node's ``disk_mib`` alone: asked at every start, it must cost little."""
        ...

    async def cordon(self, node: str, *, on: bool) -> None:
        """Place nothing more on a node, or do so again; what runs there goes on.

        Raises:
            NotFoundError: there is no such node.
        """
        ...
