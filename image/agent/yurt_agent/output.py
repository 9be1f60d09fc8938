"""What a program prints, kept in bounded memory while it is never held up."""

from __future__ import annotations

import asyncio
import os

LIMIT = 16 << 20
"""Bytes of output that an answer holds; of more, the middle is left out."""

_READ = 1 << 16
_READS_AT_ONCE = 64


class Output:
    """Collects a pipe: the first and the last half of ``LIMIT``."""

    def __init__(self) -> None:
        self._fd, self.write_fd = os.pipe()
        os.set_blocking(self._fd, False)
        self._head = bytearray()
        self._tail = bytearray()
        self._dropped = 0
        asyncio.get_running_loop().add_reader(self._fd, self._read)

    def _read(self) -> None:
        for _ in range(_READS_AT_ONCE):
            try:
                data = os.read(self._fd, _READ)
            except BlockingIOError:
                return
            if not data:
                self._close()
                return
            self._keep(data)

    def _keep(self, data: bytes) -> None:
        room = LIMIT // 2 - len(self._head)
        self._head += data[:room]
        self._tail += data[max(room, 0) :]
        excess = len(self._tail) - LIMIT // 2
        if excess > _READ * 16:  # in steps: moving the rest costs as much as copying it
            del self._tail[:excess]
            self._dropped += excess

    def _close(self) -> None:
        if self._fd >= 0:
            asyncio.get_running_loop().remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1

    def close_write(self) -> None:
        """Close our copy of the writer's end, once the program has its own."""
        if self.write_fd >= 0:
            os.close(self.write_fd)
            self.write_fd = -1

    def finish(self) -> str:
        """Take what is there now and stop reading, though children may still hold the pipe."""
        self.close_write()
        while self._fd >= 0:
            try:
                data = os.read(self._fd, _READ)
            except BlockingIOError:
                break
            if not data:
                break
            self._keep(data)
        self._close()
        excess = max(len(self._tail) - LIMIT // 2, 0)
        dropped = self._dropped + excess
        notice = f"\n[{dropped} bytes of output left out]\n".encode() if dropped else b""
        whole = bytes(self._head) + notice + bytes(self._tail[excess:])
        return whole.decode("utf-8", "replace")
