"""Raw requests against a running gate: what it refuses, and what exactly reaches the app.

Nothing here goes through a client library: they tidy up what is to be tested.
"""

from __future__ import annotations

import base64
import functools
import hmac
import json
import select
import time
from typing import TYPE_CHECKING

import pytest

from tests.support import corpus
from tests.support.gate_rig import (
    FILE_KEY,
    KEY,
    OTHER,
    SANDBOX,
    SECRET,
    SIGNING_KEY,
    TOKEN,
    App,
    GateRig,
    ok,
    read_all,
    read_message,
    status,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.security

PORT = 3000
HOST = f"{PORT}-{SANDBOX}.localhost:9878"
MARKER = corpus.marker(HOST)


@pytest.fixture(scope="module")
def rig() -> Iterator[GateRig]:
    with GateRig() as rig:
        yield rig


@pytest.fixture(scope="module")
def apps(rig: GateRig) -> Iterator[tuple[App, App]]:
    app, agent = rig.app(PORT), rig.app(2280)
    yield app, agent
    app.close()
    agent.close()


@pytest.fixture
def app(rig: GateRig, apps: tuple[App, App]) -> App:
    """A public app on ``PORT`` that answers everything with 200."""
    rig.assign(public=True)
    apps[0].requests.clear()
    return apps[0]


@pytest.fixture
def agent(rig: GateRig, apps: tuple[App, App]) -> App:
    """The agent."""
    rig.assign(public=False)
    apps[1].requests.clear()
    return apps[1]


_request = functools.partial(corpus.request, host=HOST)
AMBIGUOUS = corpus.ambiguous(HOST, f"3000-{OTHER}.localhost")
PATHS = [*corpus.PATHS, f"/toolbox/{OTHER}/x", "/_yurt/message"]


@pytest.mark.parametrize("raw", AMBIGUOUS.values(), ids=AMBIGUOUS)
def test_an_ambiguous_request_is_refused_and_nothing_of_it_passes(
    rig: GateRig, app: App, raw: bytes
) -> None:
    answer = rig.raw(raw)
    assert status(answer) == 400
    assert answer.count(b"HTTP/1.1 ") == 1
    assert app.requests == []
    envelope = json.loads(answer.partition(b"\r\n\r\n")[2])
    assert envelope["statusCode"] == 400
    assert envelope["source"] == "DAYTONA_PROXY"


@pytest.mark.parametrize("body", corpus.BAD_CHUNKS.values(), ids=corpus.BAD_CHUNKS)
def test_chunks_that_can_be_read_in_two_ways_are_refused(
    rig: GateRig, app: App, body: bytes
) -> None:
    answer = rig.raw(_request("Transfer-Encoding: chunked") + body + MARKER)
    assert status(answer) == 400
    assert not any(b"marker" in request for request in app.requests)


def test_a_head_may_have_32_kib_and_no_more(rig: GateRig, app: App) -> None:
    frame = len(_request("A: ", "Connection: close", first="GET / HTTP/1.1"))
    for size, expected in ((32 << 10, 200), ((32 << 10) + 1, 431)):
        field = "A: " + "x" * (size - frame)
        raw = _request(field, "Connection: close", first="GET / HTTP/1.1")
        assert len(raw) == size
        assert status(rig.raw(raw)) == expected
    assert sum(b"\r\nA: x" in head for head in app.requests) == 1


def test_a_head_that_never_ends_is_refused(rig: GateRig, app: App) -> None:
    assert status(rig.raw(b"GET / HTTP/1.1\r\nA: " + b"x" * 100_000)) == 431


@pytest.mark.parametrize("path", PATHS)
def test_a_path_reaches_the_app_byte_for_byte(rig: GateRig, app: App, path: str) -> None:
    assert status(rig.get(path, HOST)) == 200
    assert app.requests[0].startswith(f"GET {path} HTTP/1.1\r\n".encode())


@pytest.mark.parametrize("path", [path for path in PATHS if path[1:2] not in {"t", "_"}])
def test_a_path_reaches_the_agent_byte_for_byte(rig: GateRig, agent: App, path: str) -> None:
    assert status(rig.toolbox(path)) == 200
    assert agent.requests[0].startswith(f"GET {path} HTTP/1.1\r\n".encode())


def test_a_head_reaches_the_app_byte_for_byte(rig: GateRig, app: App) -> None:
    lines = (
        "GET /x HTTP/1.1\r\nHOST:  " + HOST + "  \r\nx-ODD-case:\tv a l  \r\nX_Y.z: \xe9\r\n"
        "Cookie: a=b\r\nCookie: c=d\r\nAuthorization: Basic YTpi\r\nForwarded: for=1.2.3.4\r\n"
        "Connection: close\r\n"
    ).encode("latin-1")
    assert status(rig.raw(lines + b"\r\n")) == 200
    assert app.requests == [lines + b"X-Forwarded-Host: " + HOST.encode() + b"\r\n\r\n"]


def test_an_x_forwarded_host_that_is_there_stays(rig: GateRig, app: App) -> None:
    assert status(rig.get("/", HOST, "x-forwarded-host: other")) == 200
    assert app.requests[0].lower().count(b"x-forwarded-host") == 1


@pytest.mark.parametrize(
    "method", ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND"]
)
def test_methods_pass(rig: GateRig, app: App, method: str) -> None:
    assert status(rig.get("/", HOST, method=method)) == 200
    assert app.requests[0].startswith(method.encode() + b" / HTTP/1.1\r\n")


def test_an_absolute_target_on_the_same_host_passes_as_a_path(rig: GateRig, app: App) -> None:
    assert status(rig.get(f"http://{HOST}/a?b", HOST)) == 200
    assert app.requests[0].startswith(b"GET /a?b HTTP/1.1\r\n")


@pytest.mark.parametrize("name", corpus.ALIASES)
def test_a_forged_platform_field_reaches_nobody(
    rig: GateRig, app: App, apps: tuple[App, App], name: str
) -> None:
    assert status(rig.get("/", HOST, f"{name}: forged", f"Connection: {name}, close")) == 200
    assert b"forged" not in app.requests[0]
    apps[1].requests.clear()
    assert status(rig.toolbox("/", f"{name}: forged", f"{name}: forged")) == 200
    (request,) = apps[1].requests
    assert b"forged" not in request
    assert request.lower().count(b"x-yurt-secret: ") == 1
    assert b"\r\nX-Yurt-Secret: " + SECRET.encode() + b"\r\n" in request


def test_a_forged_platform_field_in_trailers_reaches_nobody(rig: GateRig, agent: App) -> None:
    raw = _request(
        "Transfer-Encoding: chunked",
        "Trailer: X-Yurt-Secret",
        f"Authorization: Bearer {KEY}",
        "Connection: close",
        first=f"POST /toolbox/{SANDBOX}/x HTTP/1.1",
        host="localhost",
    )
    assert status(rig.raw(raw + b"1\r\na\r\n0\r\nX-Yurt-Secret: forged\r\n\r\n")) == 200
    assert agent.requests[0].endswith(b"\r\n\r\n1\r\na\r\n0\r\n\r\n")


def test_the_agent_learns_its_prefix_from_the_gate_alone(rig: GateRig, agent: App) -> None:
    assert status(rig.toolbox("/x", "X-Forwarded-Prefix: /evil", "x-forwarded-prefix: /e")) == 200
    assert f"\r\nX-Forwarded-Prefix: /toolbox/{SANDBOX}\r\n".encode() in agent.requests[0]
    assert b"/e" not in agent.requests[0].replace(SECRET.encode(), b"")


def test_no_app_learns_the_secret(rig: GateRig, app: App) -> None:
    assert status(rig.get("/", HOST)) == 200
    assert SECRET.encode() not in app.requests[0]


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (f"/api/toolbox/{SANDBOX}/toolbox/project-dir", b"GET /project-dir HTTP/1.1"),
        (f"/toolbox/{SANDBOX}", b"GET / HTTP/1.1"),
        (f"/toolbox/{SANDBOX}?a", b"GET /?a HTTP/1.1"),
    ],
)
def test_both_dialects_reach_the_agent(
    rig: GateRig, agent: App, path: str, expected: bytes
) -> None:
    assert status(rig.get(path, "localhost", f"Authorization: Bearer {KEY}")) == 200
    assert agent.requests[0].startswith(expected + b"\r\n")


