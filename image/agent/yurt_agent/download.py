"""Downloads: one file with ranges, or many in one multipart body. Contents go by ``sendfile``."""

from __future__ import annotations

import io
import json
import os
from typing import NamedTuple

from yurt_agent.dialect import decodes_names_twice
from yurt_agent.errors import (
    BodyTooLargeError,
    RangeError,
    ToolboxError,
    envelope,
    from_os_error,
)
from yurt_agent.fields import texts
from yurt_agent.http import FileSlice, Response, StreamResponse, in_thread
from yurt_agent.listing import at
from yurt_agent.paths import encode, open_regular, required, resolve

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from yurt_agent.http import Request

BOUNDARY = "DAYTONA-FILE-BOUNDARY"
"""The boundary that clients have always seen."""

PATHS_LIMIT = 16 << 20
"""Longest list of paths, in bytes of JSON."""

SIZELESS_LIMIT = 16 << 20
"""Most bytes of a file that claims to have none, as those in /proc do."""

_SAFE = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~")


class Source(NamedTuple):
    """An open file and what its size was when it was opened."""

    file: io.FileIO
    size: int
    tag: str
    content: bytes | None

    def part(self, start: int, size: int) -> bytes | FileSlice:
        """Return a part of it for sending."""
        if self.content is not None:
            return self.content[start : start + size]
        return FileSlice(self.file, start, size)


async def download(request: Request) -> Response:
    """Answer ``GET /files/download``: a file, or one range of it."""
    text, path = required(request)
    source = await at(text, _open, path)
    headers = {
        "Accept-Ranges": "bytes",
        "ETag": source.tag,
        "Content-Disposition": f"attachment; {_file_name(os.path.basename(path))}",
        "X-Content-Type-Options": "nosniff",
        "Content-Security-Policy": "sandbox",
    }
    span = None
    if request.headers.get("if-range", source.tag) == source.tag:
        span = byte_range(request.headers.get("range", ""), source.size)
    if span is None:
        pieces = _send(source, 0, source.size)
        return StreamResponse(pieces, headers=headers, length=source.size)
    start, end = span
    if start >= end:
        source.file.close()
        raise RangeError(
            f"the range lies outside of {text}",
            headers={"Content-Range": f"bytes */{source.size}"},
        )
    headers["Content-Range"] = f"bytes {start}-{end - 1}/{source.size}"
    pieces = _send(source, start, end - start)
    return StreamResponse(pieces, 206, headers, length=end - start)


async def _send(source: Source, start: int, size: int) -> AsyncGenerator[bytes | FileSlice, None]:
    with source.file:
        yield source.part(start, size)


def byte_range(header: str, size: int) -> tuple[int, int] | None:
    """Read a ``Range``: start and end of one range; None for the whole file.

    Several ranges, which a server may answer with the whole, and nonsense count as none.
    """
    unit, _, ranges = header.partition("=")
    first, dash, last = ranges.strip().partition("-")
    numbers = [item for item in (first, last) if item]
    if unit.strip() != "bytes" or not dash or not numbers:
        return None
    if not all(item.isascii() and item.isdecimal() and len(item) < 20 for item in numbers):
        return None
    if not first:
        return max(size - int(last), 0), size
    if last and int(last) < int(first):
        return None
    return int(first), min(int(last) + 1, size) if last else size


async def bulk_download(request: Request) -> Response:
    """Answer ``POST /files/bulk-download``: a part for each path, in order, file or error."""
    body = await request.json(PATHS_LIMIT)
    # Never the same twice: a file may contain any boundary that its writer could know.
    boundary = f"{BOUNDARY}-{os.urandom(16).hex()}"
    pieces = _parts(request, texts(body, "paths"), boundary)
    return StreamResponse(pieces, content_type=f"multipart/form-data; boundary={boundary}")


async def _parts(
    request: Request, paths: list[str], boundary: str
) -> AsyncGenerator[bytes | FileSlice, None]:
    for text in paths:
        try:
            source = await in_thread(_open, resolve(text, request.identity.workdir))
        except OSError as error:
            yield _error_part(request, text, from_os_error(error, text), boundary)
        except ToolboxError as error:
            yield _error_part(request, text, error, boundary)
        else:
            with source.file:
                content = "application/octet-stream", source.size
                yield _part_head(boundary, "file", _label(request, text), content)
                yield source.part(0, source.size)
                yield b"\r\n"
    yield f"--{boundary}--\r\n".encode()


def _error_part(request: Request, text: str, error: ToolboxError, boundary: str) -> bytes:
    body = envelope(error, method=request.method, path=request.path)
    head = _part_head(boundary, "error", _label(request, text), ("application/json", len(body)))
    return head + body + b"\r\n"


def _label(request: Request, text: str) -> bytes:
    """Render the path byte for byte, as clients match parts by it; what would end it is escaped."""
    try:
        raw = encode(text)
    except ToolboxError:
        raw = json.dumps(text).encode()
    plain = raw.replace(b"\\", b"\\\\").replace(b'"', b'\\"')
    plain = plain.replace(b"\r", b"%0D").replace(b"\n", b"%0A")
    if decodes_names_twice(request):
        plain = plain.decode("latin-1").encode()
    return b'filename="' + plain + f"\"; filename*=utf-8''{_percent(raw)}".encode()


def _part_head(boundary: str, name: str, label: bytes, content: tuple[str, int]) -> bytes:
    return (
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"; '.encode()
        + label
        + b"\r\n"
        + "Content-Type: {}\r\nContent-Length: {}\r\n\r\n".format(*content).encode()
    )


def _open(path: bytes) -> Source:
    """Open a regular file; one that claims no size is read here."""
    descriptor = open_regular(path)
    file = io.FileIO(descriptor, "rb")
    try:
        status = os.fstat(descriptor)
        tag = f'"{status.st_ino:x}-{status.st_mtime_ns:x}-{status.st_size:x}"'
        if status.st_size > 0:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_SEQUENTIAL)
            return Source(file, status.st_size, tag, None)
        content = _read_all(file)
    except (OSError, ToolboxError):
        file.close()
        raise
    return Source(file, len(content), tag, content)


def _read_all(file: io.FileIO) -> bytes:
    chunks: list[bytes] = []
    size = 0
    while chunk := file.read(1 << 16):
        chunks.append(chunk)
        size += len(chunk)
        if size > SIZELESS_LIMIT:
            raise BodyTooLargeError(f"the file claims no size and has over {SIZELESS_LIMIT} bytes")
    return b"".join(chunks)


def _file_name(name: bytes) -> str:
    """Render the name for Content-Disposition: a plain one for old clients, and the real one."""
    plain = "".join(chr(byte) if byte in _SAFE else "_" for byte in name)
    return f"filename=\"{plain}\"; filename*=UTF-8''{_percent(name)}"


def _percent(raw: bytes) -> str:
    return "".join(chr(byte) if byte in _SAFE else f"%{byte:02X}" for byte in raw)
