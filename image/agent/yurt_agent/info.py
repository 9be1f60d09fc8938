"""Facts about the sandbox: version, directories, listening ports."""

from __future__ import annotations

from yurt_agent import VERSION
from yurt_agent.errors import BadRequestError
from yurt_agent.http import Request, Response, in_thread

PORTS = range(3000, 10000)
"""Ports that clients may ask for; the wire's range."""

_LISTEN = "0A"


async def version(_request: Request) -> Response:
    """Answer ``GET /version``."""
    return Response.json({"version": VERSION})


async def home_dir(request: Request) -> Response:
    """Answer ``GET /project-dir`` and ``/user-home-dir``: the home of the sandbox's user."""
    return Response.json({"dir": request.identity.user.home})


async def work_dir(request: Request) -> Response:
    """Answer ``GET /work-dir``: where relative paths and commands start."""
    return Response.json({"dir": request.identity.workdir})


async def ports(_request: Request) -> Response:
    """Answer ``GET /port`` with the TCP ports that something listens on."""
    found = await in_thread(listening_ports)
    return Response.json({"ports": sorted(port for port in found if port in PORTS)})


async def port_in_use(request: Request) -> Response:
    """Answer ``GET /port/{port}/in-use``."""
    text = request.params["port"]
    if not (text.isascii() and text.isdigit() and int(text) in PORTS):
        raise BadRequestError(f"port must be {PORTS.start} to {PORTS.stop - 1}")
    return Response.json({"isInUse": int(text) in await in_thread(listening_ports)})


def listening_ports() -> set[int]:
    """Read the kernel's socket tables; one that is not there (no IPv6) is empty."""
    found: set[int] = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            with open(table, encoding="ascii") as lines:
                next(lines, None)
                rows = [line.split() for line in lines]
        except FileNotFoundError:
            continue
        found.update(int(row[1].rpartition(":")[2], 16) for row in rows if row[3] == _LISTEN)
    return found