@pytest.mark.parametrize(
    ("path", "host"),
    [
        (f"/toolbox/{OTHER}/files", "localhost"),
        (f"/toolbox/{SANDBOX}x/files", "localhost"),
        ("/", "localhost"),
        ("/", f"3000-{OTHER}.localhost"),
        ("/", f"03000-{SANDBOX}.localhost"),
        ("/", f"3000-{SANDBOX}.localhost."),
        ("/", "3000-" + "a" * 58 + ".localhost"),
        (f"/toolbox/{SANDBOX}/files", f"3000-{OTHER}.localhost"),
        ("/_yurt/message", f"3000-{OTHER}.localhost"),
    ],
)
@pytest.mark.parametrize("phase", ["ready", "assign"])
def test_what_names_another_sandbox_is_misdirected(
    rig: GateRig, agent: App, path: str, host: str, phase: str
) -> None:
    rig.assign(phase, public=True)
    answer = rig.get(path, host, f"Authorization: Bearer {KEY}")
    assert status(answer) == 421
    assert OTHER.encode() not in answer.partition(b"\r\n\r\n")[2].replace(path.encode(), b"")
    assert agent.requests == []


@pytest.mark.parametrize("port", ["2280", "22222", "33333", "5901"])
@pytest.mark.parametrize("spelling", ["{}", "0{}", "+{}", "{}.0", "{} ", "{}%20", "00000{}"])
def test_reserved_ports_open_in_no_spelling(
    rig: GateRig, agent: App, port: str, spelling: str
) -> None:
    rig.assign(public=True)
    answer = rig.get("/", f"{spelling.format(port)}-{SANDBOX}.localhost")
    assert status(answer) == (401 if spelling == "{}" else 421)
    assert agent.requests == []


