"""The process that keeps control and Traefik of one data directory running.

Whoever holds the lock ``run/up.lock`` is that process. Runners are not its children: they go on
when it ends, and control finds them again.
"""

from __future__ import annotations

import asyncio
import fcntl
import http.client
import logging
import os
import signal
import ssl
import struct
import subprocess
import sys
import time
from dataclasses import replace
from typing import IO, TYPE_CHECKING

from control.cli import ports
from control.cli.children import Program, keep_running, killed_with_us, open_log, put_aside
from control.errors import ConflictError, UnavailableError
from traefik import process as traefik
from traefik.static import Front

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from control.settings import Settings

READY_SECONDS = 60.0
_POLL_SECONDS = 0.02
_FOLLOW_SECONDS = 0.5
_LOGS_SECONDS = 60.0
_TAIL_LINES = 15
LOGS = ("supervisor", "control", "traefik")
# struct flock of Linux on 64-bit machines: type, whence, start, length, pid.
_FLOCK = "hhqqi4x"


def lock_path(data: Path) -> Path:
    """Name the file that is locked while this data directory is up."""
    return data / "run" / "up.lock"


def log_path(data: Path, name: str) -> Path:
    """Name one of the ``LOGS``."""
    return data / "log" / f"{name}.log"


def running(data: Path) -> int | None:
    """Return the pid of the supervisor of a data directory, or None.

    The kernel says who holds the lock, so that this is never a number from a dead process.
    """
    try:
        with lock_path(data).open("rb") as file:
            asked = struct.pack(_FLOCK, fcntl.F_RDLCK, os.SEEK_SET, 0, 0, 0)
            kind, _, _, _, pid = struct.unpack(_FLOCK, fcntl.fcntl(file, fcntl.F_GETLK, asked))
    except FileNotFoundError:
        return None
    return None if kind == fcntl.F_UNLCK else int(pid)


def take_lock(data: Path) -> IO[bytes]:
    """Become the supervisor of a data directory, for as long as the returned file is open.

    Raises:
        ConflictError: there is one.
    """
    path = lock_path(data)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    file = path.open("ab")
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as exc:
        file.close()
        message = f"it is up already (pid {running(data)})"
        raise ConflictError(message) from exc
    return file


async def supervise(settings: Settings, ended: asyncio.Event) -> None:
    """Run control and Traefik until ``ended`` is set; then end both.

    Raises:
        ConflictError: somebody else does.
        UnavailableError: a program cannot be started at all.
    """
    with take_lock(settings.data):
        gateway = _Gateway(settings)
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(keep_running(_control(settings))),
                    group.create_task(keep_running(gateway.program())),
                    group.create_task(gateway.follow_control()),
                    group.create_task(_keep_logs_short(settings.data)),
                ]
                await ended.wait()
                for task in tasks:
                    task.cancel()
        except* OSError as failed:
            raise UnavailableError(str(failed.exceptions[0])) from failed


async def wait_until_ready(settings: Settings, is_alive: Callable[[], bool]) -> None:
    """Return when requests through Traefik reach control.

    Raises:
        UnavailableError: it took too long, or ``is_alive`` turned false; with the ends of the logs.
    """
    deadline = time.monotonic() + READY_SECONDS
    while not await asyncio.to_thread(_is_ready, settings):
        if not is_alive():
            raise UnavailableError(_with_logs(settings, "the server ended while it started"))
        if time.monotonic() > deadline:
            message = f"the server is not ready after {READY_SECONDS:.0f} s"
            raise UnavailableError(_with_logs(settings, message))
        await asyncio.sleep(_POLL_SECONDS)


def local_address(settings: Settings) -> str:
    """Return the address by which this machine itself reaches the server."""
    first = settings.addresses[0]
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(first, first)


def listen_addresses(settings: Settings) -> tuple[str, ...]:
    """Name the addresses to listen on: with 127.0.0.1 also ::1, where programs look first."""
    listen = settings.addresses
    if listen == ("127.0.0.1",) and ports.has_ipv6_loopback():
        return ("127.0.0.1", "::1")
    return listen


async def _keep_logs_short(data: Path) -> None:
    while True:
        for name in LOGS:
            await asyncio.to_thread(put_aside, log_path(data, name))
        await asyncio.sleep(_LOGS_SECONDS)


class _Gateway:
    """Traefik, and its way to control, which may come back on another port."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._layout = traefik.Layout(settings.data / "traefik")
        self._front: Front | None = None

    def program(self) -> Program:
        log = log_path(self._settings.data, "traefik")
        return Program("traefik", self._prepare, traefik.environment(), log)

    def _prepare(self) -> Sequence[str]:
        settings = self._settings
        self._layout.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        internal, web = self._layout.ports()
        certificate = None
        if settings.tls_cert and settings.tls_key:
            certificate = (settings.tls_cert.absolute(), settings.tls_key.absolute())
        self._front = Front(
            listen=listen_addresses(settings),
            port=settings.port,
            control=_control_urls(settings),
            internal_port=internal,
            web_port=web,
            certificate=certificate,
        )
        traefik.lay_out(self._layout, self._front)
        return traefik.command(self._layout, settings.port)

    async def follow_control(self) -> None:
        while True:
            await asyncio.sleep(_FOLLOW_SECONDS)
            control = _control_urls(self._settings)
            if self._front and control and control != self._front.control:
                self._front = replace(self._front, control=control)
                await asyncio.to_thread(traefik.lay_out, self._layout, self._front)


def _control_urls(settings: Settings) -> tuple[str, ...]:
    """Give where control listens; nothing while that is not known, which Traefik answers 503."""
    port = _read_port(settings.port_path)
    return (f"http://127.0.0.1:{port}",) if port else ()


def _control(settings: Settings) -> Program:
    # Control takes the port that it finds here, so that Traefik can be started beside it.
    if _read_port(settings.port_path) is None:
        settings.port_path.write_text(str(traefik.free_ports(1)[0]))

    def prepare() -> Sequence[str]:
        return killed_with_us([sys.executable, "-m", "control"])

    # Whoever forbids Python to keep what it compiled would pay for it at each start.
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    return Program("control", prepare, environment, log_path(settings.data, "control"))


def _read_port(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (FileNotFoundError, ValueError):
        return None


def _is_ready(settings: Settings) -> bool:
    """Ask control for its health, through Traefik."""
    target = (local_address(settings), settings.port)
    connection = http.client.HTTPConnection(*target, timeout=1)
    if settings.tls_cert:
        # Our own certificate, asked for by address: there is nothing to verify.
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        connection = http.client.HTTPSConnection(*target, timeout=1, context=context)
    try:
        connection.request("GET", "/api/health", headers={"Host": settings.domains[0]})
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _with_logs(settings: Settings, message: str) -> str:
    """Put the ends of the logs below a message."""
    parts = [message]
    for name in LOGS:
        path = log_path(settings.data, name)
        if path.exists():
            lines = path.read_text(errors="replace").splitlines()[-_TAIL_LINES:]
            parts += [f"{path}:", *(f"  {line}" for line in lines)]
    return "\n".join(parts)


def start_detached(settings: Settings) -> subprocess.Popen[bytes]:
    """Start a supervisor that outlives this process."""
    with open_log(log_path(settings.data, "supervisor")) as log:
        return subprocess.Popen(
            [sys.executable, "-m", "control.cli.supervisor"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd="/",
            start_new_session=True,
        )


async def _main() -> None:
    from control.settings import Settings

    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    await supervise(Settings(), ended)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    asyncio.run(_main())
