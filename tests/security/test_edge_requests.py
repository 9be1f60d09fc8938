"""The raw requests of the corpus through a real Traefik, to an app in a sandbox and to control.

Traefik reads requests in one way and writes them anew, so some that a gate refuses are clear when
they come to it. What counts: nobody behind takes one request for two, none is answered to somebody
else, and an app sees what was sent, without anything that only we may say.
"""

from __future__ import annotations

import base64
import contextlib
import json
import re
import socket
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import quote, unquote, urlsplit

import httptools
import httpx
import pytest

from tests.support import corpus
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.api import Api, Sandbox
    from tests.support.remote import Server

pytestmark = pytest.mark.security

PROGRAM = Path(__file__).parent / "inside" / "echo.py"
PORT = 3000
END = "/end"
TLS_RECORD = b"\x16\x03"
RAW = {
    **corpus.ambiguous("host", "elsewhere"),
    **dict.fromkeys((f"body: {name}" for name in corpus.BAD_CHUNKS), b""),
}
_UNRESERVED = re.compile(r"%(2[dDeE]|3[0-9]|[46][1-9a-fA-F]|[57][0-9aA]|5[fF]|7[eE])")


class Answer(NamedTuple):
    """One answer; ``whole`` unless the connection ended in it."""

    status: int
    body: bytes


class Answers:
    """Reads the answers on one connection."""

    def __init__(self) -> None:
        self.found: list[Answer] = []
        self._body: bytes | None = None
        self._parser = httptools.HttpResponseParser(self)

    def on_message_begin(self) -> None:
        self._body = b""

    def on_body(self, body: bytes) -> None:
        self._body = (self._body or b"") + body

    def on_message_complete(self) -> None:
        self.found.append(Answer(self._parser.get_status_code(), self._body or b""))
        self._body = None

    def read(self, connection: socket.socket) -> list[Answer]:
        """Read until the other side closes; what is not HTTP/1 is no answer."""
        data = b""
        with contextlib.suppress(ConnectionResetError):
            while more := connection.recv(65536):
                data += more
        if data.startswith(b"HTTP/1."):
            self._parser.feed_data(data)
        if self._body is not None:
            self.on_message_complete()  # one that ends with its connection
        return self.found


class Edge:
    """A live server, and one host of it: of an app in a sandbox, or control's own."""

    def __init__(self, url: str, base: str) -> None:
        self.host = urlsplit(url).netloc
        self._address = urlsplit(base)
        self._victim = httpx.Client(base_url=url, trust_env=False, timeout=30)
        self._victims = 0

    def close(self) -> None:
        self._victim.close()

    def send(self, raw: bytes) -> list[Answer]:
        """Send bytes, and behind them a request that ends the connection; return the answers."""
        last = corpus.request("Connection: close", first=f"GET {END} HTTP/1.1", host=self.host)
        address = (self._address.hostname, self._address.port)
        with socket.create_connection(address, timeout=30) as connection:
            connection.sendall(raw + last)
            if raw.startswith(TLS_RECORD):
                connection.shutdown(socket.SHUT_WR)  # else more of the handshake is waited for
            return Answers().read(connection)

    def written(self, name: str) -> bytes:
        """The bytes of a request of the corpus, to this host."""
        if name.startswith("body: "):
            head = corpus.request("Transfer-Encoding: chunked", host=self.host)
            body = corpus.BAD_CHUNKS[name.removeprefix("body: ")]
            return head + body + corpus.marker(self.host)
        return corpus.ambiguous(self.host, f"3000-{'a' * 26}.localhost")[name]

    def victim(self) -> httpx.Response:
        """Ask for something on a connection of somebody else that is kept."""
        self._victims += 1
        return self._victim.get(f"/victim-{self._victims}")

    def path_of_victim(self) -> str:
        return f"/victim-{self._victims}"


class Echoed(NamedTuple):
    """A request as the app saw it."""

    number: int
    request: bytes

    @property
    def target(self) -> str:
        return self.request.split(b" ", 2)[1].decode("latin-1")


def echoed(body: bytes) -> Echoed:
    said = json.loads(body)
    return Echoed(said["number"], base64.b64decode(said["request"]))


@pytest.fixture(scope="module")
def echo(api: Api) -> Iterator[Sandbox]:
    """A public sandbox whose app answers with what it was asked."""
    with api.sandbox(public=True) as sandbox:
        sandbox.upload(PROGRAM.read_bytes(), "/tmp/echo.py")
        sandbox.background(f"python3 /tmp/echo.py {PORT}")
        yield sandbox


@pytest.fixture(scope="module")
def app(api: Api, echo: Sandbox) -> Iterator[Edge]:
    edge = Edge(echo.preview(PORT)[0], api.base_url)
    eventually(lambda: edge.victim().status_code == 200, "the app", seconds=30)
    yield edge
    edge.close()


@pytest.fixture(scope="module")
def control(api: Api) -> Iterator[Edge]:
    edge = Edge(api.base_url, api.base_url)
    yield edge
    edge.close()


