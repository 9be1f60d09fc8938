"""Connections through a running gate: streams, WebSockets, pressure, revocation, and failure."""

from __future__ import annotations

import hashlib
import os
import select
import signal
import socket
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect as connect_websocket
from websockets.sync.server import serve as serve_websocket

from tests.support.gate_rig import (
    KEY,
    SANDBOX,
    TOKEN,
    App,
    GateRig,
    is_closed,
    ok,
    read_all,
    read_message,
    sha256,
    status,
)
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from websockets.sync.server import ServerConnection

pytestmark = pytest.mark.security

PORT = 3000
HOST = f"{PORT}-{SANDBOX}.localhost:9878"
GIB = 1 << 30
BLOCK = os.urandom(1 << 20)


@pytest.fixture
def rig() -> Iterator[GateRig]:
    with GateRig() as rig:
        rig.assign(public=True)
        yield rig


def _head(first: str = "GET / HTTP/1.1", *lines: str, host: str = HOST) -> bytes:
    return "\r\n".join([first, f"Host: {host}", *lines, "", ""]).encode()


def _serve_raw(rig: GateRig, talk: Callable[[socket.socket], None], port: int = PORT) -> None:
    """Accept connections inside; ``talk`` has each to itself, in a thread."""
    listener = rig.inside.listen(port)

    def accept() -> None:
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=run, args=(connection,), daemon=True).start()

    def run(connection: socket.socket) -> None:
        with connection:
            try:
                talk(connection)
            except OSError:
                return

    threading.Thread(target=accept, daemon=True).start()


# -- keep-alive ------------------------------------------------------------------------------


def test_connections_are_kept_on_both_sides(rig: GateRig) -> None:
    app = rig.app(PORT)
    with rig.connect() as visitor:
        for _ in range(20):
            visitor.sendall(_head())
            assert status(read_message(visitor)) == 200
    assert len(app.requests) == 20
    assert app.connections == 1


def test_dials_find_a_socket_ready(rig: GateRig) -> None:
    rig.app(PORT, lambda _: ok().replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
    eventually(lambda: rig.dials >= 9, "the stock is filled")
    for _ in range(20):
        assert status(rig.get("/", HOST)) == 200
    eventually(lambda: rig.dials == 29, "each dial is made good")


def test_an_app_on_the_other_loopback_is_found(rig: GateRig) -> None:
    App(rig.inside.listen(PORT, "::1"), lambda _: ok(b"six"))
    assert rig.get("/", HOST).endswith(b"six")


def test_nothing_listening_is_told_with_its_port(rig: GateRig) -> None:
    answer = rig.get("/", HOST)
    assert status(answer) == 502
    assert b'"message": "nothing listens on port 3000 inside the sandbox"' in answer


def test_a_holder_that_makes_no_socket_is_told(rig: GateRig) -> None:
    rig.fail_dials = True
    eventually(lambda: rig.dials >= 9, "the stock is filled")
    statuses = {status(rig.preview(4000 + number)) for number in range(20)}
    assert statuses == {502}


def test_a_kept_connection_that_the_app_closed_costs_no_request(rig: GateRig) -> None:
    closing = threading.Event()

    def talk(connection: socket.socket) -> None:
        while read_message(connection):
            if closing.is_set():
                closing.clear()
                return  # without an answer, as when an idle time-out strikes just now
            connection.sendall(ok())

    _serve_raw(rig, talk)
    with rig.connect() as visitor:
        visitor.sendall(_head())
        assert status(read_message(visitor)) == 200
        closing.set()
        visitor.sendall(_head())
        assert status(read_message(visitor)) == 200
        assert not closing.is_set()


def test_a_request_with_a_body_is_not_sent_twice(rig: GateRig) -> None:
    seen: list[bytes] = []

    def talk(connection: socket.socket) -> None:
        seen.append(read_message(connection))
        connection.sendall(ok())
        seen.append(read_message(connection))

    _serve_raw(rig, talk)
    with rig.connect() as visitor:
        visitor.sendall(_head())
        assert status(read_message(visitor)) == 200
        visitor.sendall(_head("POST / HTTP/1.1", "Content-Length: 2") + b"hi")
        assert status(read_message(visitor)) == 502
    assert len(seen) == 2


def test_an_app_that_closes_without_an_answer_is_told(rig: GateRig) -> None:
    _serve_raw(rig, socket.socket.close)
    answer = rig.get("/", HOST)
    assert status(answer) == 502
    assert b"closed the connection without an answer" in answer


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: b\r\n folded\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: " + b"x" * 70_000,
    ],
)
def test_an_answer_that_is_not_plain_http_is_told(rig: GateRig, answer: bytes) -> None:
    rig.app(PORT, answer)
    with rig.connect() as visitor:
        visitor.sendall(_head())
        assert status(read_message(visitor)) == 502


