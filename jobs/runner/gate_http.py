"""HTTP/1.1 heads as a proxy needs them: checked strictly, kept byte for byte.

httptools reads the heads. What it lets pass and a server behind the gate could read in another way
is refused here, so that where a message ends is never a matter of opinion. Refuses to know
sandboxes, credentials and sockets.
"""

from __future__ import annotations

import json
import re
import time

import httptools

from jobs.runner.gate_body import CHUNKED, NO_BODY, UNTIL_CLOSE, FramingError

HEAD_LIMIT = 32 << 10
"""Longest head in bytes, of requests and of answers."""

HEAD_END = b"\r\n\r\n"

_REASONS = {
    200: "OK",
    204: "No Content",
    303: "See Other",
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    408: "Request Timeout",
    409: "Conflict",
    411: "Length Required",
    413: "Content Too Large",
    421: "Misdirected Request",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    502: "Bad Gateway",
    503: "Service Unavailable",
    504: "Gateway Timeout",
}
_ONCE = frozenset(
    (
        b"authorization",
        b"content-length",
        b"host",
        b"transfer-encoding",
        b"upgrade",
        b"x-daytona-preview-token",
    )
)
_FRAMING = frozenset((b"content-length", b"transfer-encoding"))
_LENGTH = re.compile(rb"0|[1-9][0-9]{0,17}")
_ABSOLUTE = re.compile(rb"https?://([^/?]*)(.*)", re.IGNORECASE | re.DOTALL)


class RefusedError(Exception):
    """A request that the gate answers itself: status, message and further header lines."""

    def __init__(self, status: int, message: str, *lines: bytes) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.lines = lines


class _Found:
    """What httptools finds in a head."""

    __slots__ = ("complete", "fields", "target")

    def __init__(self) -> None:
        self.fields: list[tuple[bytes, bytes]] = []
        self.target = b""
        self.complete = False

    def on_url(self, url: bytes) -> None:
        self.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.fields.append((name.lower(), value.rstrip()))

    def on_headers_complete(self) -> None:
        self.complete = True


def _read(
    raw: bytes, found: _Found, parser: httptools.HttpRequestParser | httptools.HttpResponseParser
) -> list[bytes]:
    """Parse a whole head and return its lines; field i is on line i + 1."""
    try:
        parser.feed_data(raw)
    except httptools.HttpParserUpgrade:
        pass  # how httptools announces an Upgrade field; the head was read to its end
    except httptools.HttpParserError as error:
        raise FramingError(str(error)) from error
    lines = raw.split(b"\r\n")
    if not found.complete or len(lines) != len(found.fields) + 3:
        raise FramingError("the head does not have one field on each line")
    return lines


