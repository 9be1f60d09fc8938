"""The log of one build: written in pieces, bounded; its end is kept for who hears of a failure."""

from __future__ import annotations

import asyncio
import codecs
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from control.store import BuildLogStore

_FLUSH_SECONDS = 0.5
_MOST_CHARACTERS = 4 << 20
_TAIL = 1200
_CUT = "\n... what comes after this is not kept\n"


class BuildLog:
    """Takes text and bytes; use as an asynchronous context manager."""

    def __init__(self, store: BuildLogStore, snapshot_id: str) -> None:
        self._store, self._snapshot_id = store, snapshot_id
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._waiting: list[str] = []
        self._number = self._written = 0
        self._flushing = asyncio.Lock()
        self.tail = ""

    async def __aenter__(self) -> Self:
        await self._store.clear(self._snapshot_id)
        self._flusher = asyncio.ensure_future(self._flush_for_ever())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._flusher.cancel()
        await asyncio.gather(self._flusher, return_exceptions=True)
        await self._flush()

    def say(self, text: str) -> None:
        """Add a line of our own."""
        self._waiting.append(f"{text}\n")

    async def hear(self, piece: bytes) -> None:
        """Add what a step says."""
        text = self._decoder.decode(piece).replace("\0", "")
        self.tail = (self.tail + text)[-_TAIL:]
        if self._written > _MOST_CHARACTERS:
            return
        self._written += len(text)
        self._waiting.append(text if self._written <= _MOST_CHARACTERS else text + _CUT)

    async def _flush_for_ever(self) -> None:
        while True:
            await asyncio.sleep(_FLUSH_SECONDS)
            await self._flush()

    async def _flush(self) -> None:
        async with self._flushing:
            text = "".join(self._waiting)
            if text:
                self._waiting.clear()
                await self._store.append(self._snapshot_id, self._number, text)
                self._number += 1
