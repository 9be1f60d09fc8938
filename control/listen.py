"""The sockets that control listens on.

Loopback for Traefik here, a unix socket for the runners here, and an address that other machines
reach where there are any.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
from typing import TYPE_CHECKING

from control.errors import ConflictError, InvalidError

if TYPE_CHECKING:
    from pathlib import Path

ADDRESS = "127.0.0.1"
_ANY = "0.0.0.0"
_BACKLOG = 2048
# What fits into sockaddr_un, with the NUL at its end.
_LONGEST_PATH = 107


def only_one(path: Path) -> int:
    """Make sure that this is the only control of its data directory; return the lock.

    Raises:
        ConflictError: there is another one.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(lock)
        raise ConflictError(f"another control runs on {path.parent.parent}") from error
    return lock


def on_loopback(kept: Path) -> socket.socket:
    """Listen on the port in the file ``kept``; on another, written there, if that one is taken."""
    # With the protocol named, asyncio switches off Nagle on what is accepted.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((ADDRESS, _read_port(kept)))
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            listener.close()
            raise
        listener.bind((ADDRESS, 0))
    listener.listen(_BACKLOG)
    temporary = kept.with_suffix(".new")
    temporary.write_text(f"{listener.getsockname()[1]}\n")
    temporary.rename(kept)
    return listener


def on_address(address: str, port: int) -> socket.socket:
    """Listen where other machines reach us.

    Raises:
        InvalidError: that is not possible.
    """
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((address, port))
    except OSError as error:
        listener.close()
        message = f"YURT_CONTROL_LISTEN: cannot listen on {address}:{port}: {error.strerror}"
        raise InvalidError(message) from error
    listener.listen(_BACKLOG)
    return listener


def is_for_runners(server: tuple[str, int | None] | None, door: tuple[str, int] | None) -> bool:
    """Tell whether runners may report by the socket that a request came to.

    That is the unix one, which has no port, and the one at ``door``; the one on loopback is
    Traefik's.
    """
    if server is None or server[1] is None:
        return True
    return door is not None and server[1] == door[1] and door[0] in {server[0], _ANY}


def _read_port(kept: Path) -> int:
    try:
        port = int(kept.read_text())
    except (FileNotFoundError, ValueError):
        return 0
    return port if 0 < port <= 0xFFFF else 0


def on_path(path: Path) -> socket.socket:
    """Listen on a unix socket that only root reaches, in the place of an older one.

    Raises:
        InvalidError: the path is too long for a socket.
    """
    temporary = path.with_suffix(".new")
    if len(os.fsencode(temporary)) > _LONGEST_PATH:
        raise InvalidError(f"YURT_DATA is too long a path for sockets below it: {path}")
    temporary.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = os.umask(0o177)
    try:
        listener.bind(str(temporary))
    finally:
        os.umask(mask)
    listener.listen(_BACKLOG)
    temporary.rename(path)
    return listener
