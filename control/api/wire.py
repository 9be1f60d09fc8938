"""Nouns as JSON, in the shapes that every generation of SDKs takes at once."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pydantic_core import to_json
from starlette.responses import Response

from control.model import (
    BYTES_PER_GIB,
    ORGANIZATION,
    REGION,
    STARTING_STATES,
    ApiKey,
    AuditLine,
    Build,
    DesiredState,
    Mount,
    Organization,
    Sandbox,
    Snapshot,
    SnapshotState,
    State,
    Usage,
    Volume,
)
from control.settings import Settings

# Where the public description has a time that cannot be absent.
_NEVER = "1970-01-01T00:00:00.000Z"
_VERSION = re.compile(r"v?([0-9]{1,6})\.([0-9]{1,6})\.([0-9]{1,6})")
_SINCE_CURSOR_LIST = (0, 150, 0)
_SINCE_RESIZING = (0, 143, 0)
_SINCE_TOLERANT = (0, 170, 0)
# What an SDK sees instead of a state that it would raise on.
_OLD_STATES = {
    State.RESIZING: State.STARTED,
    State.SNAPSHOTTING: State.STARTED,
    State.FORKING: State.STARTED,
    State.PAUSING: State.STARTED,
    State.PAUSED: State.STOPPED,
    State.RESUMING: State.STOPPED,
}
_OLD_DESIRED = {
    DesiredState.RESIZED: DesiredState.STARTED,
    DesiredState.PAUSED: DesiredState.STOPPED,
}


_BACKUP_STATES = {
    State.ARCHIVING: "InProgress",
    State.ARCHIVED: "Completed",
    State.RESTORING: "Completed",
}


@dataclass(frozen=True, slots=True)
class Sdk:
    """Which SDK is asking, by its own word; ``version`` is None for anything else."""

    version: tuple[int, int, int] | None = None

    @classmethod
    def from_field(cls, text: str | None) -> Sdk:
        """Read ``X-Daytona-SDK-Version``; development builds count as the newest."""
        found = _VERSION.match(text or "")
        if found is None:
            return cls()
        version = (int(found[1]), int(found[2]), int(found[3]))
        return cls(version if version > (0, 0, 0) else None)

    def _before(self, version: tuple[int, int, int]) -> bool:
        return self.version is not None and self.version < version

    @property
    def lists_arrays(self) -> bool:
        """Tell whether it takes a list of sandboxes as a bare array."""
        return self._before(_SINCE_CURSOR_LIST)

    @property
    def knows_all(self) -> bool:
        """Tell whether it takes states that it does not know for some state."""
        return not self._before(_SINCE_TOLERANT)

    def state(self, state: State) -> State:
        """Return the state to show it."""
        if state is State.RESIZING and not self._before(_SINCE_RESIZING):
            return state
        return _OLD_STATES.get(state, state) if self._before(_SINCE_TOLERANT) else state

    def desired(self, desired: DesiredState) -> DesiredState:
        """Return the desired state to show it."""
        if self._before(_SINCE_TOLERANT):
            return _OLD_DESIRED.get(desired, desired)
        return desired


def answer(content: Any, status: int = 200) -> Response:
    """Answer with JSON."""
    return Response(to_json(content), status, media_type="application/json")


def iso(moment: datetime) -> str:
    """Write a time: RFC 3339, UTC, with milliseconds."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"


def _maybe_iso(moment: datetime | None) -> str | None:
    return None if moment is None else iso(moment)


