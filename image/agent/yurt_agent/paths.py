"""From the text of a path on the wire to bytes for the kernel, and back.

The wire carries names that are not UTF-8 as surrogate escapes (U+DC80 to U+DCFF, in JSON
``\\udc80``), so every name that Linux allows makes the way in both directions unchanged. Paths
stay bytes inside: nothing depends on the locale. There is no jail: the whole sandbox belongs to
its user, and the kernel decides what he may do.
"""

from __future__ import annotations

import os
import stat

from yurt_agent.errors import BadRequestError, InvalidPathError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from yurt_agent.http import Request

OPEN_FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY


def encode(path: str) -> bytes:
    """Return the bytes of a path or name.

    Raises:
        InvalidPathError: no file can have this name.
    """
    if not path:
        raise InvalidPathError("invalid path: it is empty")
    if "\0" in path:
        raise InvalidPathError("invalid path: it contains a NUL character")
    try:
        return path.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        raise InvalidPathError("invalid path: it contains a lone surrogate") from error


def decode(path: bytes) -> str:
    """Return the text for the wire; the inverse of ``encode``."""
    return path.decode("utf-8", "surrogateescape")


def resolve(path: str, workdir: str) -> bytes:
    """Make a path absolute against the work directory, without ``.`` and needless slashes.

    A slash at the end would make the kernel follow a link that the caller wants to remove. What
    ``..`` means is left to the kernel: it depends on links.
    """
    raw = os.path.join(encode(workdir), encode(path))
    return b"/" + b"/".join(part for part in raw.split(b"/") if part not in {b"", b"."})


def required(request: Request, name: str = "path") -> tuple[str, bytes]:
    """Return a path from the query: as the client wrote it, and resolved."""
    text = request.first(name)
    if not text:
        raise BadRequestError(f"the query parameter {name} is required")
    return text, resolve(text, request.identity.workdir)


def open_regular(path: bytes) -> int:
    """Open a regular file for reading, and nothing else.

    What a FIFO or a device would do with the calling thread is its own business, so they are
    looked at before they are opened, and once more after that.

    Raises:
        OSError: there is none, or it may not be read.
        InvalidPathError: it is of another kind.
    """
    _insist(os.stat(path), path)
    descriptor = os.open(path, OPEN_FLAGS)
    try:
        _insist(os.fstat(descriptor), path)
    except InvalidPathError:
        os.close(descriptor)
        raise
    return descriptor


def _insist(status: os.stat_result, path: bytes) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise InvalidPathError(f"invalid path: {decode(path)}: is a directory")
    if not stat.S_ISREG(status.st_mode):
        raise InvalidPathError(f"invalid path: {decode(path)}: not a regular file")
