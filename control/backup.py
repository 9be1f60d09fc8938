"""A backup as a file: one line that says what it is, then the database, sealed.

The line is JSON and readable by anybody; what follows is encrypted and authenticated, the line
included, by a key derived from the installation's master key, which is not in it. Knows nothing of
databases.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from typing import IO, TYPE_CHECKING, BinaryIO

from control.errors import InvalidError, UnavailableError
from control.vault import derived, fingerprint
from jobs.runner.sealing import PIECE_BYTES, SealError, seal, unseal

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_FORMAT = 1
_LONGEST_LINE = 4096
_PURPOSE = "yurt backup"


@dataclass(frozen=True, slots=True)
class Heading:
    """What a backup is.

    Attributes:
        made_at: when, ISO 8601.
        version: of the Yurt that made it.
        database: ``sqlite`` or ``postgresql``.
        revision: of the tables in it.
        key: the fingerprint of the master key that opens it.
        format: of the file.
    """

    made_at: str
    version: str
    database: str
    revision: str
    key: str
    format: int = _FORMAT


def write(target: Path, heading: Heading, dump: Path, master_key: bytes) -> int:
    """Make the file ``target`` of a dump, whole or not at all; return its size in bytes.

    It is read back before it gets its name.

    Raises:
        InvalidError: there is such a file already.
        UnavailableError: it cannot be written; the text says why.
    """
    if target.exists():
        raise InvalidError(f"{target} is there already: choose another name")
    unfinished = target.with_name(f".{target.name}.{os.getpid()}.new")
    try:
        with _new(unfinished) as file, dump.open("rb") as source:
            line = json.dumps(asdict(heading)).encode() + b"\n"
            file.write(line)
            for piece in seal(_pieces(source), derived(master_key, _PURPOSE), _owner(line)):
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        for _ in _opened(unfinished, master_key):
            pass
        unfinished.rename(target)
    except OSError as error:
        raise UnavailableError(f"{target} cannot be written: {error.strerror}") from error
    finally:
        unfinished.unlink(missing_ok=True)
    return target.stat().st_size


def read_heading(source: Path) -> Heading:
    """Read what a backup says of itself.

    Raises:
        InvalidError: it is none, or of a later format.
        UnavailableError: it cannot be read.
    """
    try:
        with source.open("rb") as file:
            line = file.readline(_LONGEST_LINE)
    except OSError as error:
        raise UnavailableError(f"{source} cannot be read: {error.strerror}") from error
    try:
        said = json.loads(line)
        known = said["format"] == _FORMAT
        heading = Heading(**said) if known else None
    except (ValueError, TypeError, KeyError) as error:
        raise InvalidError(f"{source} is no backup of Yurt") from error
    if heading is None:
        raise InvalidError(f"{source} was made by a later Yurt: restore it with that one")
    return heading


def extract(source: Path, master_key: bytes, target: Path) -> None:
    """Write the dump in a backup to a new file ``target``, for root's eyes only.

    Raises:
        InvalidError: another key made it, or it is damaged; nothing is left.
        UnavailableError: a file cannot be read or written.
    """
    made_with, given = read_heading(source).key, fingerprint(master_key)
    if made_with != given:
        raise InvalidError(
            f"{source} was made with the master key {made_with}, and this installation's is "
            f"{given}: give the secrets.json of that time by --keys"
        )
    try:
        with _new(target) as file:
            for piece in _opened(source, master_key):
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        target.unlink(missing_ok=True)
        raise UnavailableError(f"{source} cannot be restored: {error.strerror}") from error
    except InvalidError:
        target.unlink(missing_ok=True)
        raise


def _opened(source: Path, master_key: bytes) -> Iterator[bytes]:
    try:
        with source.open("rb") as file:
            line = file.readline(_LONGEST_LINE)
            yield from unseal(_pieces(file), derived(master_key, _PURPOSE), _owner(line))
    except SealError as error:
        raise InvalidError(f"{source} is damaged: take another backup") from error


def _owner(line: bytes) -> str:
    return line.decode("utf-8", "replace")


def _pieces(file: IO[bytes]) -> Iterator[bytes]:
    while piece := file.read(PIECE_BYTES):
        yield piece


def _new(path: Path) -> BinaryIO:
    """Make a file that only its owner reads."""
    return os.fdopen(
        os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb"
    )
