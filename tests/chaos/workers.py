"""A sandbox at work: a command that counts, and a terminal that counts and is watched."""

from __future__ import annotations

import contextlib
import re
import threading
from typing import TYPE_CHECKING

import httpx
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from tests.support.waiting import eventually

if TYPE_CHECKING:
    from tests.support.api import Sandbox

_COUNT = "n=0; while :; do n=$((n+1)); echo $n > /tmp/{name}; echo tick-$n; sleep 0.1; done"
_TERMINAL = "terminal"


class Worker:
    """Counts in ``sandbox`` by a session command and by a terminal with an open connection."""

    def __init__(self, sandbox: Sandbox) -> None:
        self.sandbox = sandbox
        self.connection_errors = 0
        self.last_tick = 0
        self._open = contextlib.ExitStack()
        self._reader: threading.Thread | None = None
        self._closing = False

    def begin(self) -> None:
        """Start both counters."""
        self.sandbox.background(_COUNT.format(name="command"))
        terminal = self.open_terminal("create-connect?id=" + _TERMINAL)
        terminal.send((_COUNT.format(name="terminal") + "\n").encode())
        self.expect_ticks()

    def reconnect(self) -> None:
        """Attach to the terminal again; it went on without us."""
        self.open_terminal(f"{_TERMINAL}/connect")

    def open_terminal(self, path: str) -> ClientConnection:
        self.close()
        self._closing = False
        base = self.sandbox.api.base_url.replace("http", "ws", 1)
        connection = self._open.enter_context(
            connect(
                f"{base}/toolbox/{self.sandbox.id}/process/pty/{path}",
                additional_headers={
                    "Authorization": self.sandbox.api.http.headers["Authorization"]
                },
                compression=None,
                proxy=None,
            )
        )
        self._reader = threading.Thread(target=self._read, args=(connection,), daemon=True)
        self._reader.start()
        return connection

    def _read(self, connection: ClientConnection) -> None:
        """Note the newest tick until the connection breaks."""
        with contextlib.suppress(ConnectionClosed):
            for message in connection:
                text = message if isinstance(message, str) else message.decode(errors="replace")
                if ticks := re.findall(r"tick-(\d+)", text):
                    self.last_tick = int(ticks[-1])
        if not self._closing:
            self.connection_errors += 1

    def close(self) -> None:
        self._closing = True
        self._open.close()
        if self._reader is not None:
            self._reader.join()
        self._reader = None

    def count(self, name: str = "command") -> int:
        """Read a counter, by a new request."""
        # The file is truncated for a moment each time it is written.
        text = eventually(lambda: self.sandbox.download(f"/tmp/{name}").strip(), "a number")
        return int(text)

    def expect_progress(self) -> None:
        """Both counters go on, as new requests tell."""
        self._expect_more("command", self.count("command"))
        self._expect_more("terminal", self.count("terminal"))

    def _expect_more(self, name: str, before: int) -> None:
        eventually(lambda: self.count(name) > before, f"{name} of {self.sandbox.id} to go on")

    def expect_open_terminal(self) -> None:
        """The connection that was open goes on to show ticks."""
        assert self.connection_errors == 0, f"{self.sandbox.id}: the terminal's connection broke"
        self.expect_ticks()

    def expect_ticks(self) -> None:
        before = self.last_tick
        eventually(lambda: self.last_tick > before, f"ticks of {self.sandbox.id}")

    def expect_one_error(self) -> None:
        """What was open broke, once."""
        eventually(lambda: self.connection_errors == 1, f"one error of {self.sandbox.id}")

    def answers(self) -> bool:
        """Whether a new request to the toolbox succeeds."""
        try:
            return self.sandbox.toolbox("GET", "/version", timeout=2).status_code == 200
        except httpx.TransportError:
            return False
