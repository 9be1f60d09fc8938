"""What the security tests share: neighbours of the host, and the machine's system calls."""

from __future__ import annotations

import ctypes
import socket
import threading
from typing import TYPE_CHECKING

import pytest

from tests.security.outside import GREETING, Outside, host_addresses, neighbourhood

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def outside() -> Iterator[Outside]:
    with neighbourhood() as made:
        yield made


@pytest.fixture(scope="session")
def host_service() -> Iterator[list[tuple[str, int]]]:
    """A service of the host on all of its addresses; yields the addresses that reach it."""
    listener = socket.create_server(("0.0.0.0", 0), backlog=64)
    port = listener.getsockname()[1]

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                connection.sendall(GREETING)

    server = threading.Thread(target=serve)
    server.start()
    yield [(address, port) for address in host_addresses()]
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    server.join()


@pytest.fixture(scope="session")
def calls() -> dict[str, int]:
    """Numbers of system calls on this machine, as libseccomp knows them."""
    names = (
        *("add_key", "bpf", "fsopen", "io_uring_setup", "keyctl", "mount_setattr", "move_mount"),
        *("open_tree", "perf_event_open", "request_key", "userfaultfd", "clone3"),
    )
    library = ctypes.CDLL("libseccomp.so.2")
    return {name: library.seccomp_syscall_resolve_name(name.encode()) for name in names}
