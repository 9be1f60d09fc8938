"""The log of one command: a file of bounded size, written as output comes and read by many.

Each piece of a line is preceded by three bytes that name its stream (the wire's format), so that
what was printed to standard output and to standard error can be told apart afterwards.
"""

from __future__ import annotations

import asyncio
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import AsyncIterator

STDOUT, STDERR = b"\x01\x01\x01", b"\x02\x02\x02"
LIMIT = 64 << 20
"""Bytes of log that are kept; what comes after is counted, not kept."""

_READ = 1 << 16
_READS_AT_ONCE = 16
_NOTICE = b"\n[the log ends here: it has reached its limit or the disk is full]\n"


class Spool:
    """Merges the two streams of a command into its log file."""

    def __init__(self, path: str) -> None:
        """Make the log file and, beside it, the pipes that the command opens by name."""
        self.out_path, self.err_path = f"{path}.out", f"{path}.err"
        self._fd = os.open(f"{path}.log", os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        self._sources: dict[int, bytes] = {}
        for name, stream in ((self.out_path, STDOUT), (self.err_path, STDERR)):
            os.mkfifo(name, 0o600)
            # Opened for reading and writing: it neither waits for a writer nor ends without one.
            source = os.open(name, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
            self._sources[source] = stream
            asyncio.get_running_loop().add_reader(source, self._read, source)
        self._size = 0
        self._last = b""
        self._at_line_start = True
        self._full = False
        self._grown = asyncio.Event()
        self.complete = False

    def _read(self, source: int) -> None:
        """Take what is there, up to a share, so that a flood does not starve everything else."""
        for _ in range(_READS_AT_ONCE):
            try:
                data = os.read(source, _READ)
            except BlockingIOError:
                return
            self._append(self._sources[source], data)

    def _append(self, stream: bytes, data: bytes) -> None:
        if self._full:
            return
        marked = bytearray()
        for line in _lines(data):
            if self._at_line_start or stream != self._last:
                marked += stream
            marked += line
            self._last, self._at_line_start = stream, line.endswith(b"\n")
        self._write(bytes(marked))

    def _write(self, data: bytes) -> None:
        if self._size + len(data) > LIMIT:
            self._full = True
            data = data[: LIMIT - self._size] + _NOTICE
        try:
            self._size += os.pwrite(self._fd, data, self._size)
        except OSError:
            self._full = True  # no room on the disk: the command goes on, its log does not
        self._grown.set()
        self._grown = asyncio.Event()

    def finish(self) -> None:
        """Take what the command has left in its pipes; readers end when they have it all.

        Children that it left behind may go on printing: that is still taken, for later readers.
        """
        for source in self._sources:
            self._read(source)  # its share is more than a pipe holds
        self.complete = True
        self._grown.set()

    def close(self) -> None:
        """Let go of the file; the pipes are emptied for as long as a daemon prints to them."""
        self.complete = True
        loop = asyncio.get_running_loop()
        for source, path in zip(self._sources, (self.out_path, self.err_path), strict=True):
            loop.remove_reader(source)
            rest = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            os.close(source)
            loop.add_reader(rest, _discard, rest)
        self._sources = {}
        os.close(self._fd)
        self._fd = -1
        self._grown.set()

    def read(self, limit: int) -> bytes:
        """Return the log, of which at most ``limit`` bytes."""
        return os.pread(self._fd, min(limit, self._size), 0)

    async def follow(self) -> AsyncIterator[bytes]:
        """Yield the log from its start, and what comes, until the command has ended."""
        offset = 0
        while True:
            grown = self._grown
            while self._fd >= 0 and (data := os.pread(self._fd, _READ, offset)):
                offset += len(data)
                yield data
            if self.complete:
                return
            await grown.wait()


def _discard(source: int) -> None:
    """Empty a pipe; let go of it when its last writer has."""
    try:
        data = os.read(source, _READ)
    except BlockingIOError:
        return
    if not data:
        asyncio.get_running_loop().remove_reader(source)
        os.close(source)


def _lines(data: bytes) -> list[bytes]:
    """Split after newlines only; ``bytes.splitlines`` splits at carriage returns, too."""
    pieces = data.split(b"\n")
    lines = [piece + b"\n" for piece in pieces[:-1]]
    return [*lines, pieces[-1]] if pieces[-1] else lines


class Stripper:
    """Takes the stream marks out of a log that comes in pieces, which may split a mark."""

    def __init__(self) -> None:
        self._held = b""

    def feed(self, data: bytes) -> bytes:
        """Return what is certainly text."""
        data = (self._held + data).replace(STDOUT, b"").replace(STDERR, b"")
        keep = next((n for n in (2, 1) if data[-n:] in {b"\x01" * n, b"\x02" * n}), 0)
        self._held = data[len(data) - keep :]
        return data[: len(data) - keep]

    def finish(self) -> bytes:
        """Return what was held back."""
        return self._held


def split(log: bytes) -> tuple[bytes, bytes]:
    """Take a log apart into what was printed to standard output and to standard error."""
    parts: dict[bytes, list[bytes]] = {STDOUT: [], STDERR: []}
    stream, start = STDOUT, 0
    while start < len(log):
        ends = [at for mark in parts if (at := log.find(mark, start)) >= 0]
        end = min(ends, default=len(log))
        parts[stream].append(log[start:end])
        if end < len(log):
            stream = log[end : end + 3]
        start = end + 3
    return b"".join(parts[STDOUT]), b"".join(parts[STDERR])
