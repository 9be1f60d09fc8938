"""What a gate and an agent are told about their sandbox. Pure."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Any

from control.model import MIB_PER_GIB, Permission

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from control.model import ApiKey, Sandbox


def assignment(sandbox: Sandbox, keys: Iterable[ApiKey], now: datetime) -> dict[str, Any]:
    """Write a sandbox's assignment: with it, its gate decides alone who may enter.

    A toolbox runs commands, so a key must be allowed to change sandboxes, and be of the same
    organisation, whatever else is in ``keys``. They must be at least as new as the record: an
    older one could bring back a key that was called back.
    """
    secrets = sandbox.secrets
    return {
        "version": sandbox.assignment_version,
        "keys": [
            {"hash": key.hash, "expires_at": key.expires_at and key.expires_at.timestamp()}
            for key in keys
            if Permission.WRITE_SANDBOXES in key.permissions
            and key.organization_id == sandbox.organization_id
        ],
        "preview_token": secrets.preview_token,
        "signing_key": secrets.signing_key,
        "file_signing_key": secrets.file_signing_key,
        "revoked_signatures": [
            signature for signature, end in secrets.revoked.items() if end > now.timestamp()
        ],
        "public": sandbox.public,
        "private_ports": list(sandbox.private_ports),
        "volumes": [
            {"id": mount.volume_id, "path": mount.path, "subpath": mount.subpath}
            for mount in sandbox.volumes
        ],
        "env": dict(secrets.env),
        "user": sandbox.user,
        "workdir": sandbox.workdir,
        "entrypoint": list(sandbox.entrypoint),
        "network": {
            "block_all": sandbox.network.block_all,
            "allow": _collapsed(sandbox.network.allow),
        },
        "limits": {
            "cpu": sandbox.resources.cpu,
            "memory_mib": sandbox.resources.memory_gib * MIB_PER_GIB,
        },
    }


def _collapsed(networks: Iterable[str]) -> list[str]:
    """Write networks so that none overlaps another: a packet filter takes no others."""
    return [str(n) for n in ipaddress.collapse_addresses(map(ipaddress.IPv4Network, networks))]
