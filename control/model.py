"""The nouns: what is stored of organisations, sandboxes, snapshots, keys and nodes. No I/O."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from control.naming import SandboxId

ORGANIZATION = "default"  # the installation's own, which makes the others
REGION = "us"  # the one that every generation of client accepts; it names no place
MIB_PER_GIB = 1024
BYTES_PER_GIB = 1 << 30
# So often, at least, the gate of a started sandbox is asked when it was last used.
ASK_ACTIVITY = timedelta(minutes=5)


class State(StrEnum):
    """Where a sandbox is, in the words of the wire."""

    CREATING = "creating"
    RESTORING = "restoring"
    DESTROYED = "destroyed"
    DESTROYING = "destroying"
    STARTED = "started"
    STOPPED = "stopped"
    STARTING = "starting"
    STOPPING = "stopping"
    ERROR = "error"
    BUILD_FAILED = "build_failed"
    PENDING_BUILD = "pending_build"
    BUILDING_SNAPSHOT = "building_snapshot"
    UNKNOWN = "unknown"
    PULLING_SNAPSHOT = "pulling_snapshot"
    ARCHIVED = "archived"
    ARCHIVING = "archiving"
    RESIZING = "resizing"
    SNAPSHOTTING = "snapshotting"
    FORKING = "forking"
    PAUSING = "pausing"
    PAUSED = "paused"
    RESUMING = "resuming"


STARTING_STATES = frozenset({State.CREATING, State.STARTING, State.RESTORING})
# These use no cores and no memory, or are about to.
RESTING_STATES = frozenset(
    {
        State.STOPPED,
        State.ARCHIVED,
        State.ARCHIVING,
        State.ERROR,
        State.BUILD_FAILED,
        State.DESTROYING,
        State.DESTROYED,
    }
)
DISKLESS_STATES = frozenset({State.ARCHIVED, State.DESTROYING, State.DESTROYED})
# Its image is still to be made.
BUILDING_STATES = frozenset({State.PENDING_BUILD, State.BUILDING_SNAPSHOT})
LIVE_STATES = STARTING_STATES | {State.STARTED, State.UNKNOWN}  # unknown: perhaps it runs


class DesiredState(StrEnum):
    """What was asked for."""

    DESTROYED = "destroyed"
    STARTED = "started"
    STOPPED = "stopped"
    RESIZED = "resized"
    ARCHIVED = "archived"
    PAUSED = "paused"


class StoppedBy(StrEnum):
    """Who ended a run."""

    API = "api"  # somebody who may: it sleeps until it is started
    COLLECTOR = "collector"  # nobody used it for long
    CRASH = "crash"  # nobody: its runner, its node or the scheduler gave up


@dataclass(frozen=True, slots=True)
class Resources:
    """What one sandbox may use: cores, and GiB of memory and disk."""

    cpu: int
    memory_gib: int
    disk_gib: int


@dataclass(frozen=True, slots=True)
class Size:
    """What a sandbox is to have from now on; None stays as it is."""

    cpu: int | None = None
    memory_gib: int | None = None
    disk_gib: int | None = None

    def of(self, known: Resources) -> Resources:
        """Return what becomes of the resources that a sandbox has."""
        return Resources(
            known.cpu if self.cpu is None else self.cpu,
            known.memory_gib if self.memory_gib is None else self.memory_gib,
            known.disk_gib if self.disk_gib is None else self.disk_gib,
        )


@dataclass(frozen=True, slots=True)
class Intervals:
    """Timers in minutes, counted from the last activity.

    ``stop`` 0 is never, ``archive`` 0 is the maximum, ``delete`` -1 is never and 0 is at the stop.
    ``ttl`` counts from when it was set, whatever happens; 0 is never.
    """

    stop: int = 15
    archive: int = 10_080
    delete: int = -1
    ttl: int = 0

    def end(self, now: datetime) -> datetime | None:
        """When ``ttl`` is over if it counts from ``now``."""
        return now + minutes(self.ttl) if self.ttl else None


@dataclass(frozen=True, slots=True)
class NetworkPolicy:
    """Where a sandbox may connect to; without ``allow`` the internet, and nothing private."""

    block_all: bool = False
    allow: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Secrets:
    """What only the owner and the gate may know of a sandbox; encrypted at rest.

    ``revoked`` maps signatures of previews that were called back to when they expire anyway,
    in unix seconds. ``archive_key`` (32 bytes, hex) opens the archive; empty if there is none.
    """

    env: Mapping[str, str] = field(default_factory=dict)
    preview_token: str = field(default_factory=lambda: secrets.token_hex(16))
    signing_key: str = field(default_factory=lambda: secrets.token_hex(32))
    file_signing_key: str = field(default_factory=lambda: secrets.token_urlsafe(32))
    revoked: Mapping[str, int] = field(default_factory=dict)
    archive_key: str = ""


@dataclass(frozen=True, slots=True)
class Mount:
    """Where a sandbox has a volume, or the part of it below ``subpath``."""

    volume_id: str
    path: str
    subpath: str = ""


@dataclass(frozen=True, slots=True)
class Build:
    """What an image is built from: a Dockerfile, and the archives that it copies from, by hash."""

    dockerfile: str
    contexts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Run:
    """The newest start of a sandbox.

    Attributes:
        generation: counts the starts; whatever comes from an older one is refused.
        incarnation: drawn by the runner that claimed this generation, None before.
        up_sequence: of the last report that was accepted.
        down_sequence: of the last message that was sent.
        pushed_version: the version of the assignment that the gate has.
        exit_reason: why it is over, as its runner told last; None before, or if nothing was told.
        exit_reached: what its runner had reached by then.
    """

    generation: int = 1
    incarnation: str | None = None
    up_sequence: int = 0
    down_sequence: int = 0
    pushed_version: int = 0
    exit_reason: str | None = None
    exit_reached: str = ""


@dataclass(frozen=True, slots=True)
class Archive:
    """A sandbox's files in the object store.

    Attributes:
        name: of the object.
        digest: its SHA-256, hexadecimal.
        size: in bytes.
        is_stale: the sandbox was started since; the object is only to be removed.
    """

    name: str
    digest: str
    size: int
    is_stale: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Sandbox:
    """The record of a sandbox.

    Attributes:
        user: whom its processes run as.
        entrypoint: what runs from the start, empty for the image's own.
        assignment_version: rises when something changes that the gate must know.
        changed_at: when ``state`` was reached; deadlines count from here.
        recoverable: an error after which a start may be tried again.
        node: where its disk is; empty before the first start, and while it is archived.
        archive: where its files are instead, or will be when the disk is removed.
        stopped_by: who ended its newest run or asked for that; None while it is to run.
        stopped_at: when that run was over.
        destroy_at: when ``intervals.ttl`` is over.
        build: what its image is built from, None if it is made from a snapshot.
        snapshotting: the id of the snapshot that is being made of it; empty if none is.
        hidden: that it is ours, to build an image in, and no user's.
    """

    id: SandboxId
    name: str
    organization_id: str = ORGANIZATION
    snapshot: str
    image_id: str
    user: str
    entrypoint: tuple[str, ...] = ()
    workdir: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    public: bool = False
    private_ports: tuple[int, ...] = ()
    network: NetworkPolicy = field(default_factory=NetworkPolicy)
    volumes: tuple[Mount, ...] = ()
    target: str = REGION
    resources: Resources
    intervals: Intervals = field(default_factory=Intervals)
    state: State = State.CREATING
    desired_state: DesiredState = DesiredState.STARTED
    error_reason: str | None = None
    recoverable: bool = False
    node: str = ""
    stopped_by: StoppedBy | None = None
    stopped_at: datetime | None = None
    destroy_at: datetime | None = None
    run: Run = field(default_factory=Run)
    assignment_version: int = 1
    created_at: datetime
    updated_at: datetime
    changed_at: datetime
    last_activity_at: datetime
    secrets: Secrets = field(default_factory=Secrets, repr=False)
    archive: Archive | None = None
    build: Build | None = None
    snapshotting: str = ""
    hidden: bool = False

    @property
    def is_in_archive(self) -> bool:
        """Tell whether a start needs the archive, unless the disk is still there."""
        return self.archive is not None and not self.archive.is_stale

    @property
    def is_settled(self) -> bool:
        """Tell whether it is where it was asked to be, or has failed to get there."""
        if self.snapshotting:
            return False
        if self.state in {State.ERROR, State.BUILD_FAILED}:
            return self.desired_state is not DesiredState.DESTROYED
        return self.state.value == self.desired_state.value

    @property
    def due_at(self) -> datetime | None:
        """When its timers have to be looked at next, as far as its record tells; None is never."""
        if self.desired_state is DesiredState.DESTROYED:
            return None
        stop, delete = self.intervals.stop, self.intervals.delete
        dues = [self.destroy_at] if self.destroy_at else []
        if self.state is State.STARTED:
            dues.append(self.last_activity_at + min(ASK_ACTIVITY, minutes(stop or 60) / 2))
        if self.state in {State.STOPPED, State.ARCHIVED} and delete >= 0:
            dues.append(self.ended_at + minutes(delete))
        if self.state is State.STOPPED:
            dues.append(self.ended_at + minutes(self.intervals.archive))
        return min(dues, default=None)

    @property
    def ended_at(self) -> datetime:
        """When its newest run was over, if it does not run."""
        return self.stopped_at or self.changed_at

    @property
    def wakes(self) -> bool:
        """Tell whether whoever wants to use it may start it by that: nobody asked for its end."""
        return self.stopped_by in {StoppedBy.COLLECTOR, StoppedBy.CRASH}


def minutes(count: int) -> timedelta:
    """Return so many minutes."""
    return timedelta(minutes=count)


class SnapshotState(StrEnum):
    """Where a snapshot is, in the words of the wire."""

    BUILDING = "building"
    PENDING = "pending"
    PULLING = "pulling"
    ACTIVE = "active"
    INACTIVE = "inactive"
    ERROR = "error"
    BUILD_FAILED = "build_failed"
    REMOVING = "removing"


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """A named image with the resources and defaults of the sandboxes made from it.

    ``image_name`` is what its image was called where it comes from, empty for the server's own;
    ``user`` is the image's own; ``private_ports`` are never public, whatever the sandbox is. Those
    that are ``general`` are for every organisation, others for their own. One that is ``hidden``
    is kept for who builds the same again.
    """

    id: str
    name: str
    organization_id: str = ORGANIZATION
    general: bool = False
    image_id: str
    user: str
    entrypoint: tuple[str, ...] = ()
    private_ports: tuple[int, ...] = ()
    resources: Resources
    image_name: str = ""
    source_sandbox_id: str | None = None
    build: Build | None = None
    hidden: bool = False
    size_bytes: int
    state: SnapshotState = SnapshotState.ACTIVE
    error_reason: str | None = None
    created_at: datetime
    updated_at: datetime
    last_used_at: datetime | None = None


class VolumeState(StrEnum):
    """Where a volume is, in the words of the wire."""

    CREATING = "creating"
    READY = "ready"
    PENDING_CREATE = "pending_create"
    PENDING_DELETE = "pending_delete"
    DELETING = "deleting"
    DELETED = "deleted"
    ERROR = "error"


# A volume that is not ready yet is so at its first use at the latest.
USABLE_VOLUMES = frozenset({VolumeState.PENDING_CREATE, VolumeState.CREATING, VolumeState.READY})


@dataclass(frozen=True, slots=True, kw_only=True)
class Volume:
    """Files that sandboxes share and that outlive them.

    Attributes:
        size_gib: how much it can hold.
        node: where its files are; empty before the first use, which decides it.
        is_made: that they were made there; from then on they are never made anew, only found.
    """

    id: str
    name: str
    organization_id: str = ORGANIZATION
    size_gib: int
    state: VolumeState = VolumeState.PENDING_CREATE
    error_reason: str | None = None
    node: str = ""
    is_made: bool = False
    created_at: datetime
    updated_at: datetime
    last_used_at: datetime | None = None


class Permission(StrEnum):
    """What a key may be used for; reading what is not named here takes any key."""

    WRITE_REGISTRIES = "write:registries"
    DELETE_REGISTRIES = "delete:registries"
    WRITE_SNAPSHOTS = "write:snapshots"
    DELETE_SNAPSHOTS = "delete:snapshots"
    WRITE_SANDBOXES = "write:sandboxes"
    DELETE_SANDBOXES = "delete:sandboxes"
    READ_VOLUMES = "read:volumes"
    WRITE_VOLUMES = "write:volumes"
    DELETE_VOLUMES = "delete:volumes"
    WRITE_REGIONS = "write:regions"
    DELETE_REGIONS = "delete:regions"
    READ_AUDIT_LOGS = "read:audit_logs"
    READ_RUNNERS = "read:runners"
    WRITE_RUNNERS = "write:runners"
    DELETE_RUNNERS = "delete:runners"
    MANAGE_API_KEYS = "manage:api_keys"
    MANAGE_SECRETS = "manage:secrets"
    READ_LIMITS = "read:limits"


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    """An API key without the key: ``prefix`` finds it, ``hash`` (SHA-256, hex) proves it.

    It reaches what its organisation has, and nothing else; names are unique there.
    """

    name: str
    organization_id: str = ORGANIZATION
    prefix: str
    hash: str
    permissions: frozenset[Permission]
    created_at: datetime
    expires_at: datetime | None = None
    last_used_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Organization:
    """A tenant: whose keys, sandboxes, snapshots and volumes are seen by nobody else.

    The limits are for all its sandboxes together; None leaves it to the installation.
    """

    id: str
    name: str
    created_at: datetime
    max_sandboxes: int | None = None
    max_cpu: int | None = None
    max_memory_gib: int | None = None
    max_disk_gib: int | None = None


@dataclass(frozen=True, slots=True)
class Usage:
    """What an organisation or a sandbox uses: cores and memory until it stops, its disk until it
    is archived or deleted. Volumes count as disks, too, until they are deleted.
    """

    sandboxes: int = 0
    cpu: int = 0
    memory_gib: int = 0
    disk_gib: int = 0
    snapshots: int = 0
    volumes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditLine:
    """What was done by whose key, and how it ended; ``id`` sorts by time."""

    id: str
    organization_id: str
    created_at: datetime
    actor: str
    actor_prefix: str
    action: str
    target_type: str
    target_id: str
    status: int
    source: str


@dataclass(frozen=True, slots=True)
class Repeat:
    """What is known of a call with an idempotency key; without a status it is not answered yet.

    ``request`` is a digest of what was asked.
    """

    request: str
    status: int | None
    body: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class Node:
    """A host that sandboxes run on; ``key`` seals the messages between control and its runners."""

    name: str
    key: bytes = field(repr=False)
    joined_at: datetime
