"""The edge passes requests on by real sockets: a server before it, a gate's stand-in behind it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import pytest_asyncio
import uvicorn
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from control.errors import UnavailableError
from control.forward import Forwarder

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from control.asgi import Receive, Scope, Send

pytestmark = pytest.mark.contract


async def behind(scope: Scope, receive: Receive, send: Send) -> None:
    """Be the gate: answer with what came, or what the path asks for."""
    if scope["type"] == "websocket":
        await talk(scope, receive, send)
        return
    body = b""
    while scope["method"] == "POST":
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    start = {"type": "http.response.start", "status": 207}
    fields = [(b"x-" + name, value) for name, value in scope["headers"]]
    await send({**start, "headers": [*fields, (b"x-target", scope["raw_path"]), *TWICE]})
    if scope["path"] == "/endless":
        await endless(receive, send)
        return
    await send({"type": "http.response.body", "body": scope["query_string"] + b"|" + body})


TWICE = [(b"set-cookie", b"a=1"), (b"set-cookie", b"b=2"), (b"connection", b"x")]


async def endless(receive: Receive, send: Send) -> None:
    await send({"type": "http.response.body", "body": b"first", "more_body": True})
    while (await receive())["type"] != "http.disconnect":
        continue
    endless.left.set()  # type: ignore[attr-defined]


async def talk(scope: Scope, receive: Receive, send: Send) -> None:
    await receive()
    if scope["path"] == "/closed":
        fields = [(b"content-type", b"text/plain")]
        start = {"type": "websocket.http.response.start", "status": 401, "headers": fields}
        await send(start)
        await send({"type": "websocket.http.response.body", "body": b"who?"})
        return
    chosen = scope["subprotocols"][-1] if scope["subprotocols"] else None
    await send({"type": "websocket.accept", "subprotocol": chosen})
    headers = dict(scope["headers"])
    await send({"type": "websocket.send", "text": f"{headers[b'host'].decode()} {scope['path']}"})
    while (message := await receive())["type"] == "websocket.receive":
        if message.get("text") == "bye":
            await send({"type": "websocket.close", "code": 4001, "reason": "as asked"})
            return
        await send({**message, "type": "websocket.send"})


@contextlib.asynccontextmanager
async def serving(app: Any) -> AsyncIterator[tuple[str, int]]:
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(
        app, lifespan="off", ws="websockets-sansio", log_config=None, date_header=False
    )
    server = uvicorn.Server(config)
    server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign, assignment]
    running = asyncio.ensure_future(server.serve([listener]))
    try:
        yield "127.0.0.1", listener.getsockname()[1]
    finally:
        server.should_exit = server.force_exit = True
        await running
        listener.close()


@pytest_asyncio.fixture
async def front() -> AsyncIterator[str]:
    """Yield the address of a server that passes everything on."""
    endless.left = asyncio.Event()  # type: ignore[attr-defined]
    async with serving(behind) as gate, Forwarder() as forwarder:

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await forwarder.pass_on(scope, receive, send, gate)

        async with serving(app) as (host, port):
            yield f"{host}:{port}"


@pytest_asyncio.fixture
async def client(front: str) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=f"http://{front}", trust_env=False) as client:
        yield client


async def test_a_request_arrives_byte_for_byte(client: httpx.AsyncClient) -> None:
    target = b"/a%2Fb//c/../d;x=[1]?q=%20&r=a+b&s=|"
    headers = {"host": "80-x.localhost", "x-own": "1", "connection": "x-hop", "x-hop": "1"}
    answer = await client.post("/", content=b"body", headers=headers, extensions={"target": target})
    assert answer.status_code == 207
    assert answer.headers["x-target"] == "/a%2Fb//c/../d;x=[1]"
    assert answer.text == "q=%20&r=a+b&s=||body"
    assert answer.headers["x-host"] == "80-x.localhost"
    assert answer.headers["x-x-own"] == "1"
    assert "x-x-hop" not in answer.headers
    assert answer.headers.get_list("set-cookie") == ["a=1", "b=2"]


async def test_large_bodies_pass_with_and_without_a_length(client: httpx.AsyncClient) -> None:
    large = b"x" * (5 << 20)

    async def chunks() -> AsyncIterator[bytes]:
        for start in range(0, len(large), 1 << 18):
            await asyncio.sleep(0)
            yield large[start : start + (1 << 18)]

    for content in (large, chunks()):
        answer = await client.post("/", content=content)
        assert answer.content == b"|" + large


async def test_an_answer_streams_and_ends_with_its_reader(client: httpx.AsyncClient) -> None:
    async with client.stream("GET", "/endless") as answer:
        async for chunk in answer.aiter_raw():
            assert chunk == b"first"
            break
    left: asyncio.Event = endless.left  # type: ignore[attr-defined]
    await asyncio.wait_for(left.wait(), 5)


async def test_nobody_behind_is_said_before_anything_is_sent() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    address = listener.getsockname()[:2]
    listener.close()
    scope: Scope = {
        "type": "http",
        "method": "GET",
        "path": "/",
        "raw_path": b"/",
        "query_string": b"",
        "headers": [],
    }
    sent: list[Any] = []

    async def send(message: Any) -> None:
        await asyncio.sleep(0)
        sent.append(message)

    async with Forwarder() as forwarder:
        with pytest.raises(UnavailableError):
            await forwarder.pass_on(scope, asyncio.Event().wait, send, address)  # type: ignore[arg-type]
        websocket = {**scope, "type": "websocket"}
        with pytest.raises(UnavailableError):
            await forwarder.pass_on(websocket, handshake, send, address)
    assert sent == []


async def handshake() -> dict[str, Any]:
    await asyncio.sleep(0)
    return {"type": "websocket.connect"}


async def test_a_websocket_passes_text_bytes_and_its_end(front: str) -> None:
    host, _, port = front.partition(":")
    async with connect(
        "ws://8080-x.localhost/ws?q=1",
        host=host,
        port=int(port),
        subprotocols=["a", "b"],  # type: ignore[list-item] # a NewType of str
        max_size=None,
        proxy=None,
    ) as link:
        assert link.subprotocol == "b"
        assert await link.recv() == "8080-x.localhost /ws"
        for said in ("text", b"\x00bytes", "x" * (2 << 20)):
            await link.send(said)
            assert await link.recv() == said
        await link.send("bye")
        with pytest.raises(ConnectionClosed):
            await link.recv()
    assert (link.close_code, link.close_reason) == (4001, "as asked")


async def test_a_websocket_that_is_refused_shows_why(front: str) -> None:
    with pytest.raises(InvalidStatus) as refused:
        await connect(f"ws://{front}/closed", proxy=None)
    assert refused.value.response.status_code == 401
    assert refused.value.response.body == b"who?"
