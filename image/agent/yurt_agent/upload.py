"""Uploads: one file, raw or as a form, or many in one form.

Everything is written as it comes, in a thread, to files that take their names when the whole
body has arrived. A body that is cut off, or a full disk, leaves everything as it was.
"""

from __future__ import annotations

import re
from contextlib import contextmanager

from yurt_agent.errors import (
    BadRequestError,
    BodyTooLargeError,
    DiskFullError,
    InvalidBodyError,
    ToolboxError,
    from_os_error,
)
from yurt_agent.http import Response, in_thread
from yurt_agent.newfile import NewFile
from yurt_agent.paths import decode, required, resolve

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Protocol

    from yurt_agent.http import Request

    class Sink(Protocol):
        """What takes a body."""

        def feed(self, chunks: list[bytes]) -> None:
            """Take the next bytes."""

        def finish(self) -> None:
            """Let the files take their names: the body is complete."""

        def discard(self) -> None:
            """Leave no trace."""


PATH_LIMIT = 16 << 10
"""Longest path in a form, in bytes."""

PATHS_LIMIT = 16 << 20
"""All paths of one form together, in bytes."""

_FIELD = re.compile(r"files\[(\d{1,9})\]\.(path|file)")


async def upload(request: Request) -> Response:
    """Answer ``POST /files/upload`` and ``upload-v2``: a file to ``path``, parents included.

    The body is the file, or a form whose field ``file`` is.
    """
    text, path = required(request)
    content_type = request.headers.get("content-type", "")
    sink: Sink = One(text, path, raw=True)
    if content_type.lower().startswith("multipart/"):
        from yurt_agent.multipart import Form

        sink = Form(content_type, One(text, path, raw=False))
    await _receive(request, sink)
    return Response.json({"name": decode(path.rpartition(b"/")[2]), "path": text, "type": "file"})


async def bulk_upload(request: Request) -> Response:
    """Answer ``POST /files/bulk-upload``: fields ``files[i].path`` and ``files[i].file``.

    They may come in any order. A file that cannot be written is reported and does not hinder the
    others; a full disk stops them all.
    """
    from yurt_agent.multipart import Form

    many = Many(request.identity.workdir)
    await _receive(request, Form(request.headers.get("content-type", ""), many))
    if many.errors:
        raise BadRequestError(
            "; ".join(str(error) for error in many.errors[:10]),
            code=many.errors[0].code,
            extra={"errors": [str(error) for error in many.errors], "files": many.files},
        )
    return Response.json({"files": many.files})


async def _receive(request: Request, sink: Sink) -> None:
    complete = False
    try:
        while chunks := await request.body_stream.batch():
            await in_thread(sink.feed, chunks)
        await in_thread(sink.finish)
        complete = True
    finally:
        if not complete:
            await in_thread(sink.discard)


@contextmanager
def _about(text: str) -> Iterator[None]:
    """Turn the kernel's errors into the client's, about the path that it gave."""
    try:
        yield
    except OSError as error:
        raise from_os_error(error, text) from error


class One:
    """One file: a raw body, or the field ``file`` of a form."""

    def __init__(self, text: str, path: bytes, *, raw: bool) -> None:
        """Take the whole body, or what a form says; nothing is opened before the first byte."""
        self._text = text
        self._path = path
        self._file: NewFile | None = None
        self._wanted = raw

    def feed(self, chunks: list[bytes]) -> None:
        """Take bytes of a raw body."""
        for chunk in chunks:
            self.data(memoryview(chunk))

    def begin(self, field: str) -> None:
        """Begin a part; any but the first of the right name is dropped."""
        self._wanted = field == "file" and self._file is None
        if self._wanted:
            self._open()

    def data(self, piece: memoryview) -> None:
        """Take bytes of a part."""
        if self._wanted:
            with _about(self._text):
                self._open().write(piece)

    def end(self) -> None:
        """End a part."""
        self._wanted = False

    def finish(self) -> None:
        """Let the file take its name; an empty raw body is an empty file."""
        if self._file is None and not self._wanted:
            raise InvalidBodyError("the form has no field named file")
        with _about(self._text):
            file = self._open()
            file.complete()
            file.commit()

    def discard(self) -> None:
        """Leave no trace."""
        if self._file is not None:
            self._file.discard()

    def _open(self) -> NewFile:
        if self._file is None:
            with _about(self._text):
                self._file = NewFile(self._path)
        return self._file


