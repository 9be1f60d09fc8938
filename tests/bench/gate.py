"""What the gate costs: requests per CPU-second, and bulk against a plain TCP proxy.

    .venv/bin/python -m tests.bench.gate

Needs root. The reference proxy copies bytes between two asyncio connections and reads nothing of
them; "direct" has nothing in between. Every figure is the median of several runs in turn.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import socket
import statistics
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from tests.support.gate_rig import KEY, SANDBOX, GateRig

if TYPE_CHECKING:
    from collections.abc import Callable

_APP_PORT = 8000
_AGENT_PORT = 2280
_SECONDS = float(os.environ.get("BENCH_SECONDS", "3"))
_BULK = 512 << 20
_ROUNDS = 3
_CONNECTIONS = 16
_CHUNK = b"x" * (1 << 20)
_SMALL = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\r\nhello"
_LIKE_TRAEFIK = (
    "User-Agent: sdk-python/0.226.1\r\nAccept: application/json\r\nX-Daytona-Source: sdk-python\r\n"
    "X-Daytona-Sdk-Version: 0.226.1\r\nX-Forwarded-For: 127.0.0.1\r\n"
    "X-Forwarded-Host: localhost:9878\r\nX-Forwarded-Port: 9878\r\nX-Forwarded-Proto: http\r\n"
    "X-Forwarded-Server: host\r\nX-Real-Ip: 127.0.0.1\r\nAccept-Encoding: gzip\r\n\r\n"
)


def cpu_seconds(pid: int) -> float:
    """Return the time that a process has spent on a processor."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


# -- what stands behind ----------------------------------------------------------------------


