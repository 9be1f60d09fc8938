"""A real Traefik between a client and backends that are only played."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import httpx

from traefik import process
from traefik.files import FileRegistry
from traefik.static import Cluster, Front

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from traefik.consul import ConsulRegistry
    from traefik.registry import RouteRegistry


async def close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


class Backend:
    """A server that answers with its name and the head that reached it, byte for byte."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.port = 0
        self.uploaded = asyncio.Queue[int]()
        self._server: asyncio.Server | None = None
        self._serving = set[asyncio.Task[None]]()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def __aenter__(self) -> Backend:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._serving:
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)
        with contextlib.suppress(
            asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError
        ):
            while True:
                await self._answer(await reader.readuntil(b"\r\n\r\n"), reader, writer)
        await close(writer)

    async def _answer(
        self, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        lines = head.decode("latin-1").split("\r\n")
        headers = {
            name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:])
        }
        if lines[0].startswith("GET /ticks"):
            await self._tick(writer)
            return
        remaining = int(headers.get("content-length", 0))
        while remaining:
            chunk = await reader.read(min(remaining, 65536))
            remaining -= len(chunk)
            self.uploaded.put_nowait(len(chunk))
        body = json.dumps({"backend": self.name, "line": lines[0], "headers": headers}).encode()
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
        await writer.drain()

    async def _tick(self, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        for _ in range(3):
            writer.write(b"5\r\ntick\n\r\n")
            await writer.drain()
            await asyncio.sleep(0.3)
        writer.write(b"0\r\n\r\n")
        await writer.drain()


@dataclass(frozen=True)
class Edge:
    """A running Traefik with control behind it."""

    front: Front
    registry: RouteRegistry
    control: Backend
    client: httpx.AsyncClient
    scheme: str = "http"

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.front.port}"

    async def get(self, path: str, host: str = "localhost") -> httpx.Response:
        extensions = {"sni_hostname": host}
        return await self.client.get(self.url + path, headers={"host": host}, extensions=extensions)

    async def raw(self, request: bytes) -> bytes:
        """Send bytes as they are and read the answer to the end."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.front.port)
        writer.write(request)
        answer = await reader.read()
        await close(writer)
        return answer

    async def line(self, target: str, host: str = "localhost") -> str:
        """Tell the request line that reached the backend for a request target sent raw."""
        head = f"GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
        answer = await self.raw(head.encode())
        return str(json.loads(answer.partition(b"\r\n\r\n")[2])["line"])

    async def backend(self, path: str, host: str = "localhost") -> str:
        return str((await self.get(path, host)).json()["backend"])

    async def live(
        self, path: str, backend: str, host: str = "localhost", *, seconds: float = 5
    ) -> float:
        """Wait until a path is answered by ``backend``; tell after how many seconds it was."""
        begin = time.perf_counter()
        while time.perf_counter() - begin < seconds:
            answer = await self.get(path, host)
            if answer.status_code == 200 and answer.json()["backend"] == backend:
                return time.perf_counter() - begin
            await asyncio.sleep(0.002)
        message = f"{path} on {host} is not answered by {backend}"
        raise AssertionError(message)


@contextlib.contextmanager
def traefik(
    directory: Path, front: Front, cluster: Cluster | None = None
) -> Iterator[process.Layout]:
    """Run Traefik for the time of a block."""
    layout = process.Layout(directory)
    process.lay_out(layout, front, cluster)
    command = process.command(layout, front.port)
    with subprocess.Popen(command, env=process.environment()) as child:
        try:
            deadline = time.monotonic() + 10
            while not process.is_ready(front.internal_port):
                assert child.poll() is None, "Traefik ended"
                assert time.monotonic() < deadline, "Traefik does not answer"
                time.sleep(0.02)
            yield layout
        finally:
            child.kill()


def front_of(control: Backend) -> Front:
    """Describe a Traefik on free ports of loopback before this control."""
    port, internal, web = process.free_ports(3)
    return Front(
        listen=("127.0.0.1",),
        port=port,
        control=(control.url,),
        internal_port=internal,
        web_port=web,
    )


@contextlib.asynccontextmanager
async def edge_over(
    directory: Path, registry: ConsulRegistry | None = None, cluster: Cluster | None = None
) -> AsyncIterator[Edge]:
    """Run a Traefik before a control, its routes in files or in Consul."""
    if registry and not cluster:
        cluster = Cluster(registry.settings)
    async with Backend("control") as control, httpx.AsyncClient(trust_env=False) as client:
        front = front_of(control)
        with traefik(directory, front, cluster) as layout:
            edge = Edge(front, registry or FileRegistry(layout.dynamic), control, client)
            await edge.live("/", "control")
            yield edge
