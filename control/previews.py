"""Signed previews: a label in the host name that opens one port until it expires. Pure.

The label is base32 of the expiry (4 bytes of unix seconds) and 80 bits of a MAC, so the gate checks
it by itself, with a key that is this sandbox's alone.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime

    from control.model import Sandbox

MAX_SECONDS = 86_400
DEFAULT_SECONDS = 60
_EXPIRY_BYTES = 4
_MAC_BYTES = 10


def sign(sandbox: Sandbox, port: int, expires_at: int) -> str:
    """Return the label that opens ``port`` until ``expires_at``, in unix seconds."""
    expiry = expires_at.to_bytes(_EXPIRY_BYTES)
    text = f"{sandbox.id}:{port}:".encode() + expiry
    key = bytes.fromhex(sandbox.secrets.signing_key)
    mac = hmac.new(key, text, hashlib.sha256).digest()[:_MAC_BYTES]
    return base64.b32encode(expiry + mac).decode().rstrip("=").lower()


def expiry_of(sandbox: Sandbox, port: int, label: str) -> int | None:
    """Return when a label of this sandbox and port expires, None if it never opened it."""
    try:
        expiry = base64.b32decode(label.upper() + "=")[:_EXPIRY_BYTES]
    except (binascii.Error, ValueError):
        return None
    expires_at = int.from_bytes(expiry)
    right = sign(sandbox, port, expires_at)
    return expires_at if hmac.compare_digest(right, label) else None


def revoke(sandbox: Sandbox, port: int, label: str, now: datetime) -> Sandbox:
    """Call a label back; one that opens nothing needs no calling back."""
    moment = now.timestamp()
    expires_at = expiry_of(sandbox, port, label)
    if expires_at is None or expires_at <= moment:
        return sandbox
    kept = {known: end for known, end in sandbox.secrets.revoked.items() if end > moment}
    secrets = replace(sandbox.secrets, revoked={**kept, label: expires_at})
    return replace(sandbox, secrets=secrets)