def in_order(targets: list[str], first: str) -> bool:
    """Tell whether targets are those of the requests that were sent, each at most once."""
    sent = iter((first, "/marker", END))
    return all(any(target == one for one in sent) for target in targets)


def first_target(raw: bytes) -> str:
    """The path that the first of some requests asks for."""
    line = raw.lstrip(b"\r\n").split(b"\r")[0].split(b"\n")[0].decode("latin-1")
    found = re.search(r"\s+(\S+)", line)
    target = found[1] if found else ""
    path = re.sub(r"^[a-z]+://[^/]*", "", target)
    return path.replace("#", "%23")


@pytest.mark.parametrize("name", RAW)
def test_an_app_sees_one_request_for_each_answer_and_nothing_hidden(app: Edge, name: str) -> None:
    begin = echoed(app.victim().content).number
    raw = app.written(name)
    answers = app.send(raw)
    seen = [echoed(answer.body) for answer in answers if answer.status == 200]
    print([answer.status for answer in answers], [one.request for one in seen])
    assert all(answer.status == 200 or answer.status >= 400 for answer in answers)
    assert in_order([one.target for one in seen], first_target(raw))
    for one in seen:
        head = one.request.partition(b"\r\n\r\n")[0].lower()
        fields = [line.partition(b": ") for line in head.split(b"\r\n")[1:]]
        names = [field[0] for field in fields]
        assert [field[2] for field in fields if field[0] == b"host"] == [app.host.encode()]
        assert names.count(b"content-length") + names.count(b"transfer-encoding") <= 1
        assert b"x-yurt" not in head
    # Whoever comes next is answered, and the app was asked nothing that nobody got an answer to.
    victim = echoed(app.victim().content)
    assert victim.target == app.path_of_victim()
    assert victim.number - begin == len(seen) + 1


@pytest.mark.parametrize("name", RAW)
def test_control_answers_each_request_to_who_sent_it(control: Edge, name: str) -> None:
    raw = control.written(name)
    answers = control.send(raw)
    print([(answer.status, answer.body[:200]) for answer in answers])
    assert all(answer.status >= 400 for answer in answers)
    envelopes = [json.loads(a.body) for a in answers if a.body.startswith(b"{")]
    paths = [quote(one["path"], safe="/") for one in envelopes]  # it tells them decoded
    assert in_order(paths, quote(unquote(first_target(raw)), safe="/"))
    for _ in range(3):
        assert control.victim().json()["path"] == control.path_of_victim()


def normal(target: str) -> str:
    """Write a target in the one way in which Traefik does (RFC 3986, 6.2.2).

    In the path what needs no escape has none, what needs one has it, in capitals.
    """
    path, mark, query = target.partition("?")
    escaped = quote(path, safe="/%:@!$&'()*+,;=~")
    capitals = re.sub(r"%[0-9a-f]{2}", lambda match: match[0].upper(), escaped, flags=re.I)
    return _UNRESERVED.sub(lambda match: chr(int(match[1], 16)), capitals) + mark + query


@pytest.mark.parametrize("path", corpus.PATHS)
def test_a_path_is_refused_or_reaches_the_app_as_it_was_sent(app: Edge, path: str) -> None:
    answers = app.send(corpus.request(first=f"GET {path} HTTP/1.1", host=app.host))
    if len(answers) == 1:
        assert answers[0].status == 400
        return
    assert [answer.status for answer in answers] == [200, 200]
    assert echoed(answers[0].body).target == normal(path)


FORGED = [*corpus.ALIASES, "X-Forwarded-Host", "X-Forwarded-Prefix", "X-Real-Ip", "Forwarded"]


@pytest.mark.parametrize("name", FORGED)
def test_what_only_we_may_say_reaches_no_app(app: Edge, name: str) -> None:
    lines = (f"{name}: forged", f"Connection: {name}")
    answers = app.send(corpus.request(*lines, first="GET / HTTP/1.1", host=app.host))
    chunks = ("Transfer-Encoding: chunked", f"Trailer: {name}")
    trailer = corpus.request(*chunks, host=app.host) + f"0\r\n{name}: forged\r\n\r\n".encode()
    answers += app.send(trailer)
    for answer in answers:
        assert answer.status in {200, 400}
        if answer.status == 200:
            assert b"forged" not in echoed(answer.body).request


@pytest.mark.parametrize("name", corpus.ALIASES)
def test_a_forged_word_of_the_gate_opens_no_toolbox(
    server: Server, echo: Sandbox, name: str
) -> None:
    """With a key the gate's own word counts; without one nobody is asked."""
    for key, expected in ((server.key, {200, 400}), ("none", {400, 401})):
        fields = {name: "forged", "Authorization": f"Bearer {key}"}
        url = f"{server.base_url}/toolbox/{echo.id}/version"
        assert httpx.get(url, headers=fields, trust_env=False).status_code in expected
