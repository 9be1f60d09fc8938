"""Sending answers: heads, bodies, chunks and files, as fast as the client takes them."""

from __future__ import annotations

import asyncio

from yurt_agent.http import REASONS, DisconnectedError, FileSlice, StreamResponse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from yurt_agent.http import Request, Response

SENDFILE_BYTES = 1 << 20
"""Bytes given to the kernel at once: a fast reader would keep one call busy for seconds."""


class CutShortError(Exception):
    """An answer cannot be completed as announced, e.g. because the file shrank meanwhile."""


class Sender:
    """The way out of one connection."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self._writable: asyncio.Future[None] | None = None

    def pause(self) -> None:
        """Hold who sends: the client reads slower than we write."""
        self._writable = self._loop.create_future()

    def resume(self) -> None:
        """Let them go on."""
        if self._writable is not None:
            self._writable.set_result(None)
            self._writable = None

    def write(self, data: bytes) -> None:
        """Queue bytes; follow it by ``drain``."""
        self._transport.write(data)

    async def drain(self) -> None:
        """Wait until the client has taken enough of what was written.

        Raises:
            DisconnectedError: it never will.
        """
        if self._writable is not None:
            # Not awaited itself: several may wait, and one that is cancelled would cancel it.
            await asyncio.wait((self._writable,))
        if self._transport.is_closing():
            raise DisconnectedError("the client went away")

    async def send(self, request: Request, response: Response) -> None:
        """Send an answer.

        Raises:
            DisconnectedError: the client went away.
            CutShortError: the answer turned out otherwise than announced; cut the connection.
        """
        if isinstance(response, StreamResponse):
            await self._stream(request, response)
            return
        length = None if response.status == 204 else len(response.body)
        head = _head(request, response, length, chunked=False)
        self.write(head if request.head_only else head + response.body)
        await self.drain()

    async def _stream(self, request: Request, response: StreamResponse) -> None:
        chunked = response.length is None and request.chunks
        if response.length is None and not request.chunks:
            request.keep_alive = False
        try:
            self.write(_head(request, response, response.length, chunked=chunked))
            if not request.head_only:
                await self._send_pieces(response, chunked=chunked)
            await self.drain()
        finally:
            await response.pieces.aclose()

    async def _send_pieces(self, response: StreamResponse, *, chunked: bool) -> None:
        left = response.length
        async for piece in response.pieces:
            size = piece.size if isinstance(piece, FileSlice) else len(piece)
            if left is not None:
                left -= size
                if left < 0:
                    raise CutShortError("more bytes than announced")
            if size > 0:
                await self._send_piece(piece, size, chunked=chunked)
        if left:
            raise CutShortError(f"{left} bytes fewer than announced")
        if chunked:
            self.write(b"0\r\n\r\n")

    async def _send_piece(self, piece: bytes | FileSlice, size: int, *, chunked: bool) -> None:
        if chunked:
            self.write(b"%x\r\n" % size)
        if isinstance(piece, FileSlice):
            await self._send_file(piece)
        else:
            self.write(piece)
        if chunked:
            self.write(b"\r\n")
        await self.drain()

    async def _send_file(self, piece: FileSlice) -> None:
        offset, end = piece.offset, piece.offset + piece.size
        while offset < end:
            await self.drain()
            count = min(SENDFILE_BYTES, end - offset)
            sent = await self._loop.sendfile(self._transport, piece.file, offset, count)
            if sent < count:
                raise CutShortError("the file shrank while it was read")
            offset += sent


def _head(request: Request, response: Response, length: int | None, *, chunked: bool) -> bytes:
    lines = [f"HTTP/1.1 {response.status} {REASONS.get(response.status, '')}"]
    lines += [f"{name}: {value}" for name, value in response.headers.items()]
    if chunked:
        lines.append("Transfer-Encoding: chunked")
    elif length is not None:
        lines.append(f"Content-Length: {length}")
    if not request.keep_alive:
        lines.append("Connection: close")
    for line in lines:
        if "\r" in line or "\n" in line:
            raise CutShortError(f"line break in a header: {line!r}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