def sandbox_json(sandbox: Sandbox, sdk: Sdk, toolbox_url: str) -> dict[str, Any]:
    """Write a sandbox. There is no ``class``: old SDKs raise on what they do not know there."""
    resources, intervals = sandbox.resources, sandbox.intervals
    return {
        "id": sandbox.id,
        "organizationId": sandbox.organization_id,
        "name": sandbox.name,
        "snapshot": None if sandbox.build else sandbox.snapshot,
        "user": sandbox.user or "root",
        "env": sandbox.secrets.env,
        "labels": sandbox.labels,
        "public": sandbox.public,
        "networkBlockAll": sandbox.network.block_all,
        "networkAllowList": ",".join(sandbox.network.allow) or None,
        "kvm": False,
        "target": sandbox.target,
        "cpu": resources.cpu,
        "gpu": 0,
        "memory": resources.memory_gib,
        "disk": resources.disk_gib,
        "state": sdk.state(_shown(sandbox, sdk)).value,
        "desiredState": sdk.desired(sandbox.desired_state).value,
        # While it starts, that is how far it has come, and no error.
        "errorReason": None if sandbox.state in STARTING_STATES else sandbox.error_reason,
        "buildInfo": _build_json(sandbox.build, sandbox.snapshot, sandbox.created_at),
        "recoverable": sandbox.recoverable,
        "backupState": _BACKUP_STATES.get(sandbox.state, "None"),
        "autoStopInterval": intervals.stop,
        "autoArchiveInterval": intervals.archive,
        "autoDeleteInterval": intervals.delete,
        "autoPauseInterval": 0,
        "autoDestroyAt": _maybe_iso(sandbox.destroy_at),
        "volumes": [_mount_json(mount) for mount in sandbox.volumes],
        "createdAt": iso(sandbox.created_at),
        "updatedAt": iso(sandbox.updated_at),
        "lastActivityAt": iso(sandbox.last_activity_at),
        "sandboxClass": "container",
        "toolboxProxyUrl": toolbox_url,
    }


def _shown(sandbox: Sandbox, sdk: Sdk) -> State:
    return State.SNAPSHOTTING if sandbox.snapshotting and sdk.knows_all else sandbox.state


def _build_json(build: Build | None, reference: str, at: datetime) -> dict[str, Any] | None:
    if build is None:
        return None
    return {
        "dockerfileContent": build.dockerfile,
        "contextHashes": list(build.contexts),
        "createdAt": iso(at),
        "updatedAt": iso(at),
        "snapshotRef": reference,
    }


def _mount_json(mount: Mount) -> dict[str, Any]:
    shown = {"volumeId": mount.volume_id, "mountPath": mount.path}
    return shown | ({"subpath": mount.subpath} if mount.subpath else {})


def volume_json(volume: Volume) -> dict[str, Any]:
    """Write a volume."""
    return {
        "id": volume.id,
        "name": volume.name,
        "organizationId": volume.organization_id,
        "state": volume.state.value,
        "errorReason": volume.error_reason,
        "createdAt": iso(volume.created_at),
        "updatedAt": iso(volume.updated_at),
        "lastUsedAt": _maybe_iso(volume.last_used_at),
    }


def snapshot_json(snapshot: Snapshot) -> dict[str, Any]:
    """Write a snapshot; ``size`` is in GiB, ``enabled`` is for SDK 0.21."""
    resources = snapshot.resources
    return {
        "id": snapshot.id,
        "organizationId": snapshot.organization_id,
        "general": snapshot.general,
        "name": snapshot.name,
        "imageName": snapshot.image_name or snapshot.name,
        "buildInfo": _build_json(snapshot.build, snapshot.name, snapshot.created_at),
        "state": snapshot.state.value,
        "enabled": snapshot.state is not SnapshotState.INACTIVE,
        "size": round(snapshot.size_bytes / BYTES_PER_GIB, 3) or None,
        "entrypoint": list(snapshot.entrypoint) or None,
        "cpu": resources.cpu,
        "gpu": 0,
        "mem": resources.memory_gib,
        "disk": resources.disk_gib,
        "errorReason": snapshot.error_reason,
        "createdAt": iso(snapshot.created_at),
        "updatedAt": iso(snapshot.updated_at),
        "lastUsedAt": _maybe_iso(snapshot.last_used_at),
        "sourceSandboxId": snapshot.source_sandbox_id,
        "regionIds": [REGION],
        "ref": f"yurt/snapshots:daytona-{snapshot.image_id}" if snapshot.image_id else None,
        "sandboxClass": "container",
    }


