"""Searching trees by name and by content, and replacing text in files. All in bounded memory."""

from __future__ import annotations

import errno
import io
import os
import re
from fnmatch import translate

from yurt_agent.errors import BadRequestError, ToolboxError, from_os_error
from yurt_agent.fields import text, texts
from yurt_agent.listing import array
from yurt_agent.newfile import NewFile
from yurt_agent.paths import decode, open_regular, required, resolve
from yurt_agent.walk import walk

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from yurt_agent.http import Request, Response

BLOCK = 1 << 20
"""Bytes of a file that are searched at once; a longer line is searched in pieces."""

REPLACE_BLOCK = 1 << 16
"""Bytes of a file that are replaced in at once: each match costs an object meanwhile."""

SNIFF = 8000
"""A file with a zero byte among its first so many is no text (git's rule)."""

CONTENT_BYTES = 4096
"""Most of a line that an answer repeats."""

FILES_LIMIT = 16 << 20
"""Longest list of files to replace in, in bytes of JSON."""


async def search_files(request: Request) -> Response:
    """Answer ``GET /files/search``: what is below ``path`` and has a name like ``pattern``."""
    path_text, path = required(request)
    names = re.compile(translate(_pattern(request)), re.DOTALL)
    found = (
        decode(entry.path)
        for entry in walk(path)
        if names.fullmatch(decode(entry.name)) is not None
    )
    return await array(path_text, found, member="files")


async def find_in_files(request: Request) -> Response:
    """Answer ``GET /files/find``: lines of text files at or below ``path`` with ``pattern`` in."""
    path_text, path = required(request)
    needle = _pattern(request).encode("utf-8", "surrogateescape")
    return await array(path_text, _find(path, needle))


async def replace_in_files(request: Request) -> Response:
    """Answer ``POST /files/replace``: literally, in each file; a failure concerns its file only."""
    body = await request.json(FILES_LIMIT)
    old = text(body, "pattern").encode("utf-8", "surrogateescape")
    new = text(body, "newValue").encode("utf-8", "surrogateescape")
    if not old:
        raise BadRequestError("pattern must not be empty")
    workdir = request.identity.workdir
    results = (_result(name, workdir, old, new) for name in texts(body, "files"))
    return await array("files", results)


def _pattern(request: Request) -> str:
    pattern = request.first("pattern")
    if not pattern:
        raise BadRequestError("the query parameter pattern is required")
    return pattern


def _find(path: bytes, needle: bytes) -> Iterator[object]:
    files: Iterator[bytes]
    if os.path.isdir(path):
        files = (entry.path for entry in walk(path) if entry.is_file(follow_symlinks=False))
    else:
        os.stat(path)
        files = iter((path,))
    for name in files:
        try:
            with io.FileIO(open_regular(name), "rb") as file:
                for line, content in matches(file, needle):
                    shown = content.decode("utf-8", "replace")
                    yield {"file": decode(name), "line": line, "content": shown}
        except (OSError, ToolboxError):
            # Unreadable, or gone, or no longer a file: no reason to stop for the others.
            continue


def matches(file: io.FileIO, needle: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield number and content of each line that contains ``needle``; nothing if it is no text."""
    line, reported = 1, 0
    rest = b""
    first = True
    while True:
        data = file.read(BLOCK) or b""
        if first and b"\0" in data[:SNIFF]:
            return
        first = False
        block = rest + data
        cut = _whole_lines(block, len(needle)) if data else len(block)
        at = counted = 0
        # A match begins before the cut and may end behind it.
        while (hit := block.find(needle, at, cut + len(needle) - 1)) >= 0:
            line += block.count(b"\n", counted, hit)
            counted = hit
            start = block.rfind(b"\n", 0, hit) + 1
            end = block.find(b"\n", hit)
            end = len(block) if end < 0 else end
            if line != reported:
                yield line, _excerpt(block, start, end, hit)
                reported = line
            at = max(min(end, cut), hit + 1)
        if not data:
            return
        line += block.count(b"\n", counted, cut)
        rest = block[cut:]


def _whole_lines(block: bytes, overlap: int) -> int:
    """Return how much of a block can be searched before more has come."""
    end = block.rfind(b"\n") + 1
    # A line beyond all measure: search what is there, but keep what might begin a match.
    return end if len(block) - end < BLOCK else max(len(block) - overlap + 1, end)


def _excerpt(block: bytes, start: int, end: int, hit: int) -> bytes:
    if end - start > CONTENT_BYTES:
        start = max(start, hit - CONTENT_BYTES // 2)
        end = min(end, start + CONTENT_BYTES)
    return block[start:end].removesuffix(b"\r")


def _result(name: str, workdir: str, old: bytes, new: bytes) -> object:
    try:
        replace_in(resolve(name, workdir), old, new)
    except OSError as error:
        return {"file": name, "success": False, "error": str(from_os_error(error, name))}
    except ToolboxError as error:
        return {"file": name, "success": False, "error": str(error)}
    return {"file": name, "success": True}


def replace_in(path: bytes, old: bytes, new: bytes) -> None:
    """Replace in one file, by way of a new one that takes its place; without a match do nothing."""
    with io.FileIO(open_regular(path), "rb") as source:
        if not any(old in piece for piece in _overlapping(source, len(old))):
            return
        if not os.access(path, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        source.seek(0)
        target = NewFile(path)
        try:
            rest = b""
            while data := source.read(max(REPLACE_BLOCK, len(old))):
                rest = _replace_block(target, rest + data, old, new)
            target.write(rest)
            target.complete()
            target.commit()
        except OSError:
            target.discard()
            raise


def _overlapping(source: io.FileIO, size: int) -> Iterator[bytes]:
    rest = b""
    while data := source.read(max(BLOCK, size)):
        piece = rest + data
        yield piece
        rest = piece[max(len(piece) - size + 1, 0) :]


def _replace_block(target: NewFile, block: bytes, old: bytes, new: bytes) -> bytes:
    """Write a block with its matches replaced; return its end, where a match may have begun."""
    *pieces, tail = block.split(old)
    safe = max(len(tail) - len(old) + 1, 0)
    target.write(new.join([*pieces, tail[:safe]]))
    return tail[safe:]
