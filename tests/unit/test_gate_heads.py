"""Heads of requests and answers: what is refused, and that the rest stays as it came."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from jobs.runner.gate_body import CHUNKED, NO_BODY, UNTIL_CLOSE, FramingError
from jobs.runner.gate_http import RequestHead, ResponseHead

pytestmark = pytest.mark.unit


def _request(*lines: str, first: str = "GET / HTTP/1.1") -> RequestHead:
    return RequestHead("\r\n".join([first, "Host: h", *lines, "", ""]).encode("latin-1"))


_NAME = st.from_regex(r"X-[A-Za-z0-9!#$%&'*+^`|~-]{1,20}", fullmatch=True)
_VALUE = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=30)


@given(st.lists(st.tuples(_NAME, _VALUE), max_size=8))
def test_a_head_is_rendered_byte_for_byte(fields: list[tuple[str, str]]) -> None:
    lines = [f"{name}:{value}" for name, value in fields]
    raw = "\r\n".join(["GET /a//b/../%2e?q=%00&&= HTTP/1.1", "hOsT:  h ", *lines, "", ""]).encode()
    head = RequestHead(raw)
    assert head.render(head.target, set(), []) == raw


@given(st.lists(st.tuples(_NAME, _VALUE), min_size=1, max_size=8), st.data())
def test_only_dropped_fields_are_missing(
    fields: list[tuple[str, str]], data: st.DataObject
) -> None:
    lines = [f"{name}: {value}" for name, value in fields]
    head = _request(*lines)
    drop = data.draw(st.sets(st.integers(1, len(fields))))
    kept = [line for position, line in enumerate(lines, start=1) if position not in drop]
    expected = "\r\n".join(["GET /x HTTP/1.1", "Host: h", *kept, "New: 1", "", ""]).encode()
    assert head.render(b"/x", drop, [b"New: 1"]) == expected


@pytest.mark.parametrize(
    ("lines", "length"),
    [
        ((), NO_BODY),
        (("Content-Length: 0",), NO_BODY),
        (("Content-Length: 12",), 12),
        (("Transfer-Encoding: chunked",), CHUNKED),
    ],
)
def test_the_length_of_a_request_is_known(lines: tuple[str, ...], length: int) -> None:
    assert _request(*lines, first="POST / HTTP/1.1").length == length


@pytest.mark.parametrize(
    ("raw", "method", "length", "keep_alive"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\n", b"GET", UNTIL_CLOSE, True),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n", b"GET", 3, True),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n", b"HEAD", NO_BODY, True),
        (b"HTTP/1.1 204 No Content\r\n\r\n", b"GET", NO_BODY, True),
        (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 3\r\n\r\n", b"GET", NO_BODY, True),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n", b"GET", CHUNKED, True),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: Close\r\n\r\n", b"GET", 3, False),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\n", b"GET", 3, False),
        (
            b"HTTP/1.0 200 OK\r\nContent-Length: 3\r\nConnection: keep-alive\r\n\r\n",
            b"GET",
            3,
            True,
        ),
        (b"HTTP/1.1 101 X\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n", b"GET", NO_BODY, True),
    ],
)
def test_the_length_of_an_answer_is_known(
    raw: bytes, method: bytes, length: int, keep_alive: bool
) -> None:
    head = ResponseHead(raw, method)
    assert (head.length, head.keep_alive) == (length, keep_alive)


@pytest.mark.parametrize(
    "raw",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3, 3\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 03\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\nContent-Length: 3\n\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n",
        b"HTTP/2 200\r\n\r\n",
        b"SSH-2.0-OpenSSH\r\n\r\n",
    ],
)
def test_an_answer_that_can_be_read_in_two_ways_is_refused(raw: bytes) -> None:
    with pytest.raises(FramingError):
        ResponseHead(raw, b"GET")


def test_an_absolute_target_on_its_own_host_becomes_a_path() -> None:
    assert _request(first="GET http://H/a/..?b HTTP/1.1").target == b"/a/..?b"
    assert _request(first="GET http://h HTTP/1.1").target == b"/"
    assert _request(first="GET http://h?b HTTP/1.1").target == b"/?b"


def test_connection_options_of_several_lines_count_together() -> None:
    head = _request("Connection: x", "Upgrade: websocket", "Connection: Upgrade, close")
    assert head.upgrade
    assert not head.keep_alive


def test_http_1_0_closes_unless_asked_not_to() -> None:
    assert not _request(first="GET / HTTP/1.0").keep_alive
    assert _request("Connection: keep-alive", first="GET / HTTP/1.0").keep_alive


@pytest.mark.parametrize("name", ["X-Yurt-Secret", "x_yurt_secret", "X.Yurt-Secret", "x-yurt.a"])
def test_names_that_pass_for_ours_are_found(name: str) -> None:
    assert _request("A: b", f"{name}: forged").aliases == [2]


def test_names_that_only_remind_of_ours_are_not() -> None:
    assert _request("X-Yurtle: a", "Yurt-Secret: b", "A_B: c", "My.X-Yurt-A: d").aliases == []
