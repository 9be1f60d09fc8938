"""How many may do something long at once."""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING

from control.errors import UnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator


class Turns:
    """So many at once on each node, and not so many in all that nothing else is done."""

    def __init__(self, *, each: int, most: int) -> None:
        """Prepare: ``each`` on one node, ``most`` in all."""
        self._each, self._most = each, most
        self._taken: Counter[str] = Counter()

    @contextmanager
    def take(self, node: str) -> Iterator[None]:
        """Have a turn on a node.

        Raises:
            UnavailableError: others come first; nobody waits here, as a worker would with them.
        """
        if self._taken[node] >= self._each or self._taken.total() >= self._most:
            raise UnavailableError("others are archived first")
        self._taken[node] += 1
        try:
            yield
        finally:
            self._taken[node] -= 1
