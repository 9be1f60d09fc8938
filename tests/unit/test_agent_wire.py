"""The agent's wire forms that need no connection: names, queries, errors, routes, ranges."""

from __future__ import annotations

import errno
import inspect
import json
import os
from typing import TYPE_CHECKING
from urllib.parse import quote_from_bytes

import pytest
from hypothesis import given, strategies as st

from yurt_agent import fields
from yurt_agent.download import byte_range
from yurt_agent.errors import (
    InvalidBodyError,
    InvalidPathError,
    ToolboxError,
    envelope,
    from_os_error,
    timestamp,
)
from yurt_agent.http import parse_query, unquote
from yurt_agent.paths import decode, encode, resolve
from yurt_agent.routes import ROUTES, Router

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.unit

names = st.binary(min_size=1, max_size=255).filter(lambda raw: b"\0" not in raw and b"/" not in raw)


@given(names)
def test_every_name_survives_a_query_and_json(raw: bytes) -> None:
    from_query = parse_query(b"path=" + quote_from_bytes(raw).encode())["path"][0]
    from_json = json.loads(json.dumps(decode(raw)))
    assert encode(from_query) == raw
    assert encode(from_json) == raw


@given(st.binary(max_size=64))
def test_unquoting_inverts_quoting(raw: bytes) -> None:
    assert unquote(quote_from_bytes(raw).encode()).encode("utf-8", "surrogateescape") == raw


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b"%", "%"),
        (b"%4", "%4"),
        (b"%zz%41", "%zzA"),
        (b"%2541", "%41"),
        (b"a+b", "a+b"),
        (b"% 1", "% 1"),
    ],
)
def test_what_is_no_escape_stays(raw: bytes, text: str) -> None:
    assert unquote(raw) == text


def test_a_query_keeps_all_values_and_reads_plus_as_a_space() -> None:
    assert parse_query(b"a=1&a=2&b=x+y%2B&&c") == {"a": ["1", "2"], "b": ["x y+"], "c": [""]}


@pytest.mark.parametrize("path", ["", "a\0b", "\ud800"])
def test_a_path_that_no_file_can_have_is_refused(path: str) -> None:
    with pytest.raises(InvalidPathError):
        resolve(path, "/w")


@pytest.mark.parametrize(
    ("path", "resolved"),
    [
        ("a", b"/w/a"),
        ("./a//b/.", b"/w/a/b"),
        (".", b"/w"),
        ("/", b"/"),
        ("/x/", b"/x"),
        ("../x", b"/w/../x"),
        ("~", b"/w/~"),
    ],
)
def test_paths_are_resolved_against_the_work_directory(path: str, resolved: bytes) -> None:
    assert resolve(path, "/w") == resolved


@pytest.mark.parametrize(
    ("number", "status", "code"),
    [
        (errno.ENOENT, 404, "FILE_NOT_FOUND"),
        (errno.EACCES, 403, "FILE_ACCESS_DENIED"),
        (errno.EPERM, 403, "FILE_ACCESS_DENIED"),
        (errno.ENOTDIR, 400, "INVALID_FILE_PATH"),
        (errno.EISDIR, 400, "INVALID_FILE_PATH"),
        (errno.ENAMETOOLONG, 400, "INVALID_FILE_PATH"),
        (errno.ELOOP, 400, "INVALID_FILE_PATH"),
        (errno.ENOSPC, 507, "INSUFFICIENT_STORAGE"),
        (errno.EDQUOT, 507, "INSUFFICIENT_STORAGE"),
        (errno.EIO, 500, "FILE_READ_FAILED"),
    ],
)
def test_the_kernels_errors_have_a_status_and_a_code(number: int, status: int, code: str) -> None:
    error = from_os_error(OSError(number, os.strerror(number)), "a/b")
    assert (error.status, error.code) == (status, code)
    assert "a/b" in error.message


