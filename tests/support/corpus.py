"""Raw requests that servers have read in two ways, and paths that proxies have changed.

Nothing here goes through a client library: they tidy up what is to be tested.
"""

from __future__ import annotations

import functools


def request(*lines: str, first: str = "POST / HTTP/1.1", host: str) -> bytes:
    """Write the head of a request as it is said, right or wrong."""
    return "\r\n".join([first, f"Host: {host}", *lines, "", ""]).encode("latin-1")


def marker(host: str) -> bytes:
    """Write what comes behind a request, and is to be neither part of it nor hidden by it."""
    return request(first="GET /marker HTTP/1.1", host=host)


def ambiguous(host: str, elsewhere: str) -> dict[str, bytes]:
    """Write requests to a host that can be read in two ways, each with what comes behind it.

    Args:
        host: to which they are.
        elsewhere: another host.
    """
    one, next_one = functools.partial(request, host=host), marker(host)
    return {
        "length-and-chunks": one("Content-Length: 6", "Transfer-Encoding: chunked")
        + b"0\r\n\r\n"
        + next_one,
        "chunks-and-length": one("Transfer-Encoding: chunked", "Content-Length: 4")
        + b"5\r\nGETT \r\n0\r\n\r\n"
        + next_one,
        "two-lengths": one("Content-Length: 0", "Content-Length: 9") + next_one,
        "two-equal-lengths": one("Content-Length: 0", "Content-Length: 0") + next_one,
        "list-of-lengths": one("Content-Length: 0, 0") + next_one,
        "signed-length": one("Content-Length: +0") + next_one,
        "negative-length": one("Content-Length: -1") + next_one,
        "hex-length": one("Content-Length: 0x0") + next_one,
        "octal-looking-length": one("Content-Length: 010") + next_one,
        "empty-length": one("Content-Length:") + next_one,
        "spaced-length": one("Content-Length: 1 0") + next_one,
        "huge-length": one("Content-Length: 18446744073709551616") + next_one,
        "fraction-length": one("Content-Length: 0.0") + next_one,
        "length-alias": one("Content_Length: 50") + next_one,
        "length-dot-alias": one("Content.Length: 50") + next_one,
        "chunks-alias": one("Transfer_Encoding: chunked") + next_one,
        "xchunked": one("Transfer-Encoding: xchunked") + next_one,
        "chunked-in-capitals": one("Transfer-Encoding: Chunked") + b"0\r\n\r\n" + next_one,
        "gzip-chunked": one("Transfer-Encoding: gzip, chunked") + b"0\r\n\r\n" + next_one,
        "chunked-gzip": one("Transfer-Encoding: chunked, gzip") + b"0\r\n\r\n" + next_one,
        "chunked-chunked": one("Transfer-Encoding: chunked, chunked") + next_one,
        "chunked-identity": one("Transfer-Encoding: chunked", "Transfer-Encoding: identity"),
        "two-chunked": one("Transfer-Encoding: chunked", "Transfer-Encoding: chunked") + next_one,
        "identity": one("Transfer-Encoding: identity") + next_one,
        "chunked-tab": one("Transfer-Encoding:\tchunked\x0b") + next_one,
        "chunked-quoted": one('Transfer-Encoding: "chunked"') + next_one,
        "empty-coding": one("Transfer-Encoding:") + next_one,
        "space-before-colon": one("Transfer-Encoding : chunked") + b"0\r\n\r\n" + next_one,
        "tab-before-colon": one("Content-Length\t: 0") + next_one,
        "space-before-name": one(" Content-Length: 0") + next_one,
        "folded-field": one("A: b", " c") + next_one,
        "folded-coding": one("Transfer-Encoding:", " chunked") + next_one,
        "bare-line-feeds": one().replace(b"\r\n", b"\n") + next_one,
        "bare-line-feed-in-head": one("A: b\nContent-Length: 50") + next_one,
        "bare-carriage-return": one("A: b\rContent-Length: 50") + next_one,
        "nul-in-value": one("A: b\0c") + next_one,
        "control-in-value": one("A: b\x01c") + next_one,
        "delete-in-value": one("A: b\x7fc") + next_one,
        "nul-in-name": one("A\0: b") + next_one,
        "high-byte-in-name": one("\xc3: b") + next_one,
        "no-colon": one("ABC") + next_one,
        "no-name": one(": b") + next_one,
        "no-host": b"GET / HTTP/1.1\r\nA: b\r\n\r\n" + next_one,
        "two-hosts": one(f"Host: {host}") + next_one,
        "two-other-hosts": one(f"host: {elsewhere}") + next_one,
        "absolute-target-elsewhere": one(first="GET http://evil.example/ HTTP/1.1") + next_one,
        "absolute-target-with-user": one(first=f"GET http://a@{host}/ HTTP/1.1") + next_one,
        "ftp-target": one(first=f"GET ftp://{host}/ HTTP/1.1") + next_one,
        "no-slash": one(first="GET marker HTTP/1.1") + next_one,
        "fragment": one(first="GET /a#b HTTP/1.1") + next_one,
        "nul-in-path": one(first="GET /a%00b HTTP/1.1") + next_one,
        "raw-nul-in-path": one(first="GET /a\0b HTTP/1.1") + next_one,
        "space-in-target": one(first="GET /a b HTTP/1.1") + next_one,
        "two-spaces": one(first="GET  / HTTP/1.1") + next_one,
        "two-spaces-after": one(first="GET /  HTTP/1.1") + next_one,
        "tab-for-space": one(first="GET\t/ HTTP/1.1") + next_one,
        "trailing-space": one(first="GET / HTTP/1.1 ") + next_one,
        "no-version": one(first="GET /") + next_one,
        "http-0.9": one(first="GET / HTTP/0.9") + next_one,
        "http-2.0": one(first="GET / HTTP/2.0") + next_one,
        "http-1.2": one(first="GET / HTTP/1.2") + next_one,
        "http-1.10": one(first="GET / HTTP/1.10") + next_one,
        "lower-case-version": one(first="GET / http/1.1") + next_one,
        "http-2-preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + next_one,
        "rtsp": one(first="DESCRIBE / RTSP/1.0") + next_one,
        "connect": one(first=f"CONNECT {host} HTTP/1.1") + next_one,
        "unknown-method": one(first="G{T / HTTP/1.1") + next_one,
        "lower-case-method": one(first="get / HTTP/1.1") + next_one,
        "star-for-get": one(first="GET * HTTP/1.1") + next_one,
        "empty-line-first": b"\r\n\r\n" + next_one,
        "tls-hello": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"
        + b"x" * 50
        + b"\r\n\r\n"
        + next_one,
        "chunks-in-1.0": one("Transfer-Encoding: chunked", first="POST / HTTP/1.0") + next_one,
    }


