"""The marks in a log that tell standard output and standard error apart, as the wire has them.

Each line, and each piece of a line where the stream changes, is preceded by three bytes that name
its stream. A program that prints such bytes itself is taken at its word: the format has no escape.
"""

from __future__ import annotations

import re

STDOUT, STDERR = b"\x01\x01\x01", b"\x02\x02\x02"
_MARK = re.compile(rb"(\x01\x01\x01|\x02\x02\x02)")


class Marker:
    """Puts the marks in."""

    def __init__(self) -> None:
        self._last = b""
        self._line_ended = True

    def mark(self, stream: bytes, data: bytes) -> bytes:
        """Return a piece of output with its marks."""
        first = stream if self._line_ended or stream != self._last else b""
        self._last, self._line_ended = stream, data.endswith(b"\n")
        body = data[:-1] if self._line_ended else data
        end = b"\n" if self._line_ended else b""
        return first + body.replace(b"\n", b"\n" + stream) + end


class Unmarker:
    """Takes the marks out of a log that comes in pieces, which may split a mark."""

    def __init__(self, wanted: bytes = b"") -> None:
        """Keep only what was printed to ``wanted``; everything if that is empty."""
        self._wanted = wanted
        self._stream = STDOUT
        self._held = b""

    def feed(self, data: bytes) -> bytes:
        """Return what is certainly text."""
        *marked, last = _MARK.split(self._held + data)
        cut = len(last) - _begun(last)
        self._held = last[cut:]
        kept = []
        for text, mark in zip(marked[::2], marked[1::2], strict=True):
            kept.append(self._chosen(text))
            self._stream = mark
        return b"".join([*kept, self._chosen(last[:cut])])

    def finish(self) -> bytes:
        """Return what was held back: it was no mark."""
        return self._chosen(self._held)

    def _chosen(self, text: bytes) -> bytes:
        return text if self._wanted in {b"", self._stream} else b""


def _begun(text: bytes) -> int:
    """Count the bytes at the end that may be the beginning of a mark."""
    for count in (2, 1):
        if text.endswith((STDOUT[:count], STDERR[:count])):
            return count
    return 0
