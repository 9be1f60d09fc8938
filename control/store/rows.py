"""Rows to nouns and back. What is secret in a record is sealed for the record's own id."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from pydantic_core import from_json

from control.model import (
    ApiKey,
    Archive,
    Build,
    DesiredState,
    Intervals,
    Mount,
    NetworkPolicy,
    Organization,
    Permission,
    Resources,
    Run,
    Sandbox,
    Secrets,
    Snapshot,
    SnapshotState,
    State,
    StoppedBy,
    Volume,
    VolumeState,
)
from control.naming import SandboxId
from control.store import Outline
from control.store.tables import sandboxes

if TYPE_CHECKING:
    from sqlalchemy import Row

    from control.vault import Vault

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
_SANDBOX_COLUMNS = tuple(column.name for column in sandboxes.columns)


def to_ms(moment: datetime) -> int:
    """Write a time as the tables keep it."""
    return (moment - _EPOCH) // _MILLISECOND


def from_ms(moment: int) -> datetime:
    """Read a time from a table."""
    return _EPOCH + moment * _MILLISECOND


def _items(text: str) -> tuple[Any, ...]:
    return () if text == "[]" else tuple(json.loads(text))


def _maybe_ms(moment: datetime | None) -> int | None:
    return None if moment is None else to_ms(moment)


def _maybe(moment: int | None) -> datetime | None:
    return None if moment is None else from_ms(moment)


def sandbox_values(sandbox: Sandbox, vault: Vault) -> dict[str, Any]:
    """Write a record as the columns of ``sandboxes``."""
    run, resources, intervals = sandbox.run, sandbox.resources, sandbox.intervals
    return {
        "id": sandbox.id,
        "name": sandbox.name,
        "organization_id": sandbox.organization_id,
        "snapshot": sandbox.snapshot,
        "image_id": sandbox.image_id,
        "user": sandbox.user,
        "entrypoint": json.dumps(sandbox.entrypoint),
        "workdir": sandbox.workdir,
        "labels": json.dumps(dict(sandbox.labels)),
        "public": sandbox.public,
        "private_ports": json.dumps(sandbox.private_ports),
        "network_block_all": sandbox.network.block_all,
        "network_allow": json.dumps(sandbox.network.allow),
        "volumes": json.dumps([(m.volume_id, m.path, m.subpath) for m in sandbox.volumes]),
        "target": sandbox.target,
        "cpu": resources.cpu,
        "memory_gib": resources.memory_gib,
        "disk_gib": resources.disk_gib,
        "auto_stop_minutes": intervals.stop,
        "auto_archive_minutes": intervals.archive,
        "auto_delete_minutes": intervals.delete,
        "ttl_minutes": intervals.ttl,
        "state": sandbox.state.value,
        "desired_state": sandbox.desired_state.value,
        "error_reason": sandbox.error_reason,
        "recoverable": sandbox.recoverable,
        "node": sandbox.node,
        "stopped_by": sandbox.stopped_by and sandbox.stopped_by.value,
        "stopped_at": _maybe_ms(sandbox.stopped_at),
        "destroy_at": _maybe_ms(sandbox.destroy_at),
        "due_at": _maybe_ms(sandbox.due_at),
        **asdict(run),
        "assignment_version": sandbox.assignment_version,
        "created_at": to_ms(sandbox.created_at),
        "updated_at": to_ms(sandbox.updated_at),
        "changed_at": to_ms(sandbox.changed_at),
        "last_activity_at": to_ms(sandbox.last_activity_at),
        "sealed": vault.seal(_secrets_text(sandbox), sandbox_place(sandbox.id)),
        "archive": json.dumps(asdict(sandbox.archive)) if sandbox.archive else None,
        "build": _build_text(sandbox.build),
        "snapshotting": sandbox.snapshotting,
        "hidden": sandbox.hidden,
    }


def _secrets_text(sandbox: Sandbox) -> bytes:
    return json.dumps(asdict(sandbox.secrets)).encode()


def sandbox_from(row: Row[Any], vault: Vault) -> Sandbox:
    """Read a record."""
    # Ten times as fast as the row's own attributes, which counts in a long list.
    # pydantic's parser is four times as fast, but strict: only for what came by the API.
    of = dict(zip(_SANDBOX_COLUMNS, row, strict=True))
    return Sandbox(
        id=SandboxId(of["id"]),
        name=of["name"],
        organization_id=of["organization_id"],
        snapshot=of["snapshot"],
        image_id=of["image_id"],
        user=of["user"],
        entrypoint=_items(of["entrypoint"]),
        workdir=of["workdir"],
        labels=from_json(of["labels"]),
        public=of["public"],
        private_ports=_items(of["private_ports"]),
        network=NetworkPolicy(of["network_block_all"], _items(of["network_allow"])),
        volumes=tuple(Mount(*fields) for fields in _items(of["volumes"])),
        target=of["target"],
        resources=Resources(of["cpu"], of["memory_gib"], of["disk_gib"]),
        intervals=Intervals(
            of["auto_stop_minutes"],
            of["auto_archive_minutes"],
            of["auto_delete_minutes"],
            of["ttl_minutes"],
        ),
        state=State(of["state"]),
        desired_state=DesiredState(of["desired_state"]),
        error_reason=of["error_reason"],
        recoverable=of["recoverable"],
        node=of["node"],
        stopped_by=of["stopped_by"] and StoppedBy(of["stopped_by"]),
        stopped_at=_maybe(of["stopped_at"]),
        destroy_at=_maybe(of["destroy_at"]),
        run=Run(
            of["generation"],
            of["incarnation"],
            of["up_sequence"],
            of["down_sequence"],
            of["pushed_version"],
            of["exit_reason"],
            of["exit_reached"],
        ),
        assignment_version=of["assignment_version"],
        created_at=from_ms(of["created_at"]),
        updated_at=from_ms(of["updated_at"]),
        changed_at=from_ms(of["changed_at"]),
        last_activity_at=from_ms(of["last_activity_at"]),
        secrets=Secrets(**from_json(vault.open(of["sealed"], sandbox_place(of["id"])))),
        archive=Archive(**from_json(of["archive"])) if of["archive"] else None,
        build=_build(of["build"]),
        snapshotting=of["snapshotting"],
        hidden=of["hidden"],
    )


def _build_text(build: Build | None) -> str | None:
    return None if build is None else json.dumps([build.dockerfile, build.contexts])


def _build(text: str | None) -> Build | None:
    if text is None:
        return None
    dockerfile, contexts = json.loads(text)
    return Build(dockerfile, tuple(contexts))


def sandbox_place(sandbox_id: str) -> str:
    """Name where a value was sealed for."""
    return f"the secrets of sandbox {sandbox_id}"


def outline_from(row: Row[Any]) -> Outline:
    """Read a record's outline."""
    return Outline(
        SandboxId(row.id),
        State(row.state),
        DesiredState(row.desired_state),
        row.generation,
        row.pushed_version,
        row.assignment_version,
        from_ms(row.changed_at),
        bool(row.has_archive),
    )