def test_what_an_app_says_beyond_its_answer_reaches_nobody(rig: GateRig) -> None:
    app = rig.app(PORT, ok() + b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nforged")
    with rig.connect() as visitor:
        for _ in range(3):
            visitor.sendall(_head())
            assert read_message(visitor).endswith(b"hello")
    assert app.connections == 3


def test_an_app_that_speaks_unasked_is_not_listened_to(rig: GateRig) -> None:
    def talk(connection: socket.socket) -> None:
        read_message(connection)
        connection.sendall(ok())
        time.sleep(0.1)
        connection.sendall(ok(b"forged"))
        read_all(connection)

    _serve_raw(rig, talk)
    with rig.connect() as visitor:
        visitor.sendall(_head())
        assert read_message(visitor).endswith(b"hello")
        time.sleep(0.3)
        visitor.sendall(_head())
        assert read_message(visitor).endswith(b"hello")


@pytest.mark.parametrize(
    ("answer", "kept"),
    [
        (b"HTTP/1.1 204 No Content\r\n\r\n", True),
        (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 900\r\n\r\n", True),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nA: b\r\n\r\n",
            True,
        ),
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhi", False),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhi", False),
    ],
)
def test_answers_pass_byte_for_byte(rig: GateRig, answer: bytes, kept: bool) -> None:
    rig.app(2280, answer)
    line = f"Authorization: Bearer {KEY}"
    with rig.connect() as visitor:
        visitor.sendall(_head(f"GET /toolbox/{SANDBOX}/x HTTP/1.1", line, host="localhost"))
        received = b""
        while len(received) < len(answer):
            received += visitor.recv(len(answer) - len(received))
        assert received == answer
        assert is_closed(visitor, 0.2) is not kept


