"""The records of a running instance, for what the wire does not offer yet."""

from __future__ import annotations

import asyncio
import uuid
from dataclasses import replace
from typing import TYPE_CHECKING

from control.model import ORGANIZATION
from control.snapshots import DEFAULT
from control.store.sqlite import open_sqlite
from control.vault import Vault, load_keys

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractAsyncContextManager

    from control.store import Store
    from tests.support.instance import Instance


def opened(instance: Instance) -> AbstractAsyncContextManager[Store]:
    """Open the records beside the server, which goes on."""
    return open_sqlite(instance.data / "yurt.db", Vault(load_keys(instance.data).master_key))


def add_snapshot(instance: Instance, name: str, entrypoint: Sequence[str]) -> None:
    """Add a snapshot like the default one, but with an entrypoint."""

    async def add() -> None:
        async with opened(instance) as store:
            default = await store.snapshots.get(ORGANIZATION, DEFAULT)
            assert default is not None
            made = replace(default, id=str(uuid.uuid4()), name=name, entrypoint=tuple(entrypoint))
            await store.snapshots.put(made)

    asyncio.run(add())