def snapshot_values(snapshot: Snapshot) -> dict[str, Any]:
    """Write a snapshot as the columns of ``snapshots``."""
    return {
        "id": snapshot.id,
        "name": snapshot.name,
        "organization_id": snapshot.organization_id,
        "general": snapshot.general,
        "image_id": snapshot.image_id,
        "user": snapshot.user,
        "entrypoint": json.dumps(snapshot.entrypoint),
        "private_ports": json.dumps(snapshot.private_ports),
        **asdict(snapshot.resources),
        "size_bytes": snapshot.size_bytes,
        "image_name": snapshot.image_name,
        "source_sandbox_id": snapshot.source_sandbox_id,
        "build": _build_text(snapshot.build),
        "hidden": snapshot.hidden,
        "state": snapshot.state.value,
        "error_reason": snapshot.error_reason,
        "created_at": to_ms(snapshot.created_at),
        "updated_at": to_ms(snapshot.updated_at),
        "last_used_at": _maybe_ms(snapshot.last_used_at),
    }


def snapshot_from(row: Row[Any]) -> Snapshot:
    """Read a snapshot."""
    return Snapshot(
        id=row.id,
        name=row.name,
        organization_id=row.organization_id,
        general=row.general,
        image_id=row.image_id,
        user=row.user,
        entrypoint=tuple(json.loads(row.entrypoint)),
        private_ports=tuple(json.loads(row.private_ports)),
        resources=Resources(row.cpu, row.memory_gib, row.disk_gib),
        size_bytes=row.size_bytes,
        image_name=row.image_name,
        source_sandbox_id=row.source_sandbox_id,
        build=_build(row.build),
        hidden=row.hidden,
        state=SnapshotState(row.state),
        error_reason=row.error_reason,
        created_at=from_ms(row.created_at),
        updated_at=from_ms(row.updated_at),
        last_used_at=_maybe(row.last_used_at),
    )


def volume_values(volume: Volume) -> dict[str, Any]:
    """Write a volume as the columns of ``volumes``."""
    return {
        **asdict(volume),
        "state": volume.state.value,
        "created_at": to_ms(volume.created_at),
        "updated_at": to_ms(volume.updated_at),
        "last_used_at": _maybe_ms(volume.last_used_at),
    }


def volume_from(row: Row[Any]) -> Volume:
    """Read a volume."""
    of = row._asdict()
    of |= {name: from_ms(of[name]) for name in ("created_at", "updated_at")}
    of |= {"state": VolumeState(row.state), "last_used_at": _maybe(row.last_used_at)}
    return Volume(**of)


def key_values(key: ApiKey) -> dict[str, Any]:
    """Write a key as the columns of ``api_keys``."""
    return {
        "organization_id": key.organization_id,
        "name": key.name,
        "prefix": key.prefix,
        "hash": key.hash,
        "permissions": json.dumps(sorted(key.permissions)),
        "created_at": to_ms(key.created_at),
        "expires_at": _maybe_ms(key.expires_at),
        "last_used_at": _maybe_ms(key.last_used_at),
    }


def key_from(row: Row[Any]) -> ApiKey:
    """Read a key."""
    return ApiKey(
        organization_id=row.organization_id,
        name=row.name,
        prefix=row.prefix,
        hash=row.hash,
        permissions=frozenset(Permission(p) for p in json.loads(row.permissions)),
        created_at=from_ms(row.created_at),
        expires_at=_maybe(row.expires_at),
        last_used_at=_maybe(row.last_used_at),
    )


def organization_values(organization: Organization) -> dict[str, Any]:
    """Write an organisation as the columns of ``organizations``."""
    return {**asdict(organization), "created_at": to_ms(organization.created_at)}


def organization_from(row: Row[Any]) -> Organization:
    """Read an organisation."""
    fields = row._asdict()
    return Organization(**{**fields, "created_at": from_ms(fields["created_at"])})
