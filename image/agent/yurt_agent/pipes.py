"""Read and write pipes from the event loop without ever waiting in a call."""

from __future__ import annotations

import asyncio
import fcntl
import os
import struct
import termios

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

READ = 1 << 16
_IGNORED_SECONDS = 0.02
"""Time between two reads of what nobody reads: its writer lives on, but no faster than that."""


class Source:
    """Hands what arrives on a descriptor to a callback, and closes it at its end."""

    def __init__(self, fd: int, take: Callable[[bytes], None]) -> None:
        """Own ``fd`` from now on."""
        os.set_blocking(fd, False)
        self._fd = fd
        self._take: Callable[[bytes], None] | None = take
        asyncio.get_running_loop().add_reader(fd, self._read)

    @classmethod
    def named(cls, path: str, take: Callable[[bytes], None]) -> Source:
        """Make a named pipe and read it; the end comes when its last writer, if any, leaves."""
        os.mkfifo(path, 0o600)
        return cls(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), take)

    def _read(self) -> None:
        """Take one piece only: everything else gets its turn before the next one."""
        try:
            data = os.read(self._fd, READ)
        except BlockingIOError:
            return
        except OSError:
            data = b""  # EIO: the last process has let go of the terminal
        if not data:
            self.close()
        elif self._take is not None:
            self._take(data)
        else:
            self.pause()
            asyncio.get_running_loop().call_later(_IGNORED_SECONDS, self.resume)

    def drain(self) -> None:
        """Take what is there now, and no more: somebody may go on writing for ever."""
        left = self._waiting()
        while left > 0 and self._take is not None:
            try:
                data = os.read(self._fd, min(left, READ))
            except OSError:
                return
            if not data:
                return
            left -= len(data)
            self._take(data)

    def _waiting(self) -> int:
        if self._fd < 0:
            return 0
        count = fcntl.ioctl(self._fd, termios.FIONREAD, b"\0\0\0\0")
        return int(struct.unpack("i", count)[0])

    def pause(self) -> None:
        """Stop reading; the writer is held up when the pipe is full."""
        if self._fd >= 0:
            asyncio.get_running_loop().remove_reader(self._fd)

    def resume(self) -> None:
        """Read on."""
        if self._fd >= 0:
            asyncio.get_running_loop().add_reader(self._fd, self._read)

    def ignore(self) -> None:
        """Drop what comes from now on: a writer without any reader would be killed."""
        self._take = None

    def close(self) -> None:
        """Read no more; closing twice is fine."""
        if self._fd >= 0:
            asyncio.get_running_loop().remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1


class Sink:
    """Writes to a descriptor; whoever writes more than it takes, waits."""

    def __init__(self, fd: int) -> None:
        """Own ``fd`` from now on."""
        os.set_blocking(fd, False)
        self._fd = fd
        self._turn = asyncio.Lock()
        self._writable: asyncio.Future[None] | None = None

    async def write(self, data: bytes) -> bool:
        """Write all of it; False if the sink was closed before."""
        async with self._turn:
            view = memoryview(data)
            while view:
                if self._fd < 0:
                    return False
                try:
                    view = view[os.write(self._fd, view) :]
                except BlockingIOError:
                    await self._wait()
                except OSError:
                    return False  # the reader is gone
        return self._fd >= 0

    async def _wait(self) -> None:
        loop = asyncio.get_running_loop()
        self._writable = loop.create_future()
        loop.add_writer(self._fd, self._wake)
        try:
            await self._writable
        finally:
            if self._fd >= 0:
                loop.remove_writer(self._fd)

    def _wake(self) -> None:
        if self._writable is not None and not self._writable.done():
            self._writable.set_result(None)

    def close(self) -> None:
        """Close it; writers that wait give up, and closing twice is fine."""
        if self._fd >= 0:
            asyncio.get_running_loop().remove_writer(self._fd)
            os.close(self._fd)
            self._fd = -1
            self._wake()