def test_an_answer_to_head_has_no_body(rig: GateRig) -> None:
    app = rig.app(PORT, b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n")
    with rig.connect() as visitor:
        for _ in range(3):
            visitor.sendall(_head("HEAD / HTTP/1.1"))
            assert status(read_message(visitor, without_body=True)) == 200
    assert app.connections == 1


def test_an_answer_without_length_ends_with_its_connection(rig: GateRig) -> None:
    def talk(connection: socket.socket) -> None:
        read_message(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        for _ in range(5):
            connection.sendall(b"some ")
            time.sleep(0.02)

    _serve_raw(rig, talk)
    with rig.connect() as visitor:
        visitor.sendall(_head())
        assert read_all(visitor).endswith(b"some " * 5)


def test_an_answer_that_breaks_off_is_not_taken_for_whole(rig: GateRig) -> None:
    def talk(connection: socket.socket) -> None:
        read_message(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")

    _serve_raw(rig, talk)
    with rig.connect() as visitor:
        visitor.sendall(_head())
        answer = read_all(visitor)
    assert not answer.endswith(b"0\r\n\r\n")


# -- streams ---------------------------------------------------------------------------------


def test_a_stream_arrives_piece_by_piece(rig: GateRig) -> None:
    step = threading.Semaphore(0)

    def talk(connection: socket.socket) -> None:
        read_message(connection)
        connection.sendall(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n"
        )
        for number in range(5):
            step.acquire()
            connection.sendall(b"9\r\ndata: %d\n\n\r\n" % number)
        connection.sendall(b"0\r\n\r\n")

    _serve_raw(rig, talk)
    with rig.connect() as visitor:
        visitor.sendall(_head("GET / HTTP/1.1", "Connection: close"))
        received = visitor.recv(65536)
        for number in range(5):
            step.release()  # the app goes on only now, so nothing may have been held back
            received = visitor.recv(65536)
            assert received.startswith(b"9\r\ndata: %d\n\n\r\n" % number)
        assert (received + read_all(visitor)).endswith(b"0\r\n\r\n")


def test_an_upload_arrives_piece_by_piece(rig: GateRig) -> None:
    arrived: list[bytes] = []

    def talk(connection: socket.socket) -> None:
        while chunk := connection.recv(65536):
            arrived.append(chunk)
            if chunk.endswith(b"0\r\n\r\n"):
                connection.sendall(ok())

    _serve_raw(rig, talk)
    with rig.connect() as visitor:
        visitor.sendall(_head("POST / HTTP/1.1", "Transfer-Encoding: chunked"))
        eventually(lambda: arrived, "the head arrives")
        for number in range(5):
            count = len(arrived)
            visitor.sendall(b"1\r\n%d\r\n" % number)
            _grown(arrived, count)
        visitor.sendall(b"0\r\n\r\n")
        assert status(read_message(visitor)) == 200


def _grown(arrived: list[bytes], count: int) -> None:
    eventually(lambda: len(arrived) > count, "the piece arrives")


def test_a_client_that_waits_for_100_continue_is_served(rig: GateRig) -> None:
    def talk(connection: socket.socket) -> None:
        assert b"Expect: 100-continue" in connection.recv(65536)
        connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        assert connection.recv(65536) == b"hello"
        connection.sendall(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + ok())

    _serve_raw(rig, talk)
    with rig.connect() as visitor:
        head = _head("POST / HTTP/1.1", "Content-Length: 5", "Expect: 100-continue")
        visitor.sendall(head)
        assert visitor.recv(65536) == b"HTTP/1.1 100 Continue\r\n\r\n"
        visitor.sendall(b"hello")
        received = b""
        while not received.endswith(b"hello"):
            received += visitor.recv(65536)
        assert received.startswith(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK")


def test_a_visitor_who_leaves_ends_the_work_inside(rig: GateRig) -> None:
    gone = threading.Event()

    def talk(connection: socket.socket) -> None:
        read_message(connection)
        read_all(connection)
        gone.set()

    _serve_raw(rig, talk)
    with rig.connect() as visitor:
        visitor.sendall(_head())
        time.sleep(0.1)
    assert gone.wait(2)


def test_a_refused_upload_still_learns_why(rig: GateRig) -> None:
    rig.assign(public=False)
    with rig.connect() as visitor:
        visitor.sendall(_head("POST / HTTP/1.1", f"Content-Length: {20 * len(BLOCK)}"))
        for _ in range(20):
            visitor.sendall(BLOCK)
        assert status(read_message(visitor)) == 401


def test_an_early_answer_to_an_upload_arrives(rig: GateRig) -> None:
    def talk(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\n\r\nbig")
        time.sleep(0.2)

    _serve_raw(rig, talk)
    with rig.connect() as visitor:
        visitor.sendall(_head("POST / HTTP/1.1", f"Content-Length: {20 * len(BLOCK)}"))
        answer = read_message(visitor)
        assert answer.endswith(b"big")
        for _ in range(20):
            visitor.sendall(BLOCK)
        visitor.shutdown(socket.SHUT_WR)
        assert read_all(visitor) == b""


def test_a_gibibyte_down_and_up_takes_no_memory(rig: GateRig) -> None:
    digests: list[str] = []

    def talk(connection: socket.socket) -> None:
        head = connection.recv(65536)
        if head.startswith(b"GET"):
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % GIB)
            for _ in range(GIB // len(BLOCK)):
                connection.sendall(BLOCK)
        else:
            body = head.partition(b"\r\n\r\n")[2]
            digests.append(_digest(connection, GIB, body))
            connection.sendall(ok())

    _serve_raw(rig, talk)
    expected = hashlib.sha256(BLOCK * 16).hexdigest()
    before = rig.memory_kib()
    with rig.connect(30) as visitor:
        visitor.sendall(_head())
        head = visitor.recv(65536)
        assert _digest(visitor, GIB, head.partition(b"\r\n\r\n")[2]) == expected
    with rig.connect(30) as visitor:
        visitor.sendall(_head("POST / HTTP/1.1", f"Content-Length: {GIB}"))
        for _ in range(GIB // len(BLOCK)):
            visitor.sendall(BLOCK)
        assert status(read_message(visitor)) == 200
    assert digests == [expected]
    assert rig.memory_kib() - before < 4096


def _digest(connection: socket.socket, size: int, begin: bytes) -> str:
    """Read ``size`` bytes; return the digest of every 64th MiB of them."""
    digest, got, buffer = hashlib.sha256(), len(begin), bytearray(begin)
    while True:
        while len(buffer) >= len(BLOCK):
            number = (got - len(buffer)) // len(BLOCK)
            if number % 64 == 0:
                digest.update(buffer[: len(BLOCK)])
            del buffer[: len(BLOCK)]
        if got == size:
            return digest.hexdigest()
        chunk = connection.recv(1 << 20)
        assert chunk, f"closed after {got} bytes"
        got += len(chunk)
        buffer += chunk


@pytest.mark.parametrize("direction", ["download", "upload"])
def test_a_slow_reader_holds_the_other_side_back(rig: GateRig, direction: str) -> None:
    sent = 0

    def pour(connection: socket.socket) -> None:
        nonlocal sent
        connection.settimeout(0.5)
        try:
            while sent < GIB:
                sent += connection.send(BLOCK)
        except OSError:
            return

    def talk(connection: socket.socket) -> None:
        connection.recv(65536)
        if direction == "download":
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % GIB)
            pour(connection)
        time.sleep(5)

    _serve_raw(rig, talk)
    before = rig.memory_kib()
    with rig.connect() as visitor:
        visitor.sendall(_head("POST / HTTP/1.1", f"Content-Length: {GIB}"))
        if direction == "upload":
            pour(visitor)
        else:
            time.sleep(1)
        assert 0 < sent < 64 << 20
        assert rig.memory_kib() - before < 4096


def test_slow_readers_of_many_refusals_cost_no_memory(rig: GateRig) -> None:
    rig.assign(public=False)
    before = rig.memory_kib()
    with rig.connect(2) as visitor, pytest.raises(TimeoutError):
        visitor.sendall(_head() * 1_000_000)
    assert rig.memory_kib() - before < 4096


# -- upgrades --------------------------------------------------------------------------------


@pytest.fixture
def echo(rig: GateRig) -> Iterator[list[str]]:
    """A WebSocket server inside that echoes; the paths that it was asked for."""
    paths: list[str] = []

    def handle(connection: ServerConnection) -> None:
        assert connection.request is not None
        paths.append(connection.request.path)
        for message in connection:
            connection.send(message)

    server = serve_websocket(handle, sock=rig.inside.listen(PORT), compression=None, max_size=None)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield paths
    server.shutdown()


def test_a_websocket_echoes(rig: GateRig, echo: list[str]) -> None:
    uri = f"ws://{HOST.partition(':')[0]}:{rig.port}/chat?room=1"
    with connect_websocket(uri, sock=rig.connect(), max_size=None) as websocket:
        for message in ("hello", b"\0\xff" * 5, "x" * 3_000_000):
            websocket.send(message)
            assert websocket.recv() == message
        assert websocket.ping().wait(2)
    assert echo == ["/chat?room=1"]


def test_a_websocket_needs_the_credential_that_a_request_needs(
    rig: GateRig, echo: list[str]
) -> None:
    rig.assign(public=False)
    uri = f"ws://{HOST.partition(':')[0]}:{rig.port}/"
    with pytest.raises(Exception, match="401"):
        connect_websocket(uri, sock=rig.connect())
    uri += f"?DAYTONA_SANDBOX_AUTH_KEY={TOKEN}"
    with connect_websocket(uri, sock=rig.connect()) as websocket:
        websocket.send("in")
        assert websocket.recv() == "in"
    assert echo == ["/"]


def test_any_upgrade_becomes_a_plain_pipe_and_half_closes(rig: GateRig) -> None:
    def talk(connection: socket.socket) -> None:
        read_message(connection)
        connection.sendall(
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: raw\r\n\r\nfirst"
        )
        received = read_all(connection)  # until the visitor's half is closed
        connection.sendall(received[::-1])

    _serve_raw(rig, talk)
    with rig.connect() as visitor:
        visitor.sendall(_head("GET / HTTP/1.1", "Connection: upgrade", "Upgrade: raw") + b"GET ")
        received = b""
        while not received.endswith(b"first"):
            received += visitor.recv(65536)
        visitor.sendall(b"/ HTTP/1.1\r\n\r\n")
        visitor.shutdown(socket.SHUT_WR)
        assert read_all(visitor) == b"GET / HTTP/1.1\r\n\r\n"[::-1]


def test_an_upgrade_that_the_app_declines_leaves_http(rig: GateRig) -> None:
    app = rig.app(PORT)
    upgrade = ("Connection: Upgrade", "Upgrade: websocket")
    with rig.connect() as visitor:
        visitor.sendall(_head("GET /one HTTP/1.1", *upgrade) + _head("GET /two HTTP/1.1"))
        received = b""
        while received.count(b"hello") < 2:
            received += visitor.recv(65536)
    assert [request[:8] for request in app.requests] == [b"GET /one", b"GET /two"]


# -- revocation ------------------------------------------------------------------------------

SECOND = "another-key"


def _open_stream(rig: GateRig, *lines: str, path: str = "/", host: str = HOST) -> socket.socket:
    visitor = rig.connect()
    visitor.sendall(_head(f"GET {path} HTTP/1.1", *lines, host=host))
    assert visitor.recv(65536).startswith(b"HTTP/1.1 200 OK")
    return visitor


@pytest.fixture
def streams(rig: GateRig) -> None:
    """An app and an agent that answer without end."""

    def talk(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            connection.sendall(b"tick")
            time.sleep(0.05)

    _serve_raw(rig, talk)
    _serve_raw(rig, talk, 2280)


@pytest.mark.usefixtures("streams")
def test_revoking_a_key_closes_what_it_opened_and_nothing_else(rig: GateRig) -> None:
    rig.assign(keys=[{"hash": sha256(key), "expires_at": None} for key in (KEY, SECOND)])
    path = f"/toolbox/{SANDBOX}/log"
    ours = _open_stream(rig, f"Authorization: Bearer {KEY}", path=path, host="localhost")
    theirs = _open_stream(rig, f"Authorization: Bearer {SECOND}", path=path, host="localhost")
    anyone = _open_stream(rig)
    rig.assign(keys=[{"hash": sha256(SECOND), "expires_at": None}])
    assert is_closed(ours, 1)
    assert not is_closed(theirs, 0.3)
    assert not is_closed(anyone, 0.3)
    for visitor in (ours, theirs, anyone):
        visitor.close()


@pytest.mark.usefixtures("streams")
def test_what_a_key_opened_ends_when_the_key_expires(rig: GateRig) -> None:
    rig.assign(keys=[{"hash": sha256(KEY), "expires_at": time.time() + 1}])
    path = f"/toolbox/{SANDBOX}/log"
    line = f"Authorization: Bearer {KEY}"
    with _open_stream(rig, line, path=path, host="localhost") as visitor:
        assert not is_closed(visitor, 0.5)
        assert is_closed(visitor, 1.5)
    assert status(rig.get(path, "localhost", line)) == 401


@pytest.mark.usefixtures("streams")
def test_where_nobody_can_tell_who_may_enter_nobody_stays(rig: GateRig) -> None:
    rig.assign(public=True)
    for fields in ((f"X-Daytona-Preview-Token: {TOKEN}",), ()):
        with _open_stream(rig, *fields) as visitor:
            assert not is_closed(visitor, 0.3)
            rig.assign("lapsed")
            assert is_closed(visitor, 1)
        rig.assign()
    rig.assign("lapsed")
    path, line = f"/toolbox/{SANDBOX}/log", f"Authorization: Bearer {KEY}"
    assert status(rig.get(path, "localhost", line)) == 503
    rig.assign()
    with _open_stream(rig, line, path=path, host="localhost") as visitor:
        assert not is_closed(visitor, 0.3)


@pytest.mark.usefixtures("streams")
def test_going_private_closes_what_was_public(rig: GateRig) -> None:
    by_token = _open_stream(rig, f"X-Daytona-Preview-Token: {TOKEN}")
    anyone = _open_stream(rig)
    rig.assign(public=False)
    assert is_closed(anyone, 1)
    assert not is_closed(by_token, 0.3)
    rig.assign(preview_token="new")
    assert is_closed(by_token, 1)
    anyone.close()
    by_token.close()


def test_a_websocket_is_closed_with_what_let_it_in(rig: GateRig, echo: list[str]) -> None:
    uri = f"ws://{HOST.partition(':')[0]}:{rig.port}/"
    with connect_websocket(uri, sock=rig.connect()) as websocket:
        websocket.send("in")
        assert websocket.recv() == "in"
        rig.assign(public=False)
        with pytest.raises(ConnectionClosed):
            websocket.recv(timeout=1)
    assert echo == ["/"]


def test_an_idle_connection_is_no_way_back_in(rig: GateRig) -> None:
    app = rig.app(PORT)
    with rig.connect() as visitor:
        visitor.sendall(_head())
        assert status(read_message(visitor)) == 200
        rig.assign(public=False)
        assert is_closed(visitor, 1)
    assert len(app.requests) == 1


def test_a_new_assignment_leaves_the_unaffected_alone(rig: GateRig) -> None:
    rig.app(PORT)
    with rig.connect() as visitor:
        for number in range(5):
            visitor.sendall(_head())
            assert status(read_message(visitor)) == 200
            rig.assign(preview_token=f"token-{number}")


# -- starting --------------------------------------------------------------------------------


def test_a_page_that_is_opened_right_after_the_start_waits_for_its_program(rig: GateRig) -> None:
    page = ("Sec-Fetch-Site: none", "Sec-Fetch-Mode: navigate")
    with rig.connect() as visitor:
        visitor.sendall(_head("GET / HTTP/1.1", *page))
        assert not select.select([visitor], [], [], 0.5)[0]
        assert status(rig.get("/", HOST)) == 502  # a program hears at once that nobody listens
        rig.app(PORT)
        assert status(read_message(visitor)) == 200


def test_a_page_waits_for_a_program_only_so_long() -> None:
    settings = "gate_service.FRESH_SECONDS = 0.5"
    with GateRig(settings) as rig:
        rig.assign(public=True)
        answer = rig.get("/", HOST, "Sec-Fetch-Site: none", "Sec-Fetch-Mode: navigate")
        assert status(answer) == 502
        assert b"\r\nAccess-Control-Allow-Origin: *\r\n" in answer


# -- stopping --------------------------------------------------------------------------------


@pytest.mark.usefixtures("streams")
def test_closed_admission_refuses_the_new_and_leaves_the_old(rig: GateRig) -> None:
    idle = rig.connect()
    with _open_stream(rig) as old:
        rig.close_admission()
        answer = eventually(lambda: _refused(rig), "admission is closed")
        assert b"\r\nRetry-After: 1\r\n" in answer
        idle.sendall(_head())
        assert status(read_message(idle)) == 503
        assert not is_closed(old, 0.3)
        assert b'"phase": "stopping"' in rig.get("/_yurt/health")
    idle.close()


def _refused(rig: GateRig) -> bytes:
    with rig.connect() as visitor:
        visitor.sendall(_head())
        answer = visitor.recv(65536)
        return answer if status(answer) == 503 else b""


def test_the_gate_ends_with_its_holder(rig: GateRig) -> None:
    assert status(rig.get("/", HOST)) == 502
    rig._channel.shutdown(socket.SHUT_RDWR)
    assert rig.process.wait(2) == 0


# -- activity --------------------------------------------------------------------------------


def test_activity_is_told_at_once_and_then_once_a_second(rig: GateRig) -> None:
    rig.app(PORT)
    time.sleep(1.2)  # whatever was to be told at the start
    rig.reports.clear()
    began = time.monotonic()
    assert status(rig.get("/", HOST)) == 200
    eventually(lambda: rig.reports, "it is told", seconds=0.5, pause_seconds=0.01)
    assert rig.reports[0]["held"] == 1
    while time.monotonic() < began + 2:
        assert status(rig.get("/", HOST)) == 200
    eventually(lambda: len(rig.reports) >= 3, "it is told again")
    assert len(rig.reports) <= 4
    eventually(lambda: not rig.reports[-1]["held"], "the last is over", seconds=3)
    assert rig.reports[-1]["last"] >= began


def test_a_request_counts_until_it_is_answered(rig: GateRig) -> None:
    _serve_raw(rig, _read_on)
    visitors = [rig.connect() for _ in range(3)]
    for visitor in visitors:
        visitor.sendall(_head())
    eventually(lambda: _open(rig) == 3, "they are counted", seconds=3)
    for visitor in visitors:
        visitor.close()
    eventually(lambda: _open(rig) == 0, "none is left", seconds=3)


def _open(rig: GateRig) -> int:
    return rig.reports[-1]["held"] if rig.reports else -1


@pytest.mark.parametrize(
    ("path", "held"),
    [
        ("/process/execute", 1),
        ("/process/pty/t/connect", 1),
        ("/process/session/s/command/c/logs?follow=true", 0),
    ],
)
def test_work_of_the_toolbox_counts_until_it_ends_and_who_only_watches_does_not(
    rig: GateRig, path: str, held: int
) -> None:
    begun = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n"

    def stream(connection: socket.socket) -> None:
        read_message(connection)
        connection.sendall(begun)
        read_all(connection)

    _serve_raw(rig, stream, port=2280)
    with rig.connect() as visitor:
        lines = f"GET /toolbox/{SANDBOX}{path} HTTP/1.1", f"Authorization: Bearer {KEY}"
        visitor.sendall(_head(*lines, host="localhost"))
        assert visitor.recv(65536).startswith(b"HTTP/1.1 200")
        if held:
            assert rig.quiesce(0.001) == {"number": 1, "idle_seconds": 0.0, "closed": False}
        else:
            eventually(lambda: rig.quiesce(0.001)["closed"], "nobody uses it")
    eventually(lambda: _open(rig) == 0, "none is left", seconds=3)


def test_a_request_that_reaches_nobody_is_no_activity(rig: GateRig) -> None:
    before = rig.quiesce(3600)["idle_seconds"]
    assert status(rig.get("/", HOST)) == 502
    assert rig.quiesce(3600)["idle_seconds"] > before > 0


# -- quiescing -------------------------------------------------------------------------------


def test_a_gate_that_was_used_lately_does_not_quiesce(rig: GateRig) -> None:
    rig.app(PORT)
    assert status(rig.get("/", HOST)) == 200
    said = rig.quiesce(60)
    assert not said["closed"]
    assert 0 <= said["idle_seconds"] < 60
    assert status(rig.get("/", HOST)) == 200


def test_a_quiet_gate_lets_nobody_in_until_it_is_opened_or_its_time_is_over(rig: GateRig) -> None:
    app = rig.app(PORT)
    assert rig.quiesce(0.0)["closed"]
    with rig.connect() as visitor:
        visitor.sendall(_head())
        assert not select.select([visitor], [], [], 0.3)[0]
        assert app.requests == []
        rig.reopen()
        assert status(read_message(visitor)) == 200
    assert rig.quiesce(0.0, seconds=0.2)["closed"]
    assert status(rig.get("/", HOST)) == 200  # it opened by itself


def test_who_waits_at_a_quiet_gate_hears_that_it_stops(rig: GateRig) -> None:
    app = rig.app(PORT)
    assert rig.quiesce(0.0)["closed"]
    with rig.connect() as visitor:
        visitor.sendall(_head())
        assert not select.select([visitor], [], [], 0.3)[0]
        rig.close_admission()
        answer = read_message(visitor)
    assert status(answer) == 503
    assert b"\r\nRetry-After: 1\r\n" in answer
    assert app.requests == []


def test_a_touch_by_control_is_activity(rig: GateRig) -> None:
    eventually(lambda: rig.quiesce(3600)["idle_seconds"] > 0.2, "it is idle")
    rig.touch()
    assert rig.quiesce(3600)["idle_seconds"] < 0.2


def test_what_is_said_on_an_open_websocket_waits_while_the_gate_is_quiet(
    rig: GateRig, echo: list[str]
) -> None:
    uri = f"ws://{HOST.partition(':')[0]}:{rig.port}/"
    with connect_websocket(uri, sock=rig.connect(), ping_interval=None) as websocket:
        websocket.send("first")
        assert websocket.recv() == "first"
        assert rig.quiesce(0.0)["closed"]
        websocket.send("second")
        with pytest.raises(TimeoutError):
            websocket.recv(timeout=0.5)
        rig.reopen()
        assert websocket.recv(timeout=5) == "second"
    assert echo


def _read_on(connection: socket.socket) -> None:
    read_all(connection)


@pytest.mark.parametrize(
    "request_lines",
    [
        pytest.param((_head("GET / HTTP/1.1", "X-Daytona-Skip-Last-Activity-Update: true"), 200)),
        pytest.param((_head(host="localhost"), 421)),
        pytest.param((_head("GET /_yurt/health HTTP/1.1", host="localhost"), 200)),
        pytest.param((_head(host=f"2280-{SANDBOX}.localhost"), 401)),
    ],
    ids=["skip-header", "misdirected", "health", "refused"],
)
def test_what_is_no_use_of_the_sandbox_is_no_activity(
    rig: GateRig, request_lines: tuple[bytes, int]
) -> None:
    rig.app(PORT)
    raw, expected = request_lines
    with rig.connect() as visitor:
        visitor.sendall(raw)
        assert status(read_message(visitor)) == expected
    time.sleep(1.3)
    assert rig.reports == []


def test_pings_of_a_websocket_are_no_activity(rig: GateRig, echo: list[str]) -> None:
    uri = f"ws://{HOST.partition(':')[0]}:{rig.port}/"
    with connect_websocket(uri, sock=rig.connect(), ping_interval=None) as websocket:
        websocket.send("a")
        websocket.recv()
        time.sleep(1.3)
        told = len(rig.reports)
        for _ in range(10):
            assert websocket.ping().wait(2)
        time.sleep(1.3)
        assert len(rig.reports) == told
        websocket.send("a")
        websocket.recv()
        eventually(lambda: len(rig.reports) > told, "a message is activity")
    assert echo


# -- limits ----------------------------------------------------------------------------------


def test_the_4097th_visitor_is_told_to_come_back(rig: GateRig) -> None:
    rig.app(PORT)
    visitors = []
    try:
        for _ in range(4096):
            visitors.append(rig.connect())
        with rig.connect() as visitor:
            visitor.sendall(_head())
            answer = read_message(visitor)
        assert status(answer) == 503
        assert b"\r\nRetry-After: 1\r\n" in answer
        visitors[-1].sendall(_head())
        assert status(read_message(visitors[-1])) == 200
    finally:
        for visitor in visitors:
            visitor.close()
    eventually(lambda: status(rig.get("/", HOST)) == 200, "there is room again")


def test_a_head_that_is_half_said_ends_in_time() -> None:
    settings = "gate_visitor.HEAD_SECONDS = 1.5; gate_service.TICK_SECONDS = 0.2"
    with GateRig(settings) as rig, rig.connect() as visitor:
        began = time.monotonic()
        visitor.sendall(b"GET / HTTP/1.1\r\n")
        while not (answer := _drip(visitor)):
            assert time.monotonic() - began < 5
        assert status(answer) == 408
        assert time.monotonic() - began > 1.4


def _drip(visitor: socket.socket) -> bytes:
    """Send another field, as a slow attacker would, and return what the gate has said."""
    visitor.sendall(b"A: b\r\n")
    visitor.settimeout(0.3)
    try:
        return visitor.recv(65536)
    except TimeoutError:
        return b""


def test_silent_connections_are_closed_in_time() -> None:
    settings = "gate_visitor.IDLE_SECONDS = 1; gate_service.TICK_SECONDS = 0.2"
    with GateRig(settings) as rig:
        rig.assign(public=True)
        rig.app(PORT, _answer_late)
        with rig.connect() as silent, rig.connect() as used, rig.connect() as waiting:
            used.sendall(_head())
            assert status(read_message(used)) == 200
            waiting.sendall(_head("GET /late HTTP/1.1"))
            assert is_closed(silent, 2)
            assert is_closed(used, 2)
            assert status(read_message(waiting)) == 200


def _answer_late(request: bytes) -> bytes:
    if b"/late" in request:
        time.sleep(3)
    return ok()


def test_an_idle_gate_does_not_wake() -> None:
    settings = "gate_upstream.PORT_IDLE_SECONDS = 0.3; gate_service.TICK_SECONDS = 0.2"
    with GateRig(settings) as rig:
        rig.assign(public=True)
        rig.app(PORT)
        assert status(rig.get("/", HOST)) == 200
        time.sleep(2)  # the activity is told, the kept connection to the app expires
        before = _switches(rig)
        time.sleep(1.5)
        assert _switches(rig) - before <= 1


def _switches(rig: GateRig) -> int:
    lines = Path(f"/proc/{rig.process.pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("voluntary")).split()[1])


def test_a_gate_that_was_stopped_for_a_while_goes_on(rig: GateRig) -> None:
    rig.app(PORT)
    os.kill(rig.process.pid, signal.SIGSTOP)
    visitors = [rig.connect() for _ in range(50)]
    for visitor in visitors:
        visitor.sendall(_head())
    time.sleep(0.5)
    os.kill(rig.process.pid, signal.SIGCONT)
    for visitor in visitors:
        assert status(read_message(visitor)) == 200
        visitor.close()
