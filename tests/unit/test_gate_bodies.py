"""Where bodies end: chunked ones byte for byte, however they arrive."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, strategies as st

from jobs.runner.gate_body import CHUNKED, UNTIL_CLOSE, Chunks, FramingError, body_of

pytestmark = pytest.mark.unit


def _take(body: Chunks, data: bytes, cuts: list[int]) -> tuple[bytes, bytes]:
    """Feed ``data`` in pieces; return what was passed on and what was left over."""
    places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    forward = rest = b""
    for begin, end in itertools.pairwise(places):
        if body.done:
            rest += data[begin:end]
        else:
            taken, left = body.take(data[begin:end])
            forward, rest = forward + taken, rest + left
    return forward, rest


_CHUNKS = st.lists(st.binary(min_size=1, max_size=40), max_size=6)


def _chunked(chunks: list[bytes], trailers: bytes = b"") -> bytes:
    written = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)
    return written + b"0\r\n" + trailers + b"\r\n"


@given(_CHUNKS, st.binary(max_size=30), st.lists(st.integers(0, 400), max_size=8))
def test_a_chunked_body_passes_unchanged_however_it_is_cut(
    chunks: list[bytes], after: bytes, cuts: list[int]
) -> None:
    raw = _chunked(chunks, b"A: b\r\nC:\r\n")
    body = Chunks(drop_trailers=False)
    assert _take(body, raw + after, cuts) == (raw, after)
    assert body.done


@given(_CHUNKS, st.binary(max_size=30), st.lists(st.integers(0, 400), max_size=8))
def test_trailers_are_left_out_towards_the_app(
    chunks: list[bytes], after: bytes, cuts: list[int]
) -> None:
    body = Chunks(drop_trailers=True)
    raw = _chunked(chunks, b"X-Yurt-Secret: forged\r\nA: b\r\n")
    assert _take(body, raw + after, cuts) == (_chunked(chunks), after)
    assert body.done


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(b"5\nhello\n0\n\n", id="bare-line-feeds"),
        pytest.param(b"+5\r\nhello\r\n", id="signed-size"),
        pytest.param(b"0x5\r\nhello\r\n", id="prefixed-size"),
        pytest.param(b" 5\r\nhello\r\n", id="space-before-size"),
        pytest.param(b"5 \r\nhello\r\n", id="space-after-size"),
        pytest.param(b"\r\nhello\r\n", id="no-size"),
        pytest.param(b"-1\r\nhello\r\n", id="negative-size"),
        pytest.param(b"5\r\nhelloX\r\n", id="longer-than-its-size"),
        pytest.param(b"5\r\nhello\n0\r\n\r\n", id="bare-line-feed-after-data"),
        pytest.param(b"5;a=\nb\r\nhello\r\n", id="line-feed-in-extension"),
        pytest.param(b"5;a=\x00\r\nhello\r\n", id="control-in-extension"),
        pytest.param(b"fffffffffffffffff\r\n", id="size-overflow"),
        pytest.param(b"5;" + b"a" * 2000, id="endless-extension"),
        pytest.param(b"0\r\nnot a field\r\n\r\n", id="malformed-trailer"),
        pytest.param(b"0\r\n folded\r\n\r\n", id="folded-trailer"),
        pytest.param(b"0\r\n" + b"A: b\r\n" * 4000, id="endless-trailers"),
        pytest.param(b"0\r\nA: " + b"b" * 9000, id="endless-trailer"),
    ],
)
def test_a_chunked_body_that_can_be_read_in_two_ways_is_refused(raw: bytes) -> None:
    body = Chunks(drop_trailers=False)
    with pytest.raises(FramingError):
        body.take(raw)


def test_an_unfinished_line_is_not_passed_on() -> None:
    body = Chunks(drop_trailers=False)
    assert body.take(b"5\r\nhello\r\n1") == (b"5\r\nhello\r\n", b"")
    assert body.take(b"0\r\n") == (b"10\r\n", b"")


def test_extensions_are_tolerated() -> None:
    raw = b'5 ; name="value"\r\nhello\r\n0;last\r\n\r\n'
    assert Chunks(drop_trailers=True).take(raw) == (raw, b"")


def test_a_counted_body_ends_where_its_number_says() -> None:
    body = body_of(5)
    assert body is not None
    assert body.take(b"hel") == (b"hel", b"")
    assert not body.done
    assert body.take(b"loGET") == (b"lo", b"GET")
    assert body.done


def test_there_is_no_body_of_length_zero() -> None:
    assert body_of(0) is None


@pytest.mark.parametrize("length", [CHUNKED, UNTIL_CLOSE])
def test_a_body_of_unknown_length_has_not_ended_before_it_began(length: int) -> None:
    body = body_of(length)
    assert body is not None
    assert not body.done
