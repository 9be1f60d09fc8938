"""Who listens on a TCP port of this machine, as the kernel tells it."""

from __future__ import annotations

import socket
from contextlib import suppress
from pathlib import Path

_LISTENING = "0A"


def can_listen(address: str, port: int) -> bool:
    """Tell whether a server could listen there now."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        socket.create_server((address, port), family=family).close()
    except OSError:
        return False
    return True


def has_ipv6_loopback() -> bool:
    """Tell whether this machine has the address ``::1``."""
    return can_listen("::1", 0)


def holder(port: int, proc: Path = Path("/proc")) -> str:
    """Describe the process that listens on a port, e.g. ``nginx (pid 812)``."""
    sockets = _sockets(port, proc)
    for process in proc.iterdir():
        if process.name.isdigit() and sockets & _open_files(process):
            with suppress(OSError):
                name = (process / "comm").read_text().strip()
                return f"{name} (pid {process.name})"
    return "another process" if sockets else "a process outside of this network namespace"


def _sockets(port: int, proc: Path) -> set[str]:
    """Name the sockets that listen on the port, as links of open files do."""
    found = set()
    for table in ("tcp", "tcp6"):
        with suppress(FileNotFoundError):
            for line in (proc / "net" / table).read_text().splitlines()[1:]:
                words = line.split()
                if words[3] == _LISTENING and int(words[1].rpartition(":")[2], 16) == port:
                    found.add(f"socket:[{words[9]}]")
    return found


def _open_files(process: Path) -> set[str]:
    found = set()
    with suppress(OSError):
        for link in (process / "fd").iterdir():
            with suppress(OSError):
                found.add(str(link.readlink()))
    return found