class _Origin(asyncio.Protocol):
    """Answers small requests with five bytes, ``/bulk`` with ``_BULK``, and swallows uploads."""

    @override
    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.left = 0
        self.writable = asyncio.Event()
        self.writable.set()

    @override
    def data_received(self, data: bytes) -> None:
        if self.left:
            self.left -= len(data)
            if self.left <= 0:
                self.transport.write(_SMALL)
            return
        head, _, rest = data.partition(b"\r\n\r\n")
        if head.startswith(b"POST"):
            length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
            self.left = int(length) - len(rest)
        elif b"/bulk" in head:
            self.task = asyncio.get_running_loop().create_task(self.stream())
        else:
            self.transport.write(_SMALL * data.count(b"\r\n\r\n"))

    async def stream(self) -> None:
        self.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % _BULK)
        for _ in range(_BULK // len(_CHUNK)):
            self.transport.write(_CHUNK)
            await self.writable.wait()

    @override
    def pause_writing(self) -> None:
        self.writable.clear()

    @override
    def resume_writing(self) -> None:
        self.writable.set()


class _Pipe(asyncio.Protocol):
    """One half of the reference proxy."""

    def __init__(self, target: int | None = None) -> None:
        self.target = target
        self.other: _Pipe | None = None

    @override
    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        if self.target is not None:
            transport.pause_reading()
            self.task = asyncio.get_running_loop().create_task(self.dial(self.target))

    async def dial(self, target: int) -> None:
        loop = asyncio.get_running_loop()
        _, other = await loop.create_connection(_Pipe, "127.0.0.1", target)
        self.other, other.other = other, self
        self.transport.resume_reading()

    @override
    def data_received(self, data: bytes) -> None:
        assert self.other is not None
        self.other.transport.write(data)

    @override
    def pause_writing(self) -> None:
        assert self.other is not None
        self.other.transport.pause_reading()

    @override
    def resume_writing(self) -> None:
        assert self.other is not None
        self.other.transport.resume_reading()

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        if self.other is not None:
            self.other.transport.close()


def _serve(listeners: list[socket.socket], make: Callable[[], asyncio.Protocol]) -> None:
    async def run() -> None:
        loop = asyncio.get_running_loop()
        servers = [await loop.create_server(make, sock=listener) for listener in listeners]
        await asyncio.gather(*(server.serve_forever() for server in servers))

    asyncio.run(run())


# -- who asks --------------------------------------------------------------------------------


class _Asker(asyncio.Protocol):
    """Asks again as soon as it has the answer, until it is told to stop."""

    def __init__(self, request: bytes) -> None:
        self.request = request
        self.answers = 0
        self.wrong = 0
        self.until = time.monotonic() + _SECONDS
        self.done = asyncio.get_running_loop().create_future()

    @override
    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        transport.write(self.request)

    @override
    def data_received(self, data: bytes) -> None:
        self.answers += 1
        self.wrong += not data.endswith(b"hello")
        if time.monotonic() < self.until:
            self.transport.write(self.request)
        else:
            self.transport.close()

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        self.done.set_result(None)


def ask(port: int, request: bytes) -> int:
    """Return how many small requests were answered."""

    async def run() -> int:
        loop = asyncio.get_running_loop()
        askers = [
            (await loop.create_connection(lambda: _Asker(request), "127.0.0.1", port))[1]
            for _ in range(_CONNECTIONS)
        ]
        await asyncio.gather(*(asker.done for asker in askers))
        assert not sum(asker.wrong for asker in askers), "wrong answers"
        return sum(asker.answers for asker in askers)

    return asyncio.run(run())


def download(port: int, request: bytes) -> None:
    """Fetch ``_BULK`` bytes."""
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(request)
        buffer = memoryview(bytearray(1 << 20))
        got = 0
        while got < _BULK:
            size = connection.recv_into(buffer)
            assert size, f"closed after {got} bytes"
            got += size


def upload(port: int, request: bytes) -> None:
    """Send ``_BULK`` bytes."""
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(request)
        for _ in range(_BULK // len(_CHUNK)):
            connection.sendall(_CHUNK)
        assert connection.recv(4096).startswith(b"HTTP/1.1 200")


# -- the figures -----------------------------------------------------------------------------


def _head(method: str, path: str, host: str, *lines: str) -> bytes:
    return "\r\n".join(
        [f"{method} {path} HTTP/1.1", f"Host: {host}", *lines, _LIKE_TRAEFIK]
    ).encode()


def small(ways: dict[str, tuple[int, int, bytes]]) -> None:
    """Print requests per CPU-second of what stands in between; a way is (port, pid, request)."""
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(_ROUNDS):
        for name, (port, pid, request) in ways.items():
            before = cpu_seconds(pid)
            answered = ask(port, request)
            rates[name].append(answered / (cpu_seconds(pid) - before))
    for name, found in rates.items():
        print(f"{name:28} {statistics.median(found):8.0f} requests per CPU-second")


def bulk(direction: str, ways: dict[str, tuple[int, int]], move: Callable[[int], None]) -> None:
    """Print MB/s, and the ratio to the reference proxy; a way is (port, pid)."""
    rates: dict[str, list[float]] = {name: [] for name in ways}
    costs: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(_ROUNDS):
        for name, (port, pid) in ways.items():
            began, before = time.perf_counter(), cpu_seconds(pid)
            move(port)
            rates[name].append(_BULK / 1e6 / (time.perf_counter() - began))
            costs[name].append(cpu_seconds(pid) - before)
    reference = statistics.median(rates["plain TCP proxy"])
    for name, found in rates.items():
        rate, cost = statistics.median(found), statistics.median(costs[name])
        ratio = f"{rate / reference:5.2f} of the plain proxy, {cost:.2f} CPU-seconds"
        print(f"{direction + ', ' + name:28} {rate:8.0f} MB/s  {ratio}")


def main() -> None:
    """Run everything and print the figures."""
    if os.geteuid() != 0:
        sys.exit("the gate's bench makes a network namespace: it needs root")
    fork = multiprocessing.get_context("fork")
    outside = socket.create_server(("127.0.0.1", 0))
    proxy = socket.create_server(("127.0.0.1", 0))
    with GateRig() as rig:
        rig.assign(public=True)
        inside = [rig.inside.listen(_APP_PORT), rig.inside.listen(_AGENT_PORT)]
        target = outside.getsockname()[1]
        origin = fork.Process(target=_serve, args=([outside, *inside], _Origin), daemon=True)
        plain = fork.Process(target=_serve, args=([proxy], lambda: _Pipe(target)), daemon=True)
        origin.start()
        plain.start()
        proxy_port = proxy.getsockname()[1]
        gate, plain_pid, origin_pid = rig.process.pid, plain.pid or 0, origin.pid or 0
        host = f"{_APP_PORT}-{SANDBOX}.localhost:9878"
        bearer = f"Authorization: Bearer {KEY}"
        page = _head("GET", "/", host)
        tool = _head("GET", f"/toolbox/{SANDBOX}/process/session", "localhost:9878", bearer)
        small(
            {
                "gate, public preview": (rig.port, gate, page),
                "gate, toolbox with key": (rig.port, gate, tool),
                "plain TCP proxy": (proxy_port, plain_pid, page),
            }
        )
        ways = {
            "gate": (rig.port, gate),
            "plain TCP proxy": (proxy_port, plain_pid),
            "direct": (target, origin_pid),
        }
        get = _head("GET", "/bulk", host)
        bulk("download", ways, lambda port: download(port, get))
        post = _head("POST", "/", host, f"Content-Length: {_BULK}")
        bulk("upload", ways, lambda port: upload(port, post))
        print(f"resident memory of the gate: {rig.memory_kib() / 1024:.1f} MiB")
        for process in (origin, plain):
            process.terminate()
            process.join()


if __name__ == "__main__":
    main()
