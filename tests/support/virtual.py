"""An event loop whose time passes at once: where everybody waits, it is already later."""

from __future__ import annotations

import asyncio
import selectors
from typing import TYPE_CHECKING, TypeVar

from jobs.runner.gate_typing import override

if TYPE_CHECKING:
    from collections.abc import Coroutine

T = TypeVar("T")


def virtual_time() -> float:
    """Return the running loop's time in seconds; 0 before there is one."""
    try:
        return asyncio.get_running_loop().time()
    except RuntimeError:
        return 0.0


class _Skipping(selectors.SelectSelector):
    skipped = 0.0

    @override
    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise AssertionError("everybody waits for ever")
        self.skipped += max(timeout, 0.0)
        return super().select(0)


class _Loop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._skipping = _Skipping()
        super().__init__(self._skipping)

    @override
    def time(self) -> float:
        return self._skipping.skipped


def run_virtually(work: Coroutine[object, object, T]) -> T:
    """Run something that waits for nothing but time."""
    with asyncio.Runner(loop_factory=_Loop) as runner:
        return runner.run(work)
