"""The agent's HTTP server over loopback, with handlers of the tests' own."""

# ruff: noqa: RUF029 - handlers are coroutine functions, whether they wait or not

from __future__ import annotations

import asyncio
import contextlib
import io
import socket
from typing import TYPE_CHECKING, Any

import pytest
import websockets
from hypothesis import HealthCheck, given, settings, strategies as st

from yurt_agent import server as serving, websocket as websocketing
from yurt_agent.errors import BadRequestError
from yurt_agent.http import (
    BODY_BUFFER,
    DisconnectedError,
    FileSlice,
    Request,
    Response,
    StreamResponse,
    in_thread,
)
from yurt_agent.routes import Application, Router
from yurt_agent.server import HEAD_LIMIT, Server
from yurt_agent.user import Identity, User

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator
    from pathlib import Path

    from yurt_agent.http import Handler

pytestmark = pytest.mark.contract

IDENTITY = Identity(User("u", 1, 1, (), "/", "/bin/sh"), {}, "/")
SECRET = "secret"


class Site(Application):
    """An application whose routes are functions of the test, by path."""

    def __init__(self, **handlers: Handler) -> None:
        super().__init__(SECRET, IDENTITY)
        rows = [
            (method, f"/{name}", name) for name in handlers for method in ("GET", "POST", "DELETE")
        ]
        self._router = Router(tuple(rows))
        self._router.handler = handlers.__getitem__  # type: ignore[method-assign, assignment]


@contextlib.asynccontextmanager
async def serving_site(**handlers: Handler) -> AsyncIterator[int]:
    listener = socket.create_server(("127.0.0.1", 0))
    server = Server(Site(**handlers))
    await server.listen(listener)
    try:
        yield listener.getsockname()[1]
    finally:
        await server.close()
        await asyncio.sleep(0)


