"""When somebody last used the sandbox, by this machine's steady clock.

Clock jumps change nothing here. Used is: a request until its answer begins, work of the toolbox
until it ends (a command, a terminal), and bytes that are no keep-alive.
"""

from __future__ import annotations

import asyncio
import json
import re
import time

_REPORT_SECONDS = 1.0
# What only watches: open for as long as somebody listens, also to nothing.
_WATCHES = re.compile(rb"[^?]*/(?:logs|watch)/?(?:\?.*)?", re.DOTALL)


def is_work(target: bytes) -> bool:
    """Tell whether a request to the agent is work for as long as it is open."""
    return _WATCHES.fullmatch(target) is None


class Activity:
    """Keeps the time, and tells the holder at most once a second.

    Args:
        send: sends a packet to the holder.
    """

    def __init__(self, send: Callable[[bytes], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._send = send
        self._last = time.monotonic()
        self._held = 0
        self._told = (self._last, 0)
        self._timer: asyncio.TimerHandle | None = None

    def touch(self) -> None:
        """Note that something was done just now."""
        self._last = time.monotonic()
        if self._timer is None:
            self._tell()

    def hold(self) -> None:
        """Note that something begins which is activity until ``release``."""
        self._held += 1
        if self._timer is None:
            self._tell()

    def release(self) -> None:
        """Note that it is over; only ``touch`` says that it was any use."""
        self._held -= 1
        if self._timer is None:
            self._tell()

    @property
    def idle_seconds(self) -> float:
        """For how long nobody used the sandbox."""
        return 0.0 if self._held else time.monotonic() - self._last

    def _tell(self) -> None:
        now = (self._last, self._held)
        self._timer = None
        if now != self._told:
            self._told = now
            fields = {"last": self._last, "held": self._held}
            self._send(b"Q" + json.dumps(fields).encode())
            self._timer = self._loop.call_later(_REPORT_SECONDS, self._tell)


TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