def test_who_comes_before_the_sandbox_is_up_waits_for_it(rig: GateRig, agent: App) -> None:
    rig.assign("assign")
    head = f"GET /toolbox/{SANDBOX}/x HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
    with rig.connect() as right, rig.connect() as wrong:
        right.sendall(f"{head}Authorization: Bearer {KEY}\r\n\r\n".encode())
        wrong.sendall(f"{head}\r\n".encode())
        assert not select.select([right, wrong], [], [], 0.3)[0]
        assert agent.requests == []
        rig.assign()
        assert status(read_message(right)) == 200
        assert status(read_message(wrong)) == 401
    assert len(agent.requests) == 1


def test_a_wait_for_the_sandbox_has_an_end() -> None:
    settings = "gate_visitor.WAIT_SECONDS = 0.3; gate_service.TICK_SECONDS = 0.1"
    with GateRig(settings) as rig:
        answer = rig.toolbox("/x")
        assert status(answer) == 503
        assert b"\r\nRetry-After: 1\r\n" in answer


# -- credentials -----------------------------------------------------------------------------


def _label(port: int, expiry: float) -> str:
    packed = int(expiry).to_bytes(4, "big")
    mac = hmac.digest(SIGNING_KEY, f"{SANDBOX}:{port}:".encode() + packed, "sha256")[:10]
    return base64.b32encode(packed + mac).decode().rstrip("=").lower()


def test_an_accepted_credential_is_stripped_and_the_apps_own_survives(
    rig: GateRig, apps: tuple[App, App]
) -> None:
    rig.assign(public=False)
    app = apps[0]
    app.requests.clear()
    cases = [
        ("/", f"X-Daytona-Preview-Token: {TOKEN}", "Authorization: Bearer the-app's"),
        (f"/?a&DAYTONA_SANDBOX_AUTH_KEY={TOKEN}&b", "Authorization: Bearer the-app's"),
        ("/", f"Authorization: Bearer {KEY}", "X-Api-Key: the-app's"),
    ]
    for path, *lines in cases:
        assert status(rig.get(path, HOST, *lines)) == 200
    for request in app.requests:
        assert TOKEN.encode() not in request
        assert KEY.encode() not in request
        assert b"the-app's" in request
    assert app.requests[1].startswith(b"GET /?a&b HTTP/1.1\r\n")


def test_the_agent_never_sees_a_key(rig: GateRig, agent: App) -> None:
    both = (f"Authorization: Bearer {KEY}", f"X-Daytona-Preview-Token: {TOKEN}")
    for path, host in ((f"/toolbox/{SANDBOX}/x", "localhost"), ("/x", f"2280-{SANDBOX}.localhost")):
        assert status(rig.get(path, host, *both)) == 200
    for request in agent.requests:
        assert KEY.encode() not in request
        assert TOKEN.encode() not in request
        assert request.startswith(b"GET /x HTTP/1.1\r\n")
        assert SECRET.encode() in request


