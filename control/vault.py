"""The installation's own secrets, and what is encrypted with them before it is stored."""

from __future__ import annotations

import json
import logging
import os
import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from typing_extensions import override

from control.errors import YurtError

if TYPE_CHECKING:
    from pathlib import Path

logger = logging.getLogger(__name__)

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
        older_keys: still open what was stored before, while keys are being rotated.
        node_key: seals the messages between control and this machine's runners.
        api_key: the first API key, of which the store has only the hash.
    """

    master_key: bytes = field(repr=False)
    node_key: bytes = field(repr=False)
    api_key: str = field(repr=False)
    older_keys: tuple[bytes, ...] = field(default=(), repr=False)


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
                tuple(map(bytes.fromhex, stored.get("older_keys", ()))),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise VaultError(f"{path} is damaged: restore it from a backup") from error


def _make(path: Path) -> None:
    """Write new secrets whole, unless another process was faster."""
    made = Keys(new_master_key(), os.urandom(_KEY_BYTES), new_api_key())
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = _write(path, made)
    try:
        os.link(temporary, path)
    except FileExistsError:
        pass
    finally:
        temporary.unlink()


def replace_keys(path: Path, keys: Keys) -> None:
    """Write secrets in the place of others; whoever reads gets these or those.

    Raises:
        OSError: it cannot be written; the others stay.
    """
    temporary = _write(path, keys)
    temporary.replace(path)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    os.fsync(directory)
    os.close(directory)


def _write(path: Path, keys: Keys) -> Path:
    """Write secrets to a new file beside ``path`` and return it."""
    stored: dict[str, object] = {
        "master_key": keys.master_key.hex(),
        "node_key": keys.node_key.hex(),
        "api_key": keys.api_key,
    }
    if keys.older_keys:
        stored["older_keys"] = [key.hex() for key in keys.older_keys]
    temporary = path.with_name(f"{path.name}.{os.getpid()}.new")
    temporary.unlink(missing_ok=True)  # of a process of the same number that was killed
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(fd, "w", encoding="utf-8") as file:
        file.write(json.dumps(stored) + "\n")
        file.flush()
        os.fsync(fd)
    return temporary


def new_master_key() -> bytes:
    """Draw a master key."""
    return os.urandom(_KEY_BYTES)


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

    def __init__(self, master_key: bytes, *older: bytes) -> None:
        """Seal by ``master_key``; open what that or an ``older`` key has sealed."""
        self._ciphers = _ciphers(master_key, *older)

    def seal(self, text: bytes, place: str) -> bytes:
        """Encrypt and authenticate ``text`` for ``place``."""
        nonce = os.urandom(_NONCE_BYTES)
        return nonce + self._known()[0].encrypt(nonce, text, place.encode())

    def open(self, sealed: bytes, place: str) -> bytes:
        """Decrypt what ``seal`` made for the same place.

        Raises:
            VaultError: it was changed, moved, or sealed by another installation.
        """
        for cipher in self._known():
            if (text := _decrypted(cipher, sealed, place)) is not None:
                return text
        raise VaultError(
            f"cannot decrypt {place}: the data directory's secrets.json is not the one that "
            "it was stored with"
        )

    def is_current(self, sealed: bytes, place: str) -> bool:
        """Tell whether the newest key sealed this."""
        return _decrypted(self._known()[0], sealed, place) is not None

    def _known(self) -> tuple[AESGCM, ...]:
        return self._ciphers


class FileVault(Vault):
    """A vault by the keys in a file, also when these are rotated while it is in use."""

    def __init__(self, data: Path) -> None:
        """Read the keys of a data directory.

        Raises:
            VaultError: others may read them, or they are damaged.
        """
        self._path = data / "secrets.json"
        keys = load_keys(data)
        self._read: tuple[int, int] | None = None  # so that a change just now is not missed
        super().__init__(keys.master_key, *keys.older_keys)

    @override
    def _known(self) -> tuple[AESGCM, ...]:
        stamp = self._stamp()
        if stamp is not None and stamp != self._read:
            try:
                keys = read_keys(self._path)
            except (OSError, VaultError) as error:
                logger.error("the keys cannot be read: the old ones are used: %s", error)
            else:
                self._ciphers = _ciphers(keys.master_key, *keys.older_keys)
            self._read = stamp
        return self._ciphers

    def _stamp(self) -> tuple[int, int] | None:
        """Tell one version of the file from another, or None if it is not there."""
        try:
            status = self._path.stat()
        except OSError:
            return None
        return status.st_ino, status.st_mtime_ns


def _ciphers(*keys: bytes) -> tuple[AESGCM, ...]:
    return tuple(AESGCM(derived(key, "yurt records")) for key in keys)


def _decrypted(cipher: AESGCM, sealed: bytes, place: str) -> bytes | None:
    nonce, rest = sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:]
    try:
        return cipher.decrypt(nonce, rest, place.encode())
    except (InvalidTag, ValueError):  # ValueError: it is cut short
        return None
