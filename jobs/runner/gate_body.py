"""Where the body of an HTTP/1.1 message ends: by number, by chunks, or with its connection.

Nothing is decoded; what belongs to the body is passed on as it is written.
"""

from __future__ import annotations

import re

NO_BODY, CHUNKED, UNTIL_CLOSE = 0, -1, -2
"""Lengths that are not a number of bytes; ``NO_BODY`` is also just that."""

_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})(?:[ \t]*;[\t -~\x80-\xff]*)?")
_TRAILER = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[\t -~\x80-\xff]*")
_CHUNK_LINE_LIMIT = 1024
_TRAILER_LIMIT = 8 << 10


class FramingError(Exception):
    """A message does not say without doubt where it ends."""


class Counted:
    """A body of known length."""

    __slots__ = ("_left",)

    def __init__(self, length: int) -> None:
        self._left = length

    @property
    def done(self) -> bool:
        """Whether the body is complete."""
        return not self._left

    def take(self, data: bytes) -> tuple[bytes, bytes]:
        """Split ``data`` into what belongs to the body and what follows it."""
        if len(data) <= self._left:
            self._left -= len(data)
            return data, b""
        cut, self._left = self._left, 0
        return data[:cut], data[cut:]


class Endless:
    """A body that ends with its connection."""

    __slots__ = ()
    done = False

    def take(self, data: bytes) -> tuple[bytes, bytes]:
        """See ``Counted.take``."""
        return data, b""


class Chunks:
    """A chunked body, passed on as it is written.

    A line is held back until it is complete and known to be well-formed.
    """

    __slots__ = ("_drop_trailers", "_held", "_left", "_stage", "_trailer_bytes", "done")
    _SIZE, _DATA, _DATA_END, _TRAILERS = range(4)

    def __init__(self, *, drop_trailers: bool) -> None:
        self._drop_trailers = drop_trailers
        self._held = b""
        self._left = 0
        self._stage = self._SIZE
        self._trailer_bytes = 0
        self.done = False

    def take(self, data: bytes) -> tuple[bytes, bytes]:
        """See ``Counted.take``.

        Raises:
            FramingError: this is not a chunked body.
        """
        if self._held:
            data, self._held = self._held + data, b""
        out: list[bytes] = []
        at = begin = 0
        while at < len(data) and not self.done:
            if self._stage == self._DATA:
                step = min(self._left, len(data) - at)
                at += step
                self._left -= step
                if not self._left:
                    self._stage = self._DATA_END
                continue
            end = data.find(b"\r\n", at)
            if end < 0:
                self._check_unfinished(data[at:])
                break
            dropped = self._line(data, at, end)
            if dropped:
                out.append(data[begin:at])
                begin = end + 2
            at = end + 2
        out.append(data[begin:at])
        if self.done:
            return b"".join(out), data[at:]
        self._held = data[at:]
        return (b"".join(out) if len(out) > 1 else out[0]), b""

    def _check_unfinished(self, line: bytes) -> None:
        limit = {self._SIZE: _CHUNK_LINE_LIMIT, self._DATA_END: 1}.get(self._stage, _TRAILER_LIMIT)
        if len(line) > limit or b"\n" in line:
            raise FramingError("a line in a chunked body does not end")

    def _line(self, data: bytes, at: int, end: int) -> bool:
        """Take the line ``data[at:end]``; tell whether it is to be left out."""
        if self._stage == self._SIZE:
            size = _CHUNK_SIZE.fullmatch(data, at, end)
            if not size or end - at > _CHUNK_LINE_LIMIT:
                raise FramingError("a chunk without a plain size")
            self._left = int(size[1], 16)
            self._stage = self._DATA if self._left else self._TRAILERS
        elif self._stage == self._DATA_END:
            if at != end:
                raise FramingError("a chunk longer than its size")
            self._stage = self._SIZE
        elif at == end:
            self.done = True
        else:
            self._trailer_bytes += end - at
            if not _TRAILER.fullmatch(data, at, end) or self._trailer_bytes > _TRAILER_LIMIT:
                raise FramingError("malformed trailers")
            return self._drop_trailers
        return False


def body_of(length: int, *, drop_trailers: bool = False) -> Body | None:
    """Return what finds the end of a body whose head says ``length``; None if there is none."""
    if length == CHUNKED:
        return Chunks(drop_trailers=drop_trailers)
    if length == UNTIL_CLOSE:
        return Endless()
    return Counted(length) if length else None


TYPE_CHECKING = False
if TYPE_CHECKING:
    Body = Counted | Endless | Chunks