def _index(fields: list[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    values = dict(fields)
    if len(values) != len(fields):
        _check_repeated(fields)
        together = [value for name, value in fields if name == b"connection"]
        if together:
            values[b"connection"] = b",".join(together)
    return values


def _check_repeated(fields: list[tuple[bytes, bytes]]) -> None:
    seen = set()
    for name, _ in fields:
        if name in seen and name in _ONCE:
            raise FramingError(f"more than one {name.decode()}")
        seen.add(name)


def _connection(values: dict[bytes, bytes]) -> list[bytes]:
    value = values.get(b"connection")
    return [] if value is None else [token.strip() for token in value.lower().split(b",")]


def _length(values: dict[bytes, bytes], absent: int) -> int:
    coding, length = values.get(b"transfer-encoding"), values.get(b"content-length")
    if coding is not None:
        if length is not None or coding.lower() != b"chunked":
            raise FramingError("a Transfer-Encoding other than exactly chunked")
        return CHUNKED
    if length is None:
        return absent
    if not _LENGTH.fullmatch(length):
        raise FramingError("a Content-Length that is not a plain number")
    return int(length)


class RequestHead:
    """A request's head.

    Attributes:
        fields: (lower-case name, value) of each line, in order.
        values: the same by name; of repeated names the last one, but all of ``connection``.
        target: path and query, byte for byte.
        length: of the body; ``CHUNKED``, or a number of bytes.
        aliases: lines whose name passes for one of the platform's own fields.
    """

    __slots__ = (
        "_lines",
        "_version",
        "aliases",
        "fields",
        "host",
        "keep_alive",
        "length",
        "method",
        "target",
        "upgrade",
        "values",
    )

    def __init__(self, raw: bytes) -> None:
        """Read ``raw``, which ends with its first empty line.

        Raises:
            FramingError: it is not HTTP/1.x, or could be read in two ways.
        """
        found = _Found()
        parser = httptools.HttpRequestParser(found)
        self._lines = _read(raw, found, parser)
        self.fields = found.fields
        self.values = values = _index(found.fields)
        self.method = method = parser.get_method()
        self._version = version = parser.get_http_version().encode()
        plain = b"%b %b HTTP/%b" % (method, found.target, version)
        if self._lines[0] != plain or version not in {b"1.1", b"1.0"}:
            raise FramingError("the request line is not: method, target, HTTP/1.1")
        if b"host" not in values and version == b"1.1":
            raise FramingError("no Host")
        self.host = values.get(b"host", b"")
        self.length = _length(values, NO_BODY)
        tokens = _connection(values)
        self.upgrade = b"upgrade" in values and b"upgrade" in tokens
        self.keep_alive = b"close" not in tokens
        if version == b"1.0":
            self.keep_alive = b"keep-alive" in tokens
            if self.length == CHUNKED:
                raise FramingError("chunks in HTTP/1.0")
        if values.get(b"transfer-encoding", b"chunked") != b"chunked":
            raise FramingError("a Transfer-Encoding other than exactly chunked")
        self.aliases = self._find_aliases()
        self.target = self._origin_form(found.target)

    def _find_aliases(self) -> list[int]:
        """Find names that some servers take for ours: CGI turns ``-``, ``_`` and ``.`` into one."""
        names = b"\n".join(self.values)
        if b"_" not in names and b"." not in names and b"yurt" not in names:
            return []
        found = []
        for position, (name, _) in enumerate(self.fields):
            plain = name.replace(b"_", b"-").replace(b".", b"-")
            if plain.startswith(b"x-yurt-"):
                found.append(position)
            elif plain != name and plain in _FRAMING:
                raise FramingError(f"{name.decode()} passes for {plain.decode()}")
        return found

    def _origin_form(self, target: bytes) -> bytes:
        if self.method == b"CONNECT" or b"#" in target:
            raise FramingError("a target that is not a path")
        if not target.startswith(b"/") and not (target == b"*" and self.method == b"OPTIONS"):
            absolute = _ABSOLUTE.fullmatch(target)
            if not absolute or absolute[1].lower() != self.host.lower():
                raise FramingError("a target on another host than Host")
            target = absolute[2]
            if not target.startswith(b"/"):
                target = b"/" + target
        if b"%00" in target.partition(b"?")[0]:
            raise FramingError("a NUL in the path")
        return target

    @property
    def path(self) -> str:
        """The path without its query, for messages."""
        return self.target.partition(b"?")[0].decode("ascii", "backslashreplace")

    def positions(self, name: bytes) -> list[int]:
        """Return where in ``fields`` a field is."""
        return [position for position, field in enumerate(self.fields) if field[0] == name]

    def render(self, target: bytes, drop: set[int], add: list[bytes]) -> bytes:
        """Return the head with another target, without the fields ``drop``, with lines ``add``.

        Everything else stays as it came, byte for byte.
        """
        lines = self._lines
        first = b"%b %b HTTP/%b" % (self.method, target, self._version)
        kept = lines[1:-2]
        if drop:
            kept = [line for position, line in enumerate(kept) if position not in drop]
        return b"\r\n".join([first, *kept, *add, b"", b""])


class ResponseHead:
    """An answer's head: as much of it as the relay must know."""

    __slots__ = ("answers_cors", "keep_alive", "length", "status")

    def __init__(self, raw: bytes, method: bytes) -> None:
        """Read ``raw``, which answers a request with ``method``.

        Raises:
            FramingError: see ``RequestHead``.
        """
        found = _Found()
        parser = httptools.HttpResponseParser(found)
        _read(raw, found, parser)
        values = _index(found.fields)
        self.status = status = parser.get_status_code()
        version = parser.get_http_version()
        if version not in {"1.1", "1.0"}:
            raise FramingError(f"HTTP/{version}")
        self.length = _length(values, UNTIL_CLOSE)
        if method == b"HEAD" or status in {204, 304} or status < 200:
            self.length = NO_BODY
        tokens = _connection(values)
        self.keep_alive = b"keep-alive" in tokens if version == "1.0" else b"close" not in tokens
        self.answers_cors = b"access-control-allow-origin" in values


def answer(status: int, lines: Sequence[bytes], body: bytes, *, head_only: bool = False) -> bytes:
    """Render an answer of the gate's own; an empty body of a 204 has no length."""
    first = f"HTTP/1.1 {status} {_REASONS.get(status, 'Unknown')}".encode()
    if status != 204:
        lines = [*lines, b"Content-Length: %d" % len(body)]
    return b"\r\n".join([first, *lines, b"", b"" if head_only else body])


def refusal(refused: RefusedError, method: str, path: str, *, close: bool) -> bytes:
    """Render a refusal in the error envelope that the SDKs read."""
    envelope = {
        "statusCode": refused.status,
        "message": refused.message,
        "timestamp": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "path": path,
        "method": method,
        "code": _REASONS.get(refused.status, "Unknown").upper().replace(" ", "_"),
        "source": "DAYTONA_PROXY",
    }
    lines = [b"Content-Type: application/json", *refused.lines]
    if close:
        lines.append(b"Connection: close")
    body = json.dumps(envelope).encode()
    return answer(refused.status, lines, body, head_only=method == "HEAD")


TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
