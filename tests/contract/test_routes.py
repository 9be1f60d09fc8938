"""``RouteRegistry``, in memory, files and Consul alike; and what a real Traefik makes of them."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import httpx
import pytest
import websockets

from control.errors import UnavailableError
from tests.support.consul import Consul, of_its_own, running
from tests.support.edge import Backend, Edge, close, edge_over, front_of, traefik
from traefik.consul import ConsulRegistry
from traefik.files import FileRegistry
from traefik.memory import MemoryRegistry
from traefik.registry import Route

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from traefik.registry import RouteRegistry

pytestmark = pytest.mark.contract

EVERY_REAL = ["files", "consul"]

A = "a" * 26
B = "a" * 25 + "b"
SIGNATURE = "a2" * 11 + "z"


def route(sandbox_id: str = A, port: int = 23001) -> Route:
    return Route(sandbox_id, generation=1, address="127.0.0.1", port=port, domain="localhost")


@pytest.fixture(scope="module")
def consul(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Consul]:
    with running(Consul(tmp_path_factory.mktemp("consul"))) as server:
        yield server


@pytest.fixture(params=["memory", *EVERY_REAL])
async def registry(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[RouteRegistry]:
    match request.param:
        case "memory":
            yield MemoryRegistry()
        case "files":
            directory = tmp_path / "dynamic"
            directory.mkdir()
            yield FileRegistry(directory)
        case _:
            settings = of_its_own(request.getfixturevalue("consul"))
            async with ConsulRegistry(settings) as registry:
                yield registry


async def test_what_is_registered_is_listed(registry: RouteRegistry) -> None:
    await registry.register(route(A))
    await registry.register(route(B))
    assert sorted(await registry.routes(), key=str) == [route(A), route(B)]


async def test_a_new_generation_overwrites(registry: RouteRegistry) -> None:
    newer = replace(route(port=9), generation=2)
    await registry.register(route())
    await registry.register(newer)
    assert await registry.routes() == [newer]


async def test_removing_what_is_not_there_succeeds(registry: RouteRegistry) -> None:
    await registry.register(route(A))
    await registry.deregister(A)
    await registry.deregister(A)
    assert await registry.routes() == []


@pytest.mark.parametrize("bad", ["", "short", "../../etc/passwd", A.upper()])
async def test_what_is_not_a_sandbox_id_is_neither_written_nor_removed(
    registry: RouteRegistry, bad: str
) -> None:
    if isinstance(registry, MemoryRegistry):
        return
    await registry.register(route(A))
    with pytest.raises(ValueError, match="not a sandbox id"):
        await registry.register(route(bad))
    with pytest.raises(ValueError, match="not a sandbox id"):
        await registry.deregister(bad)
    assert await registry.routes() == [route(A)]


async def test_a_list_that_would_not_be_complete_raises(tmp_path: Path) -> None:
    directory = tmp_path / "dynamic"
    directory.mkdir()
    (directory / f"{B}.yml").write_text("")
    registry = FileRegistry(directory)
    await registry.register(route(A))
    with pytest.raises(UnavailableError):
        await registry.routes()


async def test_a_directory_that_is_gone_raises_instead_of_forgetting(tmp_path: Path) -> None:
    registry = FileRegistry(tmp_path / "missing" / "dynamic")
    with pytest.raises(UnavailableError):
        await registry.register(route())
    with pytest.raises(UnavailableError):
        await registry.routes()


async def test_mending_removes_torn_routes_only(tmp_path: Path) -> None:
    directory = tmp_path / "dynamic"
    directory.mkdir()
    (directory / "control.yml").write_text("")
    registry = FileRegistry(directory)
    await registry.register(route(A))
    await registry.register(route(B))
    torn = directory / f"{B}.yml"
    torn.write_text(torn.read_text()[:-20])
    registry.mend()
    assert await registry.routes() == [route(A)]
    assert (directory / "control.yml").exists()


# From here on: a real Traefik.


@pytest.fixture(params=EVERY_REAL)
async def edge(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Edge]:
    if request.param == "files":
        async with edge_over(tmp_path) as running:
            yield running
        return
    async with (
        ConsulRegistry(of_its_own(request.getfixturevalue("consul"))) as registry,
        edge_over(tmp_path, registry) as running,
    ):
        yield running


async def test_a_route_is_live_within_a_second_and_gone_when_removed(edge: Edge) -> None:
    path = f"/toolbox/{A}/files"
    assert await edge.backend(path) == "control"
    async with Backend("gate") as gate:
        times = []
        for _ in range(10):
            await edge.registry.register(route(A, gate.port))
            times.append(await edge.live(path, "gate"))
            await edge.registry.deregister(A)
            await edge.live(path, "control")
    print("route live after ms:", sorted(round(seconds * 1000) for seconds in times))
    assert max(times) < 1


async def test_both_dialects_and_previews_lead_to_the_gate(edge: Edge) -> None:
    async with Backend("gate") as gate:
        await edge.registry.register(route(A, gate.port))
        await edge.live(f"/toolbox/{A}/files", "gate")
        assert await edge.backend(f"/api/toolbox/{A}/toolbox/files") == "gate"
        assert await edge.backend("/", f"3000-{A}.localhost") == "gate"
        assert await edge.backend("/", f"3000-{A.upper()}.LOCALHOST:80") == "gate"
        assert await edge.backend("/", f"3000-{A}-{SIGNATURE}.localhost") == "gate"


async def test_what_is_not_this_sandbox_leads_to_control(edge: Edge) -> None:
    async with Backend("gate") as gate:
        await edge.registry.register(route(A, gate.port))
        await edge.live(f"/toolbox/{A}", "gate")
        assert await edge.backend(f"/toolbox/{A}x") == "control"
        assert await edge.backend(f"/toolbox/{B}") == "control"
        assert await edge.backend(f"/api/sandbox/{A}") == "control"
        assert await edge.backend("/", f"3000-{B}.localhost") == "control"
        assert await edge.backend("/", f"3000-{A}.example.com") == "control"
        assert await edge.backend("/", "unknown.example.com") == "control"


async def test_a_toolbox_path_on_a_preview_host_belongs_to_the_application(edge: Edge) -> None:
    async with Backend("gate a") as gate_a, Backend("gate b") as gate_b:
        await edge.registry.register(route(A, gate_a.port))
        await edge.registry.register(route(B, gate_b.port))
        await edge.live(f"/toolbox/{B}/files", "gate b")
        assert await edge.backend(f"/toolbox/{B}/files", f"3000-{A}.localhost") == "gate a"


async def test_a_port_that_another_sandbox_takes_over_is_no_longer_the_first_ones(
    edge: Edge,
) -> None:
    async with Backend("gate") as gate:
        await edge.registry.register(route(A, gate.port))
        await edge.live(f"/toolbox/{A}", "gate")
        await edge.registry.deregister(A)
        await edge.registry.register(route(B, gate.port))
        await edge.live(f"/toolbox/{B}", "gate")
        await edge.live(f"/toolbox/{A}", "control")


async def test_two_hundred_quick_changes_end_as_the_last_of_them_say(edge: Edge) -> None:
    ids = [f"{'a' * 24}{first}{second}" for first in "bcdefghijk" for second in "bcdefghijk"]
    async with Backend("gate") as gate:
        await asyncio.gather(*(edge.registry.register(route(one, gate.port)) for one in ids))
        kept = ids[::10]
        await asyncio.gather(*(edge.registry.deregister(one) for one in set(ids) - set(kept)))
        for one in ids:
            await edge.live(f"/toolbox/{one}", "gate" if one in kept else "control")
    assert {one.sandbox_id for one in await edge.registry.routes()} == set(kept)


async def test_overwriting_moves_a_sandbox(edge: Edge) -> None:
    async with Backend("old") as old, Backend("new") as new:
        await edge.registry.register(route(A, old.port))
        await edge.live(f"/toolbox/{A}", "old")
        await edge.registry.register(route(A, new.port))
        assert await edge.live(f"/toolbox/{A}", "new") < 1


async def test_a_dead_gate_is_a_502_and_not_the_catch_all(edge: Edge) -> None:
    async with Backend("gate") as gate:
        await edge.registry.register(route(A, gate.port))
        await edge.live(f"/toolbox/{A}", "gate")
    assert (await edge.get(f"/toolbox/{A}")).status_code == 502


@pytest.mark.parametrize(
    "path",
    ["/internal/report", "//internal/report", "/INTERNAL", "/%69nternal/report", "/internal%2fx"],
)
async def test_internal_paths_are_never_routed(edge: Edge, path: str) -> None:
    head = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    assert (await edge.raw(head.encode())).startswith(b"HTTP/1.1 404 ")


@pytest.mark.parametrize(
    "target", ["//y/../z", "/x/./y//", "/a%2Fb", "/a%5Cb%3Bc", "/a%252e", "/q?a=1%3B2&b=%zz"]
)
async def test_targets_arrive_at_previews_as_they_were_sent(edge: Edge, target: str) -> None:
    host = f"3000-{A}.localhost"
    async with Backend("gate") as gate:
        await edge.registry.register(route(A, gate.port))
        await edge.live("/", "gate", host)
        assert await edge.line(target, host) == f"GET {target} HTTP/1.1"


async def test_an_alias_of_a_header_is_refused_and_misleading_ones_are_removed(edge: Edge) -> None:
    async with httpx.AsyncClient(trust_env=False, base_url=edge.url) as client:
        assert (await client.get("/", headers={"X_Forwarded_For": "1.1.1.1"})).status_code == 400
        answer = await client.get(
            "/",
            headers={"Forwarded": "host=evil", "X-Original-URL": "/", "X-Forwarded-Host": "evil"},
        )
    headers = answer.json()["headers"]
    assert "forwarded" not in headers
    assert "x-original-url" not in headers
    assert headers["x-forwarded-host"] == f"127.0.0.1:{edge.front.port}"


async def test_a_stream_is_passed_on_as_it_comes(edge: Edge) -> None:
    arrivals = []
    async with (
        httpx.AsyncClient(trust_env=False) as client,
        client.stream("GET", edge.url + "/ticks") as answer,
    ):
        async for _ in answer.aiter_raw():
            arrivals.append(time.perf_counter())
    assert len(arrivals) == 3
    assert arrivals[1] - arrivals[0] > 0.15


async def test_an_upload_is_passed_on_before_it_is_complete(edge: Edge) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", edge.front.port)
    size = 64 * 1024 * 1024
    writer.write(b"PUT / HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % size)
    writer.write(b"x" * 100_000)
    seen = 0
    while seen < 100_000:
        seen += await asyncio.wait_for(edge.control.uploaded.get(), 5)
    for _ in range(size // 1_000_000):
        writer.write(b"x" * 1_000_000)
        await writer.drain()
    writer.write(b"x" * (size - 100_000 - size // 1_000_000 * 1_000_000))
    assert (await reader.readline()).startswith(b"HTTP/1.1 200")
    await close(writer)


async def test_websockets_pass_in_both_directions(edge: Edge) -> None:
    async def shout(connection: websockets.ServerConnection) -> None:
        async for message in connection:
            await connection.send(str(message).upper())

    async with websockets.serve(shout, "127.0.0.1", 0) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        await edge.registry.register(route(A, port))
        url = f"ws://127.0.0.1:{edge.front.port}/toolbox/{A}/pty"
        connection = await eventually_connected(url)
        await connection.send("hello")
        assert await connection.recv() == "HELLO"
        await connection.close()


async def eventually_connected(url: str) -> websockets.ClientConnection:
    deadline = time.monotonic() + 5
    while True:
        try:
            return await websockets.connect(url, proxy=None)
        except websockets.InvalidStatus:
            assert time.monotonic() < deadline, "the route does not appear"
            await asyncio.sleep(0.01)


async def test_beyond_loopback_one_source_cannot_hold_all_connections(tmp_path: Path) -> None:
    async with Backend("control") as control, httpx.AsyncClient(trust_env=False) as client:
        front = replace(front_of(control), listen=("0.0.0.0",), connections_per_source=4)
        with traefik(tmp_path, front) as layout:
            edge = Edge(front, FileRegistry(layout.dynamic), control, client)
            await edge.live("/", "control")
            assert (await edge.get("/")).json()["headers"]["x-forwarded-for"] == "127.0.0.1"
            await client.aclose()
            half_sent: list[socket.socket] = []
            # One that was just closed still counts for a moment, and takes the place of another.
            while await visit(edge.url) is not None:
                assert len(half_sent) < 10, "one source has more connections than it may have"
                half_sent.append(half_a_request("127.0.0.1", front.port))
            async with httpx.AsyncClient(
                trust_env=False, transport=httpx.AsyncHTTPTransport(local_address="127.0.0.2")
            ) as other:
                assert (await other.get(edge.url)).status_code == 200
            for one in half_sent:
                one.close()


async def test_who_comes_before_the_routes_is_sent_away_and_not_told_that_nothing_is_found(
    tmp_path: Path,
) -> None:
    async with Backend("control") as control, httpx.AsyncClient(trust_env=False) as client:
        front = replace(front_of(control), listen=("0.0.0.0",))
        with traefik(tmp_path, front) as layout:
            edge = Edge(front, FileRegistry(layout.dynamic), control, client)
            await edge.live("/", "control")
            await client.aclose()
            file = layout.dynamic / "control.yml"
            routes = file.read_text()
            file.write_text("{}")  # as it is until the file has been read
            deadline = time.monotonic() + 10
            while await visit(edge.url) is not None:
                assert time.monotonic() < deadline, "the routes do not go"
            assert {await visit(edge.url) for _ in range(20)} == {None}
            file.write_text(routes)
            while await visit(edge.url) != 200:
                assert time.monotonic() < deadline, "the routes do not come back"


async def visit(url: str) -> int | None:
    """Ask on a connection of its own; None if that is closed without an answer."""
    async with httpx.AsyncClient(trust_env=False) as visitor:
        try:
            return (await visitor.get(url)).status_code
        except httpx.TransportError:
            return None


def half_a_request(host: str, port: int) -> socket.socket:
    client = socket.create_connection((host, port))
    # Closing resets, so that nothing lingers in the next test.
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    with contextlib.suppress(OSError):  # it may be refused already
        client.sendall(b"GET / HTTP/1.1\r\nHost: ")
    return client
