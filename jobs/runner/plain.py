"""JSON by the interpreter's own scanner and encoder, in C.

The ``json`` module over them loads regular expressions and enumerations: 12 ms of every start.
Errors are those of ``json``, and load it.
"""

from __future__ import annotations

import _json

_BLANK = " \t\n\r"


class _Context:
    """What the scanner asks for: JSON as it is."""

    strict = True
    object_hook = object_pairs_hook = None
    parse_float, parse_int, parse_constant = float, int, float


def _unknown(value: object) -> object:
    raise TypeError(f"{type(value).__name__} is no JSON")


_scan = _json.make_scanner(_Context)  # type: ignore[arg-type]
_encode = _json.make_encoder(
    None, _unknown, _json.encode_basestring_ascii, None, ": ", ", ", False, False, False
)


def loads(text: str | bytes) -> Any:
    """Parse a JSON text.

    Raises:
        ValueError: it is none.
    """
    text = (text if isinstance(text, str) else text.decode()).strip(_BLANK)
    try:
        value, end = _scan(text, 0)
    except StopIteration:
        raise ValueError(f"not JSON: {text[:100]!r}") from None
    if end != len(text):
        raise ValueError(f"something follows after JSON: {text[end:][:100]!r}")
    return value


def dumps(value: object) -> str:
    """Write a JSON text, in ASCII.

    Raises:
        TypeError: something in it is no JSON.
    """
    return "".join(_encode(value, 0))


TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any
