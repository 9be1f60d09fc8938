"""Archives as they lie in the object store: encrypted and authenticated piece by piece.

The STREAM construction over AES-256-GCM (Hoang, Reyhanitabar, Rogaway, Vizár 2015): every piece of
1 MiB has a nonce of its number and whether it is the last, so that none can be changed, left out,
moved or cut off. The key of each archive is derived (HKDF) from the sandbox's and a random salt at
the front, with the sandbox's id, so no nonce is used twice and an archive opens for its sandbox
only.

Layout: 8 bytes of magic, 32 of salt, then the pieces, each with its 16-byte tag.
"""

from __future__ import annotations

import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

_MAGIC = b"yurtarc1"
_SALT_BYTES, _KEY_BYTES, _TAG_BYTES = 32, 32, 16
PIECE_BYTES = 1 << 20
_HEAD_BYTES = len(_MAGIC) + _SALT_BYTES


class SealError(Exception):
    """An archive is not what was stored."""


def seal(pieces: Iterable[bytes], key: bytes, owner: str) -> Iterator[bytes]:
    """Yield the sealed form of what ``pieces`` make up together.

    Args:
        pieces: of any size.
        key: 32 bytes, the sandbox's own.
        owner: the sandbox's id.
    """
    salt = os.urandom(_SALT_BYTES)
    cipher = _cipher(key, salt, owner)
    yield _MAGIC + salt
    for number, (piece, is_last) in enumerate(_regular(pieces, PIECE_BYTES)):
        yield cipher.encrypt(_nonce(number, is_last), piece, None)


def unseal(pieces: Iterable[bytes], key: bytes, owner: str) -> Iterator[bytes]:
    """Yield what ``seal`` was given; a piece is yielded only when it was authenticated.

    Raises:
        SealError: it was changed, cut off, or sealed for another sandbox.
    """
    stream = iter(pieces)
    head = b""
    while len(head) < _HEAD_BYTES and (piece := next(stream, b"")):
        head += piece
    if len(head) < _HEAD_BYTES or not head.startswith(_MAGIC):
        raise SealError("the archive is damaged: it does not begin like one")
    cipher = _cipher(key, head[len(_MAGIC) : _HEAD_BYTES], owner)
    rest = _chained(head[_HEAD_BYTES:], stream)
    for number, (piece, is_last) in enumerate(_regular(rest, PIECE_BYTES + _TAG_BYTES)):
        try:
            yield cipher.decrypt(_nonce(number, is_last), piece, None)
        except (InvalidTag, ValueError) as error:
            raise SealError("the archive is damaged, or not this sandbox's") from error


def _cipher(key: bytes, salt: bytes, owner: str) -> AESGCM:
    info = b"yurt archive of " + owner.encode()
    return AESGCM(HKDF(SHA256(), _KEY_BYTES, salt=salt, info=info).derive(key))


def _nonce(number: int, is_last: bool) -> bytes:
    return number.to_bytes(11, "big") + bytes([is_last])


def _chained(first: bytes, rest: Iterable[bytes]) -> Iterator[bytes]:
    yield first
    yield from rest


def _regular(pieces: Iterable[bytes], size: int) -> Iterator[tuple[bytes, bool]]:
    """Cut a stream anew, into pieces of ``size`` bytes, and tell which is the last.

    There is always a last one; it is shorter only if the stream ends so.
    """
    held = bytearray()
    for piece in pieces:
        held += piece
        while len(held) > size:
            yield bytes(held[:size]), False
            del held[:size]
    yield bytes(held), True


TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
