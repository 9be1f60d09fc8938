"""The installation's own secrets, and what is encrypted with them before it is stored."""

from __future__ import annotations

import json
import os
import secrets
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from control.errors import YurtError

if TYPE_CHECKING:
    from pathlib import Path

_KEY_BYTES = 32
_NONCE_BYTES = 12
_FINGERPRINT_BYTES = 8
_FOR_OTHERS = 0o077


class VaultError(YurtError):
    """The installation's secrets cannot be used; the text says what to do."""


@dataclass(frozen=True, slots=True)
class Keys:
    """Made once for an installation; whoever has them has everything.

    Attributes:
        master_key: encrypts what is stored.
        node_key: seals the messages between control and this machine's runners.
        api_key: the first API key, of which the store has only the hash.
    """

    master_key: bytes = field(repr=False)
    node_key: bytes = field(repr=False)
    api_key: str = field(repr=False)


def load_keys(data: Path) -> Keys:
    """Read ``<data>/secrets.json``; make it if it is not there.

    Raises:
        VaultError: others may read it, or it is damaged.
    """
    path = data / "secrets.json"
    try:
        return read_keys(path)
    except FileNotFoundError:
        _make(path)
        return read_keys(path)


def read_keys(path: Path) -> Keys:
    """Read the secrets in a file, or in a copy of it.

    Raises:
        FileNotFoundError: it is not there.
        VaultError: others may read it, or it is damaged.
    """
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    with os.fdopen(fd, encoding="utf-8") as file:
        if os.fstat(fd).st_mode & _FOR_OTHERS:
            raise VaultError(f"others can read {path}: chmod 600 it, and consider it known")
        try:
            stored = json.load(file)
            return Keys(
                bytes.fromhex(stored["master_key"]),
                bytes.fromhex(stored["node_key"]),
                stored["api_key"],
            )
        except (KeyError, TypeError, ValueError) as error:
            raise VaultError(f"{path} is damaged: restore it from a backup") from error


def _make(path: Path) -> None:
    """Write new secrets whole, unless another process was faster."""
    made = Keys(os.urandom(_KEY_BYTES), os.urandom(_KEY_BYTES), new_api_key())
    stored = {f.name: getattr(made, f.name) for f in fields(made)}
    text = json.dumps({k: v.hex() if isinstance(v, bytes) else v for k, v in stored.items()})
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.new")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(fd, "w", encoding="utf-8") as file:
        file.write(text + "\n")
        file.flush()
        os.fsync(fd)
    try:
        os.link(temporary, path)
    except FileExistsError:
        pass
    finally:
        temporary.unlink()


def new_api_key() -> str:
    """Make an API key: ``yurt_<what it is looked up by>_<256 random bits>``."""
    return f"yurt_{secrets.token_hex(4)}_{secrets.token_hex(_KEY_BYTES)}"


def derived(master_key: bytes, purpose: str) -> bytes:
    """Derive the key for one purpose, which tells nothing of the master key or of others."""
    return HKDF(SHA256(), _KEY_BYTES, salt=None, info=purpose.encode()).derive(master_key)


def fingerprint(master_key: bytes) -> str:
    """Name a master key without telling anything of it: 16 hexadecimal digits."""
    return derived(master_key, "yurt fingerprint")[:_FINGERPRINT_BYTES].hex()


class Vault:
    """Encrypts small values so that each can be read only in the place that it was made for."""

    def __init__(self, master_key: bytes) -> None:
        self._cipher = AESGCM(derived(master_key, "yurt records"))

    def seal(self, text: bytes, place: str) -> bytes:
        """Encrypt and authenticate ``text`` for ``place``."""
        nonce = os.urandom(_NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, text, place.encode())

    def open(self, sealed: bytes, place: str) -> bytes:
        """Decrypt what ``seal`` made for the same place.

        Raises:
            VaultError: it was changed, moved, or sealed by another installation.
        """
        nonce, rest = sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:]
        try:
            return self._cipher.decrypt(nonce, rest, place.encode())
        except (InvalidTag, ValueError) as error:  # ValueError: it is cut short
            raise VaultError(
                f"cannot decrypt {place}: the data directory's secrets.json is not the one that "
                "it was stored with"
            ) from error
