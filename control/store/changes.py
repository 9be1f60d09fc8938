"""Hear from PostgreSQL which sandboxes others changed; a trigger tells (migrations).

Ids only, each once however often it changed: who hears one reads the record. Who wrote knows, so
what came over connections of our own is left out: to look again at that would never end.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

import asyncpg  # type: ignore[import-untyped]

from control.errors import UnavailableError
from control.naming import SandboxId

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Container

logger = logging.getLogger(__name__)

CHANNEL = "yurt_sandboxes"
_AGAIN_SECONDS = 1.0
_ASK_SECONDS = 15.0  # a connection that was cut without a word looks like one without news
_LOST = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError)


async def changes(
    connect: Callable[[], Awaitable[Any]], own: Container[int]
) -> AsyncIterator[SandboxId]:
    """See ``Store.changes``; ``own`` has the servers' process ids of our connections."""
    was_lost = False
    while True:
        try:
            connection = await connect()
        except UnavailableError as error:
            logger.warning("hear of no changes", extra={"reason": str(error)})
            await asyncio.sleep(_AGAIN_SECONDS)
        else:
            try:
                async for sandbox_id in _heard(connection, own, everything=was_lost):
                    yield sandbox_id
            except _LOST as error:
                logger.warning("lost the connection that tells changes", exc_info=error)
            finally:
                connection.terminate()
        was_lost = True


async def _heard(
    connection: Any, own: Container[int], *, everything: bool
) -> AsyncIterator[SandboxId]:
    news: dict[SandboxId, None] = {}
    rang = asyncio.Event()

    def hear(_connection: object, pid: int, _channel: str, sandbox_id: str) -> None:
        if pid not in own:
            news[SandboxId(sandbox_id)] = None
            rang.set()

    connection.add_termination_listener(lambda _: rang.set())
    await connection.add_listener(CHANNEL, hear)
    if everything:
        for row in await connection.fetch("SELECT id FROM sandboxes"):
            news[SandboxId(row["id"])] = None
    while not connection.is_closed():
        while news:
            sandbox_id = next(iter(news))
            del news[sandbox_id]
            yield sandbox_id
        rang.clear()
        try:
            async with asyncio.timeout(_ASK_SECONDS):
                await rang.wait()
        except TimeoutError:
            await connection.execute("SELECT 1")
