"""JSON answers with members too long to be put together in memory."""

from __future__ import annotations

import asyncio
import codecs
import json

from yurt_agent.http import Response, StreamResponse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterator, Mapping

LIMIT = 16 << 20
"""Bytes of output that an answer holds; of more, the last ones, with a notice."""

INLINE = 64 << 10
"""Bytes of output up to which an answer is put together, so that it has a length."""


class LongText:
    """A string that is read piece by piece, as UTF-8; what is not becomes U+FFFD."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces

    def encoded(self) -> Iterator[bytes]:
        """Yield the JSON string."""
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        yield b'"'
        for piece in self._pieces:
            yield _escaped(decoder.decode(piece))
        yield _escaped(decoder.decode(b"", True)) + b'"'


def _escaped(text: str) -> bytes:
    return json.dumps(text)[1:-1].encode()


def json_object(members: Mapping[str, object], size: int) -> Response:
    """Answer with an object.

    Args:
        members: values by name, some of which may be ``LongText``.
        size: how many bytes the long ones have, about; decides how it is sent.
    """
    if size > INLINE:
        return StreamResponse(sent(_encoded(members)), content_type="application/json")
    return Response(b"".join(_encoded(members)), content_type="application/json")


def _encoded(members: Mapping[str, object]) -> Iterator[bytes]:
    separator = b"{"
    for name, value in members.items():
        yield separator + json.dumps(name).encode() + b":"
        if isinstance(value, LongText):
            yield from value.encoded()
        else:
            yield json.dumps(value).encode()
        separator = b","
    yield b"}"


async def sent(pieces: Iterator[bytes]) -> AsyncGenerator[bytes, None]:
    """Yield the pieces; everything else gets its turn between them, however fast they go."""
    for piece in pieces:
        yield piece
        await asyncio.sleep(0)