BAD_CHUNKS = {
    "signed": b"+0\r\n\r\n",
    "prefixed": b"0x0\r\n\r\n",
    "bare-line-feed": b"0\n\n",
    "longer-than-said": b"1\r\nab\r\n0\r\n\r\n",
    "line-feed-in-extension": b"0;a\nb\r\n\r\n",
    "overflow": b"10000000000000000\r\n",
    "folded-trailer": b"0\r\nA: b\r\n c\r\n\r\n",
}
"""Bodies of a request that says that it has chunks."""

PATHS = [
    "//y/../z",
    "/a/../b",
    "/a/./b",
    "/%2e%2e/b",
    "/%2E%2e%2fb",
    "/a%2fb",
    "/a%5cb",
    "/a\\b",
    "/..;/b",
    "/a;b=c/d",
    "/%252e%252e/b",
    "/a%20b+c",
    "/a.",
    "/a...",
    "/%",
    "/%zz",
    "/a%c3%a9",
    "/a:b@c",
    "/http://evil.example/",
    "/a'(b)*!$,",
    '/"<>^`{|}~',
    "/a//",
    "/?",
    "/??",
    "/?a=%00&b",
    "/?a&&b=&=c",
    "/?http://x/../",
    "/" + "a" * 8000,
]

ALIASES = [
    "X-Yurt-Secret",
    "x-yurt-secret",
    "X_Yurt_Secret",
    "X.Yurt.Secret",
    "x-YURT_secret",
    "X-Yurt-Sandbox",
    "X-Yurt.Anything",
]
"""Names of fields by which somebody may try to be taken for the gate."""