def test_messages_have_the_words_that_clients_look_for() -> None:
    missing = from_os_error(OSError(errno.ENOENT, ""), "x").message
    denied = from_os_error(OSError(errno.EACCES, ""), "x").message
    assert "not found" in missing
    assert "no such file or directory" in missing
    assert "permission denied" in denied


@pytest.mark.parametrize("number", [errno.ENOENT, errno.EACCES, errno.EISDIR, errno.ENOSPC])
def test_no_lasting_file_error_sounds_as_if_a_retry_helped(number: int) -> None:
    message = from_os_error(OSError(number, ""), "x").message.lower()
    assert not any(word in message for word in ("state", "timeout", "starting", "not ready"))


def test_the_envelope_is_complete() -> None:
    error = ToolboxError("why", code="SOME_CODE", extra={"errors": ["e"]})
    body = json.loads(envelope(error, method="POST", path="/files"))
    assert body.pop("timestamp").endswith("Z")
    assert body == {
        "statusCode": 500,
        "message": "why",
        "path": "/files",
        "method": "POST",
        "code": "SOME_CODE",
        "source": "DAYTONA_DAEMON",
        "errors": ["e"],
    }


def test_timestamps_are_rfc_3339() -> None:
    assert timestamp(0.25) == "1970-01-01T00:00:00.250Z"


def test_literal_routes_win_over_patterns_and_a_slash_at_the_end_is_ignored() -> None:
    router = Router((("GET", "/a/{x}", "m:pattern"), ("GET", "/a/b", "m:literal")))
    assert router.find("GET", b"/a/b") == ("m:literal", {})
    assert router.find("GET", b"/a/b/") == ("m:literal", {})
    assert router.find("GET", b"/a/c%2Fd") == ("m:pattern", {"x": "c/d"})
    assert router.find("POST", b"/a/b") is None
    assert router.find("GET", b"/a/") is None
    assert router.find("GET", b"/a/b/c") is None


@pytest.mark.parametrize("target", sorted({target for _, _, target in ROUTES}))
def test_every_route_names_a_coroutine_function(target: str) -> None:
    assert inspect.iscoroutinefunction(Router(ROUTES).handler(target))


@pytest.mark.parametrize(
    ("header", "span"),
    [
        ("", None),
        ("bytes=0-0", (0, 1)),
        ("bytes=2-", (2, 10)),
        ("bytes=-3", (7, 10)),
        ("bytes=-30", (0, 10)),
        ("bytes=5-99", (5, 10)),
        ("bytes=10-", (10, 10)),
        ("bytes=99-100", (99, 10)),
        ("bytes=-0", (10, 10)),
        ("bytes=3-1", None),
        ("bytes=0-1,3-4", None),
        ("bytes=a-b", None),
        ("bytes=-", None),
        ("bytes=٣-", None),
        ("items=0-1", None),
        ("bytes=" + "9" * 30 + "-", None),
    ],
)
def test_ranges(header: str, span: tuple[int, int] | None) -> None:
    assert byte_range(header, 10) == span


@pytest.mark.parametrize(
    ("read", "value"),
    [
        (fields.text, 1),
        (fields.number, True),
        (fields.number, float("nan")),
        (fields.number, float("inf")),
        (fields.number, "1"),
        (fields.flag, "true"),
        (fields.texts, "x"),
        (fields.texts, [1]),
        (fields.text_map, {"a": 1}),
        (fields.text_map, []),
    ],
)
def test_a_member_of_the_wrong_type_is_named(
    read: Callable[[dict[str, object], str], object], value: object
) -> None:
    with pytest.raises(InvalidBodyError, match="member"):
        read({"member": value}, "member")


def test_missing_members_have_defaults() -> None:
    assert fields.text({}, "a", "x") == "x"
    assert fields.number({"a": None}, "a", 2) == 2
    assert fields.flag({}, "a") is False
    assert fields.texts({}, "a") == []
    assert fields.text_map({"a": None}, "a") == {}
