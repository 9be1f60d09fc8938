"""Output that is kept for readers: any amount is taken, and the last ``LIMIT`` bytes stay.

A short log is in memory. A longer one is a file that has no name, so that nothing is left over
whatever happens: it ends with the log. It is written as a ring. Readers count in bytes since the
log's beginning.
"""

from __future__ import annotations

import asyncio
import os
import weakref

from yurt_agent.pipes import READ

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterator

LIMIT = 64 << 20
"""Bytes of one log that are kept."""

MEMORY = 16 << 10
"""Bytes of one log that are kept without a file."""

FILES = 1000
"""Logs that have a file; of more, the oldest that are complete are forgotten."""

_PLACES = ("/tmp", "/var/tmp", "/dev/shm", ".")
_with_file: dict[int, weakref.ref[Log]] = {}


class Log:
    """One log; ``size`` counts all bytes that it ever took, ``start`` those that it lost."""

    def __init__(self, mark: bytes = b"") -> None:
        """Begin; ``mark`` precedes a notice that something was left out."""
        self.size = 0
        self.complete = False
        self._end = 0
        self._mark = mark
        self._memory = bytearray()
        self._fd = -1
        self._first = 0
        self._limit = LIMIT
        self._waiting: list[asyncio.Future[None]] = []

    def __del__(self) -> None:
        self.forget()

    @property
    def start(self) -> int:
        """The position of the first byte that is kept."""
        if self._fd >= 0:
            return max(self._first, self.size - self._limit)
        return self.size - len(self._memory)

    def append(self, data: bytes) -> None:
        """Take output."""
        if self._fd < 0 and len(self._memory) + len(data) > MEMORY:
            self._begin_file()
        if self._fd >= 0:
            self._store(data)
        else:
            self._remember(data)
        self._wake()

    def _remember(self, data: bytes | memoryview) -> None:
        self._memory += data
        self.size += len(data)
        del self._memory[:-MEMORY]

    def _begin_file(self) -> None:
        """Move to a file; without room for one, the last ``MEMORY`` bytes are what is kept."""
        for place in _PLACES:
            path = f"{place}/.yurt-log-{os.urandom(8).hex()}"
            try:
                self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            except OSError:
                continue
            os.unlink(path)
            break
        else:
            return
        self._limit = LIMIT
        held, self._memory = bytes(self._memory), bytearray()
        self.size -= len(held)
        self._first = self.size
        _with_file[id(self)] = weakref.ref(self)
        self._store(held)
        if len(_with_file) > FILES:
            logs = [log for ref in _with_file.values() if (log := ref()) is not None]
            oldest = next((log for log in logs if log.complete), None)
            if oldest is not None:
                oldest.forget()

    def _store(self, data: bytes) -> None:
        """Write to the ring; on a full disk it is as large as it has become."""
        view = memoryview(data)
        while view:
            offset = self.size % self._limit
            try:
                count = os.pwrite(self._fd, view[: self._limit - offset], offset)
            except OSError:
                if self._first or self.size < MEMORY or self._limit != LIMIT:
                    self.forget()
                    self._remember(view)
                    return
                self._limit = self.size
                continue
            self.size += count
            view = view[count:]

    def finish(self) -> None:
        """Note that what was to be logged has ended; followers end when they have it all.

        What it left running may go on printing: that is still taken, for later readers.
        """
        self.complete = True
        self._end = self.size
        self._wake()

    def forget(self) -> None:
        """Let go of all that is kept."""
        self._memory.clear()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
            _with_file.pop(id(self), None)

    def pieces(self, limit: int = LIMIT) -> Iterator[bytes]:
        """Yield the last ``limit`` bytes of the log as it is now."""
        position, stop = 0, self.size
        least = max(0, stop - limit)
        while position < stop:
            position, notice = self._reachable(position, least)
            if notice:
                yield notice
            data = self._read(position, stop)
            position += len(data)
            if data:
                yield data

    async def follow(self) -> AsyncGenerator[bytes, None]:
        """Yield the log from its start, and what comes, until it is complete."""
        position, present = 0, self.size
        while True:
            stop = max(self._end, present) if self.complete else self.size
            if position < stop:
                position, notice = self._reachable(position, 0)
                if notice:
                    yield notice
                data = self._read(position, stop)
                position += len(data)
                if data:
                    yield data
                    await asyncio.sleep(0)  # however fast the reader is, others get their turn
            elif self.complete:
                return
            else:
                await self._change()

    def _reachable(self, position: int, least: int) -> tuple[int, bytes]:
        """Skip what is not kept, to the start of a line if one is near, and say so."""
        wanted = max(least, self.start)
        if position >= wanted:
            return position, b""
        end = self._read(wanted, self.size).find(b"\n") + 1
        skipped = wanted + end - position
        text = b"[%d bytes of output left out here]\n" % skipped
        return wanted + end, self._mark + text

    def _read(self, position: int, stop: int) -> bytes:
        count = min(READ, stop - position)
        if self._fd < 0:
            first = position - self.start
            return bytes(self._memory[first : first + count])
        offset = position % self._limit
        return os.pread(self._fd, min(count, self._limit - offset), offset)

    async def _change(self) -> None:
        waiter = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        await waiter

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, []
        for waiter in waiting:
            if not waiter.done():
                waiter.set_result(None)
