"""The nodes that sandboxes run on, as far as control must know them: by their keys."""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING

from control.model import Node

if TYPE_CHECKING:
    from datetime import datetime

    from control.store import NodeStore


class Nodes:
    """Which nodes have joined, and with which key; messages of others are not taken."""

    def __init__(self, store: NodeStore) -> None:
        self._store = store

    async def key(self, name: str) -> bytes | None:
        """Return what the messages of a node are sealed with; None if it has not joined."""
        node = await self._store.get(name)
        return None if node is None else node.key

    async def join(self, name: str, key: bytes, now: datetime) -> None:
        """Take messages from a node that are sealed with this key, and with no older one."""
        known = await self._store.get(name)
        if known is None or not hmac.compare_digest(known.key, key):
            await self._store.put(Node(name, key, now))