def key_json(key: ApiKey) -> dict[str, Any]:
    """Write an API key, without the key."""
    return {
        "name": key.name,
        "value": f"yurt_{key.prefix}_{'*' * 8}",
        "createdAt": iso(key.created_at),
        "permissions": sorted(key.permissions),
        "lastUsedAt": _maybe_iso(key.last_used_at),
        "expiresAt": _maybe_iso(key.expires_at),
        "userId": key.organization_id,
    }


def organization_json(organization: Organization, settings: Settings) -> dict[str, Any]:
    """Write an organisation; what it has no setting for is off."""
    created = iso(organization.created_at)
    unlimited = dict.fromkeys(
        f"{scope}RateLimit{unit}"
        for scope in ("authenticated", "sandboxCreate", "sandboxLifecycle")
        for unit in ("", "TtlSeconds")
    )
    return {
        "id": organization.id,
        "name": organization.name,
        "createdBy": ORGANIZATION,
        "personal": organization.id == ORGANIZATION,
        "createdAt": created,
        "updatedAt": created,
        "suspended": False,
        "suspendedAt": _NEVER,
        "suspensionReason": "",
        "suspendedUntil": _NEVER,
        "suspensionCleanupGracePeriodHours": 0,
        "maxCpuPerSandbox": settings.max_cpu,
        "maxMemoryPerSandbox": settings.max_memory_gib,
        "maxDiskPerSandbox": settings.max_disk_gib,
        "secretQuota": 0,
        "maxSecretsPerSandbox": 0,
        "snapshotDeactivationTimeoutMinutes": 0,
        "sandboxLimitedNetworkEgress": False,
        "previewWarningEnabled": False,
        "ssoEnabled": False,
        "defaultRegionId": REGION,
        "experimentalConfig": {},
        "otelConfig": None,
        **unlimited,
    }


def usage_json(organization: Organization, used: Usage, settings: Settings) -> dict[str, Any]:
    """Write what an organisation uses; a total of -1 has no limit."""
    never = ("maxDiskPerNonEphemeralSandbox", "maxCpuPerGpu", "maxMemoryPerGpu", "maxDiskPerGpu")
    region = {
        "regionId": REGION,
        "sandboxClass": "container",
        "totalCpuQuota": _total(organization.max_cpu),
        "currentCpuUsage": used.cpu,
        "totalMemoryQuota": _total(organization.max_memory_gib),
        "currentMemoryUsage": used.memory_gib,
        "totalDiskQuota": _total(organization.max_disk_gib),
        "currentDiskUsage": used.disk_gib,
        "totalGpuQuota": 0,
        "currentGpuUsage": 0,
        "maxCpuPerSandbox": settings.max_cpu,
        "maxMemoryPerSandbox": settings.max_memory_gib,
        "maxDiskPerSandbox": settings.max_disk_gib,
        **dict.fromkeys(never),
    }
    return {
        "regionUsage": [region],
        "totalSnapshotQuota": -1,
        "currentSnapshotUsage": used.snapshots,
        "totalVolumeQuota": settings.max_volumes,
        "currentVolumeUsage": used.volumes,
    }


def _total(most: int | None) -> int:
    return -1 if most is None else most


def audit_json(line: AuditLine) -> dict[str, Any]:
    """Write a line of the audit log; there are no users, so the actor is a key."""
    return {
        "id": line.id,
        "actorId": line.actor,
        "actorEmail": "",
        "actorApiKeyPrefix": line.actor_prefix,
        "organizationId": line.organization_id,
        "action": line.action,
        "targetType": line.target_type,
        "targetId": line.target_id or None,
        "statusCode": line.status,
        "source": line.source or None,
        "createdAt": iso(line.created_at),
    }
