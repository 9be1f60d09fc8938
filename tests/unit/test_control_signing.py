"""The labels of signed previews."""

from __future__ import annotations

import base64
import hashlib
import hmac
from datetime import timedelta

import pytest

from control import previews
from tests.support.records import NOW, a_sandbox

pytestmark = pytest.mark.unit


def test_a_label_is_expiry_and_mac_in_base32() -> None:
    sandbox = a_sandbox()
    label = previews.sign(sandbox, 80, 1_800_000_000)
    raw = base64.b32decode(label.upper() + "=")
    key = bytes.fromhex(sandbox.secrets.signing_key)
    text = f"{sandbox.id}:80:".encode() + raw[:4]
    assert len(label) == 23
    assert int.from_bytes(raw[:4]) == 1_800_000_000
    assert raw[4:] == hmac.new(key, text, hashlib.sha256).digest()[:10]
    assert previews.expiry_of(sandbox, 80, label) == 1_800_000_000
    assert previews.expiry_of(a_sandbox(), 80, label) is None


def test_revoked_labels_are_kept_until_they_expire_anyway() -> None:
    sandbox = a_sandbox()
    soon = int(NOW.timestamp()) + 10
    first, second = previews.sign(sandbox, 80, soon), previews.sign(sandbox, 81, soon + 100)
    sandbox = previews.revoke(sandbox, 80, first, NOW)
    assert sandbox.secrets.revoked == {first: soon}
    later = NOW + timedelta(seconds=50)
    assert previews.revoke(sandbox, 80, first, later) is sandbox
    sandbox = previews.revoke(sandbox, 81, second, later)
    assert sandbox.secrets.revoked == {second: soon + 100}
