"""Read members of a JSON body, with an error that names the member."""

from __future__ import annotations

from yurt_agent.errors import InvalidBodyError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping


def text(body: Mapping[str, object], name: str, default: str | None = None) -> str:
    """Return a string; a missing or null one is ``default``, or an error where there is none."""
    value = body.get(name)
    if value is None and default is not None:
        return default
    if not isinstance(value, str):
        raise InvalidBodyError(f"{name} must be a string")
    return value


def number(body: Mapping[str, object], name: str, default: float | None = None) -> float:
    """Return a finite number; a missing or null one is ``default``, or an error."""
    value = body.get(name)
    if value is None and default is not None:
        return default
    # bool is an int in Python, and json.loads takes NaN and Infinity.
    if isinstance(value, bool) or not isinstance(value, int | float) or value - value != 0:
        raise InvalidBodyError(f"{name} must be a number")
    return value


def flag(body: Mapping[str, object], name: str, default: bool = False) -> bool:
    """Return a boolean; a missing or null one is ``default``."""
    value = body.get(name)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise InvalidBodyError(f"{name} must be true or false")
    return value


def texts(body: Mapping[str, object], name: str) -> list[str]:
    """Return a list of strings; a missing or null one is empty."""
    value = body.get(name)
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise InvalidBodyError(f"{name} must be a list of strings")
    return value


def text_map(body: Mapping[str, object], name: str) -> dict[str, str]:
    """Return an object whose values are strings; a missing or null one is empty."""
    value = body.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(item, str) for item in value.values()):
        raise InvalidBodyError(f"{name} must be an object of strings")
    return value