def test_a_browser_reaches_the_toolbox_by_the_token_in_its_query(rig: GateRig, agent: App) -> None:
    path = f"/toolbox/{SANDBOX}/logs?follow=true&DAYTONA_SANDBOX_AUTH_KEY={TOKEN}"
    assert status(rig.get(path, "localhost")) == 200
    assert agent.requests[0].startswith(b"GET /logs?follow=true HTTP/1.1\r\n")


@pytest.mark.parametrize(
    "lines",
    [
        (),
        ("Authorization: Bearer wrong",),
        (f"Authorization: Basic {KEY}",),
        (f"X-Daytona-Preview-Token: {TOKEN}x",),
        (f"X_Daytona_Preview_Token: {TOKEN}",),
        (f"Cookie: DAYTONA_SANDBOX_AUTH_KEY={TOKEN}",),
        (f"Authorization: Bearer {KEY}", f"Connection: {KEY}", "Authorization: Bearer x"),
    ],
)
def test_nothing_else_enters(rig: GateRig, agent: App, lines: tuple[str, ...]) -> None:
    for path, host in ((f"/toolbox/{SANDBOX}/x", "localhost"), ("/", HOST)):
        answer = rig.get(path, host, *lines)
        assert status(answer) in {400, 401}
        assert KEY.encode() not in answer
    assert agent.requests == []


def test_an_unknown_and_a_private_preview_look_alike(rig: GateRig) -> None:
    rig.assign(public=False)
    listening, silent = rig.preview(PORT), rig.preview(PORT + 1)
    assert status(listening) == 401
    for answer in (listening, silent):
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["path"] == "/"
    assert listening.partition(b'"timestamp"')[0] == silent.partition(b'"timestamp"')[0]


def test_a_signed_host_opens_its_port_until_it_expires(rig: GateRig, apps: tuple[App, App]) -> None:
    rig.assign(public=False, revoked_signatures=[])
    label = _label(PORT, time.time() + 60)
    assert status(rig.get("/", f"{PORT}-{SANDBOX}-{label}.localhost")) == 200
    assert status(rig.get("/", f"{PORT + 1}-{SANDBOX}-{label}.localhost")) == 401
    tampered = label[:10] + ("a" if label[10] != "a" else "b") + label[11:]
    assert status(rig.get("/", f"{PORT}-{SANDBOX}-{tampered}.localhost")) == 401
    late = _label(PORT, time.time() - 1)
    assert status(rig.get("/", f"{PORT}-{SANDBOX}-{late}.localhost")) == 401
    rig.assign(revoked_signatures=[label])
    assert status(rig.get("/", f"{PORT}-{SANDBOX}-{label}.localhost")) == 401


def test_a_signed_file_url_opens_that_file_only(rig: GateRig, agent: App) -> None:
    text = b"v1:files:GET:/etc/hosts:0"
    mac = base64.urlsafe_b64encode(hmac.digest(FILE_KEY.encode(), text, "sha256"))
    signature = "v1_" + mac.decode().rstrip("=")
    base = f"/toolbox/{SANDBOX}/files/download?expires=0&signature={signature}&path="
    assert status(rig.get(base + "%2Fetc%2Fhosts", "localhost")) == 200
    assert status(rig.get(base + "%2Fetc%2Fshadow", "localhost")) == 401
    assert status(rig.get(base + "/etc/hosts&path=/etc/shadow", "localhost")) == 401
    assert status(rig.get(base + "/etc/hosts", "localhost", method="DELETE")) == 401
    assert len(agent.requests) == 1
    assert agent.requests[0].startswith(b"GET /files/download?expires=0&path=%2Fetc%2Fhosts HTTP")


# -- control's messages ----------------------------------------------------------------------