class Client:
    """A raw connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def send(self, method: str, path: str, *headers: str, body: bytes = b"") -> None:
        lines = [f"{method} {path} HTTP/1.1", "Host: x", f"X-Yurt-Secret: {SECRET}", *headers]
        self.writer.write(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + body)

    def post(self, path: str, body: bytes, *headers: str) -> None:
        self.send("POST", path, f"Content-Length: {len(body)}", *headers, body=body)

    async def head(self) -> tuple[int, dict[str, str]]:
        raw = await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), 10)
        first, *lines = raw.decode("latin-1").splitlines()
        pairs = (line.partition(": ") for line in lines if line)
        return int(first.split()[1]), {name.lower(): value for name, _, value in pairs}

    async def answer(self) -> tuple[int, dict[str, str], bytes]:
        status, headers = await self.head()
        if headers.get("transfer-encoding") == "chunked":
            return status, headers, await self.chunks()
        size = int(headers.get("content-length", 0))
        return status, headers, await asyncio.wait_for(self.reader.readexactly(size), 10)

    async def chunks(self) -> bytes:
        whole = b""
        while size := int(await asyncio.wait_for(self.reader.readline(), 10), 16):
            whole += (await self.reader.readexactly(size + 2))[:-2]
        await self.reader.readline()
        return whole

    async def rest(self) -> bytes:
        return await asyncio.wait_for(self.reader.read(), 10)


@contextlib.asynccontextmanager
async def client_of(port: int) -> AsyncIterator[Client]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield Client(reader, writer)
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def echo(request: Request) -> Response:
    return Response(await request.body(1 << 30))


async def hello(_request: Request) -> Response:
    return Response(b"hello")


async def test_a_connection_serves_one_request_after_another() -> None:
    async with serving_site(echo=echo) as port, client_of(port) as client:
        for body in (b"", b"one", b"x" * 3_000_000):
            client.post("/echo", body)
            assert (await client.answer())[2] == body


async def test_pipelined_requests_are_answered_in_order() -> None:
    async def slow(request: Request) -> Response:
        await asyncio.sleep(float(request.first("s")))
        return Response(request.first("s").encode())

    async with serving_site(slow=slow) as port, client_of(port) as client:
        waits = ["0.1", "0", "0.05", "0"]
        for seconds in waits:
            client.send("GET", f"/slow?s={seconds}")
        assert [(await client.answer())[2].decode() for _ in waits] == waits


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=30
)
@given(
    body=st.binary(max_size=200),
    cuts=st.lists(st.integers(1, 400), max_size=20),
    chunk=st.integers(1, 60),
)
def test_requests_do_not_depend_on_how_they_are_cut(
    body: bytes, cuts: list[int], chunk: int
) -> None:
    head = f"POST /echo HTTP/1.1\r\nHost: x\r\nX-Yurt-Secret: {SECRET}\r\n"
    pieces = [body[at : at + chunk] for at in range(0, len(body), chunk)]
    chunked = b"".join(b"%x;ext=1\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
    raw = (head + "Transfer-Encoding: chunked\r\n\r\n").encode() + chunked + b"0\r\nT: x\r\n\r\n"
    raw += (head + f"Content-Length: {len(body)}\r\n\r\n").encode() + body

    async def run() -> None:
        async with serving_site(echo=echo) as port, client_of(port) as client:
            rest = raw
            for size in cuts:
                client.writer.write(rest[:size])
                await client.writer.drain()
                await asyncio.sleep(0)
                rest = rest[size:]
            client.writer.write(rest)
            assert (await client.answer())[2] == body
            assert (await client.answer())[2] == body

    asyncio.run(run())


async def test_a_client_that_asks_is_told_to_go_on_before_it_sends() -> None:
    async with serving_site(echo=echo) as port, client_of(port) as client:
        client.send("POST", "/echo", "Content-Length: 4", "Expect: 100-continue")
        assert (await client.head())[0] == 100
        client.writer.write(b"body")
        assert (await client.answer())[2] == b"body"


async def test_a_client_that_asks_and_is_refused_sends_nothing() -> None:
    async with serving_site(hello=hello) as port, client_of(port) as client:
        client.send("POST", "/hello", "Content-Length: 1000000", "Expect: 100-continue")
        status, headers, _ = await client.answer()
        assert (status, headers["connection"]) == (200, "close")
        assert await client.rest() == b""


async def test_a_body_that_nobody_reads_does_not_spoil_the_next_request() -> None:
    async with serving_site(hello=hello) as port, client_of(port) as client:
        client.post("/hello", b"POST /x HTTP/1.1\r\n\r\n" * 500_000)
        client.send("GET", "/hello")
        assert (await client.answer())[2] == b"hello"
        assert (await client.answer())[2] == b"hello"


async def test_an_unread_body_that_never_ends_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "DRAIN_SECONDS", 0.1)
    async with serving_site(hello=hello) as port, client_of(port) as client:
        client.send("POST", "/hello", "Content-Length: 1000")
        assert (await client.answer())[2] == b"hello"
        with contextlib.suppress(ConnectionError):
            assert await client.rest() == b""


async def test_a_handler_that_reads_slowly_slows_the_client_down() -> None:
    go = asyncio.Event()

    async def waiting(request: Request) -> Response:
        await go.wait()
        return Response(str(len(await request.body(1 << 30))).encode())

    async with serving_site(waiting=waiting) as port, client_of(port) as client:
        size = 64 * BODY_BUFFER
        client.send("POST", "/waiting", f"Content-Length: {size}")
        sent = 0
        with contextlib.suppress(TimeoutError):
            while sent < size:
                client.writer.write(bytes(BODY_BUFFER))
                sent += BODY_BUFFER
                await asyncio.wait_for(client.writer.drain(), 0.5)
        assert sent < size, "everything was taken"
        go.set()
        client.writer.write(bytes(size - sent))
        assert (await client.answer())[2] == str(size).encode()


async def test_a_client_that_reads_slowly_slows_the_answer_down() -> None:
    made = 0

    async def endless(_request: Request) -> Response:
        async def pieces() -> AsyncGenerator[bytes, None]:
            nonlocal made
            while made < 500:
                made += 1
                yield bytes(1 << 20)

        return StreamResponse(pieces())

    async with serving_site(endless=endless) as port, client_of(port) as client:
        client.send("GET", "/endless")
        await client.head()
        await asyncio.sleep(0.3)
        assert made < 100


async def test_head_is_answered_like_get_without_a_body() -> None:
    async def numbers(_request: Request) -> Response:
        async def pieces() -> AsyncGenerator[bytes, None]:
            yield b"12345"

        return StreamResponse(pieces(), length=5)

    async with serving_site(hello=hello, numbers=numbers) as port, client_of(port) as client:
        for path in ("/hello", "/numbers"):
            client.send("HEAD", path)
            status, headers = await client.head()
            assert (status, headers["content-length"]) == (200, "5")
        client.send("GET", "/numbers")
        assert (await client.answer())[2] == b"12345"


async def test_http_1_0_gets_a_plain_stream_until_the_end() -> None:
    async def stream(_request: Request) -> Response:
        async def pieces() -> AsyncGenerator[bytes, None]:
            yield b"one"
            yield b"two"

        return StreamResponse(pieces())

    async with serving_site(stream=stream) as port, client_of(port) as client:
        client.writer.write(f"GET /stream HTTP/1.0\r\nX-Yurt-Secret: {SECRET}\r\n\r\n".encode())
        _, headers = await client.head()
        assert "transfer-encoding" not in headers
        assert await client.rest() == b"onetwo"


@pytest.mark.parametrize(
    "raw",
    [
        b"nonsense\r\n\r\n",
        b"G E T / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nContent-Length: x\r\n\r\n",
    ],
)
async def test_malformed_requests_are_refused(raw: bytes) -> None:
    async with serving_site() as port, client_of(port) as client:
        client.writer.write(raw)
        status, headers, _ = await client.answer()
        assert (status, headers["connection"]) == (400, "close")
        assert await client.rest() == b""


async def test_a_malformed_chunk_ends_the_handler() -> None:
    async with serving_site(echo=echo) as port, client_of(port) as client:
        client.send("POST", "/echo", "Transfer-Encoding: chunked", body=b"zz\r\n")
        status, headers, _ = await client.answer()
        assert (status, headers["connection"]) == (400, "close")


@pytest.mark.parametrize("cut", [True, False], ids=["endless", "complete"])
async def test_a_head_that_is_too_long_is_refused(cut: bool) -> None:
    async with serving_site(hello=hello) as port, client_of(port) as client:
        head = f"GET /hello HTTP/1.1\r\nX-Yurt-Secret: {SECRET}\r\nA: ".encode()
        client.writer.write(head + b"x" * HEAD_LIMIT + (b"" if cut else b"\r\n\r\n"))
        status, headers, _ = await client.answer()
        assert (status, headers["connection"]) == (431, "close")


async def test_the_longest_head_is_taken() -> None:
    async with serving_site(hello=hello) as port, client_of(port) as client:
        client.send("GET", "/hello", "A: " + "x" * (HEAD_LIMIT - 200))
        assert (await client.answer())[0] == 200


async def test_a_long_body_before_a_pipelined_head_is_no_long_head() -> None:
    async with serving_site(echo=echo, hello=hello) as port, client_of(port) as client:
        client.post("/echo", b"x" * (8 * HEAD_LIMIT))
        client.writer.write(b"GET /hello HTTP/1.1\r\nX-Yurt-")
        assert len((await client.answer())[2]) == 8 * HEAD_LIMIT
        client.writer.write(f"Secret: {SECRET}\r\n\r\n".encode())
        assert (await client.answer())[2] == b"hello"


async def test_endless_trailers_are_refused() -> None:
    async with serving_site(echo=echo) as port, client_of(port) as client:
        client.send("POST", "/echo", "Transfer-Encoding: chunked", body=b"1\r\nx\r\n0\r\nT: ")
        for _ in range(3):
            await asyncio.sleep(0.05)
            client.writer.write(b"y" * HEAD_LIMIT)
        assert (await client.answer())[0] == 431


async def test_a_slow_head_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "HEAD_SECONDS", 0.1)
    async with serving_site(hello=hello) as port, client_of(port) as client:
        client.writer.write(b"GET /hello HTTP/1.1\r\n")
        assert (await client.answer())[0] == 408


async def test_a_handler_that_breaks_is_answered_with_an_envelope(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def broken(_request: Request) -> Response:
        raise LookupError("something private")

    async with serving_site(broken=broken) as port, client_of(port) as client:
        client.send("GET", "/broken")
        status, _, body = await client.answer()
        assert status == 500
        assert b"INTERNAL_SERVER_ERROR" in body
        assert b"private" not in body
    assert "something private" in caplog.text


async def pieces_of(*items: bytes) -> AsyncGenerator[bytes, None]:
    for item in items:
        yield item


@pytest.mark.parametrize("length", [9, 11, None], ids=["longer", "shorter", "fails"])
async def test_an_answer_that_turns_out_otherwise_is_cut(length: int | None) -> None:
    async def breaking() -> AsyncGenerator[bytes, None]:
        yield b"0123456789"
        raise OSError("the disk is gone")

    async def wrong(_request: Request) -> Response:
        pieces = breaking() if length is None else pieces_of(b"0123456789")
        return StreamResponse(pieces, length=length)

    async with serving_site(wrong=wrong) as port, client_of(port) as client:
        client.send("GET", "/wrong")
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError, ValueError)):
            await client.answer()


async def test_a_file_that_shrinks_while_it_is_sent_is_cut(tmp_path: Path) -> None:
    target = tmp_path / "f"
    target.write_bytes(bytes(40 << 20))

    async def shrinking(_request: Request) -> Response:
        async def pieces() -> AsyncGenerator[FileSlice, None]:
            with io.FileIO(target) as file:
                yield FileSlice(file, 0, 40 << 20)

        return StreamResponse(pieces(), length=40 << 20)

    async with serving_site(shrinking=shrinking) as port, client_of(port) as client:
        client.send("GET", "/shrinking")
        await client.head()
        target.write_bytes(b"small")
        with contextlib.suppress(ConnectionError):
            assert len(await client.rest()) < 40 << 20


async def test_a_header_cannot_be_split() -> None:
    async def split(_request: Request) -> Response:
        return Response(b"", headers={"X": "a\r\nSet-Cookie: b"})

    async with serving_site(split=split) as port, client_of(port) as client:
        client.send("GET", "/split")
        with contextlib.suppress(ConnectionError):
            assert await client.rest() == b""


async def ends(done: asyncio.Future[str]) -> str:
    return await asyncio.wait_for(done, 5)


def note(done: asyncio.Future[str], text: str) -> None:
    if not done.done():
        done.set_result(text)


async def test_a_client_that_goes_away_cancels_the_handler() -> None:
    done: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def hanging(_request: Request) -> Response:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            note(done, "cancelled")
            raise
        return Response()

    async with serving_site(hanging=hanging) as port:
        async with client_of(port) as client:
            client.send("GET", "/hanging")
            await asyncio.sleep(0.05)
        assert await ends(done) == "cancelled"


async def test_a_client_that_goes_away_closes_the_stream() -> None:
    done: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def stream(_request: Request) -> Response:
        async def pieces() -> AsyncGenerator[bytes, None]:
            try:
                yield b"first"
                await asyncio.sleep(60)
            finally:
                note(done, "closed")

        return StreamResponse(pieces())

    async with serving_site(stream=stream) as port:
        async with client_of(port) as client:
            client.send("GET", "/stream")
            await client.head()
        assert await ends(done) == "closed"


async def test_a_body_that_is_cut_off_raises_in_the_handler() -> None:
    done: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def reading(request: Request) -> Response:
        try:
            await request.body()
        except (DisconnectedError, asyncio.CancelledError):
            note(done, "cut")
            raise
        return Response()

    async with serving_site(reading=reading) as port:
        async with client_of(port) as client:
            client.send("POST", "/reading", "Content-Length: 10", body=b"12345")
            await client.writer.drain()
            await asyncio.sleep(0.05)
        assert await ends(done) == "cut"


async def test_cancelled_work_in_a_thread_ends_before_the_handler_goes_on() -> None:
    order: list[str] = []
    done: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def work() -> None:
        import time

        time.sleep(0.3)
        order.append("work")

    async def working(_request: Request) -> Response:
        try:
            await in_thread(work)
        finally:
            order.append("clean-up")
            note(done, "")
        return Response()

    async with serving_site(working=working) as port:
        async with client_of(port) as client:
            client.send("GET", "/working")
            await asyncio.sleep(0.05)
        await ends(done)
    assert order == ["work", "clean-up"]


async def chat(request: Request) -> None:
    websocket = await request.websocket(lambda offered: offered[-1] if offered else None)
    async for message in websocket:
        if message == "close":
            await websocket.close(4001, "r" * 500)
            return
        if message == "fail":
            raise BadRequestError("no")
        await websocket.send(message)


def connect(port: int, path: str = "/chat", **more: Any) -> Any:
    headers = {"X-Yurt-Secret": SECRET}
    return websockets.connect(
        f"ws://127.0.0.1:{port}{path}", additional_headers=headers, max_size=None, **more
    )


async def test_websocket_messages_keep_their_kind_and_size() -> None:
    async with serving_site(chat=chat) as port, connect(port) as client:
        for message in ("text ✓", b"\xff\0", "", b"", "x" * 1_000_000):
            await client.send(message)
            assert await client.recv() == message
        await client.send(["frag", "men", "ted"])
        assert await client.recv() == "fragmented"
        await (await client.ping())


async def test_the_chosen_subprotocol_is_echoed_however_long_the_offer() -> None:
    offer = ["x~" + "e" * 12_000, "control"]
    async with serving_site(chat=chat) as port, connect(port, subprotocols=offer) as client:
        assert client.subprotocol == "control"


@pytest.mark.parametrize(("message", "code"), [("close", 4001), ("fail", 1011)])
async def test_the_close_code_tells_how_the_handler_ended(message: str, code: int) -> None:
    async with serving_site(chat=chat) as port, connect(port) as client:
        await client.send(message)
        with pytest.raises(websockets.ConnectionClosed):
            await client.recv()
        assert client.close_code == code


async def test_a_handler_that_returns_closes_normally() -> None:
    async def once(request: Request) -> None:
        websocket = await request.websocket()
        await websocket.send("only")

    async with serving_site(once=once) as port, connect(port, "/once") as client:
        assert [message async for message in client] == ["only"]
        assert client.close_code == 1000


async def test_a_message_that_is_too_long_closes_with_1009() -> None:
    async with serving_site(chat=chat) as port, connect(port) as client:
        await client.send("x" * (2 << 20))
        with pytest.raises(websockets.ConnectionClosed):
            await client.recv()
        assert client.close_code == 1009


async def test_text_that_is_not_utf_8_closes_with_1007() -> None:
    async with serving_site(chat=chat) as port, connect(port) as client:
        await client.send(b"\xff", text=True)
        with pytest.raises(websockets.ConnectionClosed):
            await client.recv()
        assert client.close_code == 1007


@pytest.mark.parametrize("way", ["close", "abort"])
async def test_a_client_that_leaves_ends_receiving(way: str) -> None:
    done: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def listening(request: Request) -> None:
        websocket = await request.websocket()
        try:
            while await websocket.receive() is not None:
                pass
            note(done, "ended")
        except asyncio.CancelledError:
            note(done, "cancelled")
            raise

    async with serving_site(listening=listening) as port:
        client = await connect(port, "/listening")
        if way == "close":
            await client.close()
            assert await ends(done) == "ended"
        else:
            client.transport.abort()
            assert await ends(done) in {"ended", "cancelled"}
            await client.wait_closed()


async def test_a_client_that_leaves_cancels_a_handler_that_only_sends() -> None:
    done: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def silent(request: Request) -> None:
        await request.websocket()
        try:
            await asyncio.sleep(60)
        finally:
            note(done, "cancelled")

    async with serving_site(silent=silent) as port:
        async with connect(port, "/silent"):
            pass
        assert await ends(done) == "cancelled"


async def test_a_silent_client_is_pinged_and_a_dead_one_cut(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(websocketing, "PING_SECONDS", 0.05)
    monkeypatch.setattr(websocketing, "DEAD_SECONDS", 0.2)
    async with serving_site(chat=chat) as port:
        async with connect(port) as living:
            await asyncio.sleep(0.5)
            await living.send("still here")
            assert await living.recv() == "still here"
        async with client_of(port) as dead:
            dead.send(
                "GET",
                "/chat",
                "Upgrade: websocket",
                "Connection: Upgrade",
                "Sec-WebSocket-Version: 13",
                "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
            )
            assert (await dead.head())[0] == 101
            with contextlib.suppress(ConnectionError):
                assert set(await dead.rest()) <= set(b"\x89\0")


async def test_frames_sent_with_the_handshake_are_not_lost() -> None:
    async with serving_site(chat=chat) as port, client_of(port) as client:
        frame = b"\x82\x82\0\0\0\0hi"
        client.send(
            "GET",
            "/chat",
            "Upgrade: websocket",
            "Connection: Upgrade",
            "Sec-WebSocket-Version: 13",
            "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
            body=frame,
        )
        assert (await client.head())[0] == 101
        assert await asyncio.wait_for(client.reader.readexactly(4), 5) == b"\x82\x02hi"


async def test_a_route_for_websockets_asks_others_to_upgrade() -> None:
    async with serving_site(chat=chat) as port, client_of(port) as client:
        client.send("GET", "/chat")
        status, headers, _ = await client.answer()
        assert (status, headers["upgrade"]) == (426, "websocket")


async def test_a_malformed_handshake_is_refused() -> None:
    async with serving_site(chat=chat) as port, client_of(port) as client:
        client.send("GET", "/chat", "Upgrade: websocket", "Connection: Upgrade")
        assert (await client.answer())[0] == 400


async def test_another_upgrade_is_answered_as_if_it_had_not_been_asked_for() -> None:
    async with serving_site(hello=hello) as port, client_of(port) as client:
        client.send("GET", "/hello", "Upgrade: h2c", "Connection: Upgrade, HTTP2-Settings")
        assert (await client.answer())[2] == b"hello"


async def test_a_websocket_that_reads_slowly_slows_the_sender_down() -> None:
    sent = 0

    async def flood(request: Request) -> None:
        nonlocal sent
        websocket = await request.websocket()
        while sent < 400:
            await websocket.send(bytes(1 << 20))
            sent += 1

    async with serving_site(flood=flood) as port, client_of(port) as client:
        client.send(
            "GET",
            "/flood",
            "Upgrade: websocket",
            "Connection: Upgrade",
            "Sec-WebSocket-Version: 13",
            "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
        )
        await asyncio.sleep(0.5)
        assert sent < 100


async def test_the_secret_is_asked_for_before_the_body_and_the_route() -> None:
    async with serving_site(hello=hello) as port, client_of(port) as client:
        client.writer.write(b"POST /nowhere HTTP/1.1\r\nContent-Length: 1000000\r\n\r\n")
        status, headers, _ = await client.answer()
        assert (status, headers["connection"]) == (403, "close")