class Entry:
    """What is known of ``files[i]`` so far."""

    def __init__(self) -> None:
        self.path: bytes | None = None
        self.file: NewFile | None = None
        self.error: ToolboxError | None = None
        self.sent = False
        self.unnamed = False


class Many:
    """The files of one form; ``files`` and ``errors`` hold the outcome."""

    def __init__(self, workdir: str) -> None:
        """Resolve relative paths against ``workdir``."""
        self._workdir = workdir
        self._entries: dict[str, Entry] = {}
        self._current = Entry()
        self._role = ""
        self._path = b""
        self._paths_size = 0
        self.files: list[dict[str, object]] = []
        self.errors: list[ToolboxError] = []

    def begin(self, field: str) -> None:
        """Begin a part; those of other names are dropped."""
        match = _FIELD.fullmatch(field)
        self._role = match[2] if match else ""
        if match is None:
            return
        self._current = entry = self._entries.setdefault(match[1].lstrip("0"), Entry())
        if self._role == "path":
            if entry.path is not None:
                raise InvalidBodyError(f"{field} was sent twice")
            self._path = b""
            return
        if entry.sent:
            raise InvalidBodyError(f"{field} was sent twice")
        entry.sent = True
        with self._errors_of(entry):
            entry.unnamed = entry.path is None
            known = None if entry.path is None else self._resolve(entry.path)
            entry.file = NewFile.unnamed() if known is None else NewFile(known)

    def data(self, piece: memoryview) -> None:
        """Take bytes of a part."""
        if self._role == "path":
            self._paths_size += len(piece)
            if len(self._path) + len(piece) > PATH_LIMIT or self._paths_size > PATHS_LIMIT:
                raise BodyTooLargeError("the paths are too long")
            self._path += piece
        elif self._role == "file" and self._current.file is not None:
            with self._errors_of(self._current):
                self._current.file.write(piece)

    def end(self) -> None:
        """End a part."""
        if self._role == "path":
            self._current.path = self._path
        elif self._role == "file" and self._current.file is not None:
            with self._errors_of(self._current):
                self._current.file.complete()
        self._role = ""

    def finish(self) -> None:
        """Let all files take their names, after all that needs space on the disk is done."""
        for index, entry in self._entries.items():
            with self._errors_of(entry):
                self._prepare(index or "0", entry)
        for entry in self._entries.values():
            with self._errors_of(entry):
                if entry.file is not None and entry.path is not None:
                    entry.file.commit()
                    size, entry.file = entry.file.size, None
                    self.files.append({"path": decode(entry.path), "bytes": size})
        self.errors = [entry.error for entry in self._entries.values() if entry.error is not None]

    def discard(self) -> None:
        """Leave no trace."""
        for entry in self._entries.values():
            if entry.file is not None:
                entry.file.discard()
                entry.file = None

    def _prepare(self, index: str, entry: Entry) -> None:
        if entry.error is not None:
            return
        if entry.path is None:
            raise InvalidBodyError(f"files[{index}].path is missing")
        if not entry.sent:
            raise InvalidBodyError(f"files[{index}].file is missing: {decode(entry.path)}")
        assert entry.file is not None
        if entry.unnamed:
            entry.file = entry.file.named(self._resolve(entry.path))
        entry.file.make_parents()

    def _resolve(self, path: bytes) -> bytes:
        return resolve(decode(path), self._workdir)

    @contextmanager
    def _errors_of(self, entry: Entry) -> Iterator[None]:
        """Note what goes wrong with one file and drop it; a full disk concerns them all."""
        text = decode(entry.path) if entry.path is not None else "file"
        try:
            with _about(text):
                yield
        except DiskFullError:
            raise
        except ToolboxError as error:
            entry.error = error
            if entry.file is not None:
                entry.file.discard()
                entry.file = None