def test_a_message_reaches_the_holder_unread_and_whole(rig: GateRig) -> None:
    rig.messages.clear()
    rig.message_answer = {"status": 409, "headers": {"x-yurt-node": "n"}, "body": '{"ü": 1}'}
    body = '{"op": "assign", "x": "ü\\n\\"' + "y" * 200_000 + '"}'
    raw = _request(
        f"Content-Length: {len(body.encode())}",
        "X-Yurt-Signature: 0abc",
        "Connection: close",
        first="POST /_yurt/message HTTP/1.1",
        host="127.0.0.1:4000",
    )
    answer = rig.raw(raw + body.encode())
    assert status(answer) == 409
    assert b"\r\nx-yurt-node: n\r\n" in answer
    assert answer.endswith('{"ü": 1}'.encode())
    assert rig.messages == [{"headers": {"x-yurt-signature": "0abc"}, "body": body}]


@pytest.mark.parametrize(
    ("first", "lines", "expected"),
    [
        ("GET /_yurt/message HTTP/1.1", (), 405),
        ("POST /_yurt/message HTTP/1.1", ("Transfer-Encoding: chunked",), 411),
        ("POST /_yurt/message HTTP/1.1", ("Content-Length: 262145",), 413),
    ],
)
def test_a_message_is_posted_with_a_bounded_length(
    rig: GateRig, first: str, lines: tuple[str, ...], expected: int
) -> None:
    rig.messages.clear()
    raw = _request(*lines, "Connection: close", first=first, host="a")
    assert status(rig.raw(raw)) == expected
    assert rig.messages == []


def test_a_message_that_is_not_text_is_refused(rig: GateRig) -> None:
    raw = _request(
        "Content-Length: 1", "Connection: close", first="POST /_yurt/message HTTP/1.1", host="a"
    )
    assert status(rig.raw(raw + b"\xff")) == 400


def test_health_tells_who_is_here(rig: GateRig) -> None:
    answer = rig.get("/_yurt/health", "127.0.0.1")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["sandbox"] == SANDBOX


# -- cross-origin pages ----------------------------------------------------------------------

PREFLIGHT = (
    "Origin: http://elsewhere.example",
    "Access-Control-Request-Method: PUT",
    "Access-Control-Request-Headers: x-daytona-preview-token, content-type",
)


def _cors(answer: bytes) -> list[bytes]:
    head = answer.partition(b"\r\n\r\n")[0]
    return [line for line in head.split(b"\r\n") if line.lower().startswith(b"access-control-")]


@pytest.fixture
def cors_app(rig: GateRig) -> Iterator[App]:
    def answer(request: bytes) -> bytes:
        if b" /own " in request:
            return ok().replace(b"\r\n\r\n", b"\r\nAccess-Control-Allow-Origin: http://o\r\n\r\n")
        return (
            ok()
            if request.startswith(b"GET")
            else b"HTTP/1.1 405 No\r\nContent-Length: 2\r\n\r\nno"
        )

    app = rig.app(3100, answer)
    yield app
    app.close()


def test_pages_of_any_origin_may_read_a_public_preview(rig: GateRig, cors_app: App) -> None:
    rig.assign(public=True)
    assert b"Access-Control-Allow-Origin: *" in _cors(rig.preview(3100))
    assert b"credentials" not in rig.preview(3100).lower()


def test_the_apps_own_answer_to_cross_origin_pages_stands(rig: GateRig, cors_app: App) -> None:
    rig.assign(public=True)
    assert _cors(rig.preview(3100, "/own")) == [b"Access-Control-Allow-Origin: http://o"]
    assert _cors(rig.preview(3100, "/own", *PREFLIGHT, method="OPTIONS")) == [
        b"Access-Control-Allow-Origin: http://o"
    ]


def test_a_client_may_wish_no_cross_origin_fields(rig: GateRig, cors_app: App) -> None:
    rig.assign(public=True)
    assert _cors(rig.preview(3100, "/", "X-Daytona-Disable-CORS: true")) == []


def test_private_previews_are_readable_by_token_only(rig: GateRig, cors_app: App) -> None:
    rig.assign(public=False, revoked_signatures=[])
    assert _cors(rig.preview(3100)) == []
    assert _cors(rig.preview(3100, "/", f"X-Daytona-Preview-Token: {TOKEN}")) != []
    assert _cors(rig.preview(3100, f"/?DAYTONA_SANDBOX_AUTH_KEY={TOKEN}")) != []
    label = _label(3100, time.time() + 60)
    signed = rig.get("/", f"3100-{SANDBOX}-{label}.localhost", "Origin: http://elsewhere.example")
    assert status(signed) == 200
    assert _cors(signed) == []


