"""``typing.override`` for Python 3.11, which lacks it; type checkers see the real one."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing_extensions import override as override
else:

    def override(method: object) -> object:
        """Mark a method as overriding one of a base class."""
        return method
