"""Multipart forms, streamed: python-multipart finds the parts, a receiver gets their bytes.

Imported at the first form. Headers are bounded; contents are never held.
"""

from __future__ import annotations

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from yurt_agent.errors import InvalidBodyError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    class Receiver(Protocol):
        """What becomes of the parts of a form."""

        def begin(self, field: str) -> None:
            """Begin a part."""

        def data(self, piece: memoryview) -> None:
            """Take bytes of it; ``piece`` is valid during the call only."""

        def end(self) -> None:
            """End it."""

        def finish(self) -> None:
            """End the form: it is complete."""

        def discard(self) -> None:
            """Leave no trace of what came so far."""


HEADER_BYTES = 32 << 10
"""Longest header of a part; a file name may be a path of 4 KiB with three characters a byte."""


class Form:
    """Parses one form into a receiver."""

    def __init__(self, content_type: str, receiver: Receiver) -> None:
        """Begin with the request's Content-Type, which names the boundary.

        Raises:
            InvalidBodyError: it does not.
        """
        kind, options = parse_options_header(content_type)
        boundary = options.get(b"boundary")
        if not kind.startswith(b"multipart/") or not boundary:
            raise InvalidBodyError("the body must be multipart/form-data with a boundary")
        self._receiver = receiver
        self._name = b""
        self._value = b""
        self._field: str | None = None
        self._ended = False
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._on_begin,
                    "on_header_field": self._on_name,
                    "on_header_value": self._on_value,
                    "on_header_end": self._on_header,
                    "on_headers_finished": self._on_headers,
                    "on_part_data": self._on_data,
                    "on_part_end": self._on_end,
                    "on_end": self._on_finish,
                },
                max_header_size=HEADER_BYTES,
            )
        except FormParserError as error:
            raise InvalidBodyError(f"the body is no form: {error}") from error

    def feed(self, chunks: list[bytes]) -> None:
        """Parse the next bytes.

        Raises:
            InvalidBodyError: this is no form.
        """
        for chunk in chunks:
            try:
                self._parser.write(chunk)
            except FormParserError as error:
                raise InvalidBodyError(f"the body is no form: {error}") from error

    def finish(self) -> None:
        """End the form.

        Raises:
            InvalidBodyError: its closing boundary is missing.
        """
        if not self._ended:
            raise InvalidBodyError("the form ends in the middle: its closing boundary is missing")
        self._receiver.finish()

    def discard(self) -> None:
        """Give up."""
        self._receiver.discard()

    def _on_begin(self) -> None:
        self._field = None
        self._name = self._value = b""

    def _on_name(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def _on_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _on_header(self) -> None:
        if self._name.lower() == b"content-disposition":
            _, options = parse_options_header(self._value)
            self._field = options.get(b"name", b"").decode("utf-8", "replace")
        self._name = self._value = b""

    def _on_headers(self) -> None:
        if self._field is None:
            raise InvalidBodyError("a part of the form has no name")
        self._receiver.begin(self._field)

    def _on_data(self, data: bytes, start: int, end: int) -> None:
        self._receiver.data(memoryview(data)[start:end])

    def _on_end(self) -> None:
        self._receiver.end()

    def _on_finish(self) -> None:
        self._ended = True