def test_a_preflight_that_the_app_does_not_answer_is_answered(rig: GateRig, cors_app: App) -> None:
    rig.assign(public=True)
    answer = rig.preview(3100, "/", *PREFLIGHT, method="OPTIONS")
    assert status(answer) == 204
    assert b"Access-Control-Allow-Methods: PUT" in _cors(answer)
    allowed = b"Access-Control-Allow-Headers: x-daytona-preview-token, content-type"
    assert allowed in _cors(answer)
    assert cors_app.requests[0].startswith(b"OPTIONS / ")


def test_a_connection_goes_on_after_a_preflight_that_the_app_did_not_answer(
    rig: GateRig, cors_app: App
) -> None:
    rig.assign(public=True)
    host = f"Host: 3100-{SANDBOX}.localhost"
    first = "\r\n".join(["OPTIONS / HTTP/1.1", host, *PREFLIGHT, "", ""])
    second = "\r\n".join(["GET / HTTP/1.1", host, "Connection: close", "", ""])
    with rig.connect() as connection:
        connection.sendall(first.encode())
        assert status(connection.recv(1 << 16)) == 204
        connection.sendall(second.encode())
        assert status(read_all(connection)) == 200


def test_a_preflight_to_a_private_preview_does_not_reach_the_app(
    rig: GateRig, cors_app: App
) -> None:
    rig.assign(public=False)
    assert status(rig.preview(3100, "/", *PREFLIGHT, method="OPTIONS")) == 204
    assert status(rig.preview(3100, "/", method="OPTIONS")) == 401
    assert cors_app.requests == []


def test_the_toolbox_is_closed_to_cross_origin_pages(rig: GateRig, agent: App) -> None:
    assert _cors(rig.toolbox("/x", "Origin: http://elsewhere.example")) == []
    agent.requests.clear()
    answer = rig.get(f"/toolbox/{SANDBOX}/x", "localhost", *PREFLIGHT, method="OPTIONS")
    assert status(answer) == 401
    assert agent.requests == []


# -- several requests on one connection ------------------------------------------------------


def test_pipelined_requests_are_answered_in_order(rig: GateRig, app: App) -> None:
    chunked = _request("Transfer-Encoding: chunked") + b"3\r\nabc\r\n0\r\nT: x\r\n\r\n"
    counted = _request("Content-Length: 5", first="PUT /two HTTP/1.1") + b"hello"
    last = _request("Connection: close", first="GET /last HTTP/1.1")
    answer = rig.raw(MARKER + chunked + counted + last)
    assert answer.count(b"HTTP/1.1 200 OK") == 4
    assert [request.split(b" HTTP")[0] for request in app.requests] == [
        b"GET /marker",
        b"POST /",
        b"PUT /two",
        b"GET /last",
    ]
    assert app.requests[1].endswith(b"\r\n\r\n3\r\nabc\r\n0\r\n\r\n")
    assert app.requests[2].endswith(b"\r\n\r\nhello")


def test_each_pipelined_request_is_authorised_by_itself(
    rig: GateRig, apps: tuple[App, App]
) -> None:
    rig.assign(public=False)
    apps[0].requests.clear()
    first = _request(f"X-Daytona-Preview-Token: {TOKEN}", first="GET /one HTTP/1.1")
    with rig.connect() as connection:
        connection.sendall(first + MARKER + first)
        answers = [read_message(connection)]
        while len(b"".join(answers).split(b"HTTP/1.1 ")) < 4:
            answers.append(connection.recv(65536))
    statuses = [part[:3] for part in b"".join(answers).split(b"HTTP/1.1 ")[1:]]
    assert statuses == [b"200", b"401", b"200"]
    assert [request[:8] for request in apps[0].requests] == [b"GET /one", b"GET /one"]


def test_thousands_of_bad_pipelined_requests_are_answered_one_by_one(rig: GateRig) -> None:
    rig.assign(public=False)
    raw = _request(first="GET / HTTP/1.1")
    last = _request("Connection: close", first="GET / HTTP/1.1")
    assert rig.raw(raw * 3000 + last, timeout=30).count(b"HTTP/1.1 401 ") == 3001
