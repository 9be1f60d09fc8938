"""The filter expressions of Nomad's lists, as far as a scheduler may need them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

Json = dict[str, Any]
_TOKEN = re.compile(r'\s*("(?:[^"\\]|\\.)*"|`[^`]*`|==|!=|[()]|[\w.\-/]+)')
_OPERANDS: dict[str, Callable[[Any, str], bool]] = {
    "==": lambda value, text: _plain(value) == text,
    "!=": lambda value, text: _plain(value) != text,
    "contains": lambda value, text: text in (value or ()),
    "matches": lambda value, text: re.search(text, _plain(value)) is not None,
}


class FilterError(Exception):
    """The expression is none, or names a field that is not there; the text is for the answer."""


def matching(expression: str, records: list[Json]) -> list[Json]:
    """Keep what an expression is true of.

    Raises:
        FilterError: as its class says.
    """
    tokens = _tokens(expression)
    return [record for record in records if _Reader(list(tokens), record).whole()]


def _tokens(expression: str) -> list[str]:
    tokens, at = [], 0
    while at < len(expression.rstrip()):
        if (token := _TOKEN.match(expression, at)) is None:
            raise FilterError(_unreadable(at))
        tokens.append(token[1])
        at = token.end()
    return tokens


def _unreadable(at: int) -> str:
    return (
        "failed to create result paginator: failed to read filter expression:"
        f" 1:{at + 1} ({at}): no match found"
    )


class _Reader:
    def __init__(self, tokens: list[str], record: Json) -> None:
        self._tokens, self._record = tokens, record

    def whole(self) -> bool:
        value = self._either()
        if self._tokens:
            raise FilterError(_unreadable(0))
        return value

    def _either(self) -> bool:
        value = self._both()
        while self._accept("or"):
            value = self._both() or value
        return value

    def _both(self) -> bool:
        value = self._one()
        while self._accept("and"):
            value = self._one() and value
        return value

    def _one(self) -> bool:
        if self._accept("not"):
            return not self._one()
        if self._accept("("):
            value = self._either()
            self._take()
            return value
        found = _select(self._record, self._take())
        wanted = not self._accept("not")
        if (operand := _OPERANDS.get(self._take())) is None:
            raise FilterError(_unreadable(0))
        return operand(found, self._take().strip('"`')) is wanted

    def _accept(self, token: str) -> bool:
        if self._tokens[:1] == [token]:
            self._tokens.pop(0)
            return True
        return False

    def _take(self) -> str:
        if not self._tokens:
            raise FilterError(_unreadable(0))
        return self._tokens.pop(0)


def _select(record: Json, name: str) -> Any:
    first, *rest = name.split(".")
    if first not in record:
        raise FilterError(
            f"failed to read result page: error finding value in datum: /{first} at part 0:"
            f' couldn\'t find key: struct field with name "{first}"'
        )
    value = record[first]
    for part in rest:
        value = (value or {}).get(part)
    return value


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return "" if value is None else str(value)
