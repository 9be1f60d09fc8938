"""A terminal in a sandbox, joined to the terminal that this program runs in."""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import sys
import termios
import threading
import tty
from typing import TYPE_CHECKING

from websockets.exceptions import ConnectionClosed, InvalidHandshake
from websockets.sync.client import connect
from websockets.typing import Subprotocol

from yurt.client import UnreachableError, YurtClientError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from websockets.sync.client import ClientConnection

    from yurt.client import Client, Sandbox

EXIT_CONTROL = Subprotocol("X-Daytona-Pty-Exit-Control")
_READ_BYTES = 65536


def run_shell(client: Client, sandbox: Sandbox) -> int:
    """Open a login shell in the sandbox and stay with it to its end; return its exit code.

    Raises:
        YurtClientError: there is no terminal here, or the sandbox gives none.
    """
    if not sys.stdin.isatty():
        message = "this is not a terminal: use `yurt exec`"
        raise YurtClientError(message)
    size = shutil.get_terminal_size()
    url, terminal = client.terminal_url(sandbox, size.columns, size.lines)
    try:
        connection = connect(
            url,
            additional_headers=client.headers,
            subprotocols=[EXIT_CONTROL],
            compression=None,
            proxy=None,
        )
    except (OSError, InvalidHandshake) as exc:
        message = f"no terminal in {sandbox.name}: {exc}"
        raise UnreachableError(message) from exc
    with connection:
        return _Session(client, connection, terminal).run()


class _Session:
    """One open terminal: the keyboard on this thread, the output on another."""

    def __init__(self, client: Client, connection: ClientConnection, terminal: str) -> None:
        self._client = client
        self._connection = connection
        self._terminal = terminal
        self._exit_code = 0
        # Ends and changes of size wake the thread that waits for keys.
        self._wake, self._waker = os.pipe()

    def run(self) -> int:
        reader = threading.Thread(target=self._show_output, daemon=True)
        previous = signal.signal(signal.SIGWINCH, lambda *_: os.write(self._waker, b"w"))
        try:
            with _raw(sys.stdin.fileno()):
                reader.start()
                self._send_keys()
        finally:
            signal.signal(signal.SIGWINCH, previous)
        reader.join(timeout=1)
        return self._exit_code

    def _send_keys(self) -> None:
        keyboard = sys.stdin.fileno()
        with contextlib.suppress(ConnectionClosed):
            while True:
                ready, _, _ = select.select([keyboard, self._wake], [], [])
                if self._wake in ready:
                    if b"q" in os.read(self._wake, 64):
                        return
                    self._resize()
                if keyboard in ready:
                    keys = os.read(keyboard, _READ_BYTES)
                    if not keys:
                        return
                    self._connection.send(keys)

    def _resize(self) -> None:
        size = shutil.get_terminal_size()
        # The shell may have ended this very moment; then its end is already on its way.
        with contextlib.suppress(YurtClientError):
            self._client.resize_terminal(self._terminal, size.columns, size.lines)

    def _show_output(self) -> None:
        try:
            for frame in self._connection:
                if isinstance(frame, str):
                    self._hear(frame)
                else:
                    sys.stdout.buffer.write(frame)
                    sys.stdout.buffer.flush()
        except ConnectionClosed as exc:
            reason = exc.rcvd.reason if exc.rcvd else ""
            self._exit_code = _exit_code(reason, self._exit_code or 255)
        finally:
            os.write(self._waker, b"q")

    def _hear(self, frame: str) -> None:
        control = json.loads(frame)
        if control.get("status") == "error":
            sys.stderr.write(f"yurt: {control.get('error')}\r\n")
            self._exit_code = 1
        elif control.get("status") == "exited":
            self._exit_code = int(control["exitCode"])


def _exit_code(reason: str, otherwise: int) -> int:
    """Read the exit code from the reason that a terminal was closed with."""
    try:
        return int(json.loads(reason)["exitCode"])
    except (ValueError, KeyError, TypeError):
        return otherwise


@contextlib.contextmanager
def _raw(fd: int) -> Iterator[None]:
    before = termios.tcgetattr(fd)
    tty.setraw(fd)
    try:
        yield
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)
