"""The agent with its user: serve, until the runner has it stop."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys

from yurt_agent import user
from yurt_agent.main import ORDERS, READ_BYTES
from yurt_agent.routes import Application
from yurt_agent.server import Server

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import NoReturn

    from yurt_agent.user import Identity

STOP_SECONDS = 5.0
"""Time for the user's processes to end by themselves."""


class Agent:
    """What the runner's orders do."""

    def __init__(self, server: Server, line: bytes) -> None:
        """Prepare; ``line`` is the begin of the next order."""
        self._server = server
        self._loop = asyncio.get_running_loop()
        self._line = line
        self._stopping: asyncio.Task[None] | None = None
        self.ended: asyncio.Future[int] = self._loop.create_future()

    def read_orders(self) -> None:
        """Take what the runner wrote; its end means stop."""
        try:
            data = os.read(ORDERS, READ_BYTES)
        except BlockingIOError:
            return
        if not data:
            self._loop.remove_reader(ORDERS)
            self.stop()
        self.obey(data)

    def obey(self, data: bytes) -> None:
        """Do what whole lines say; the rest is kept."""
        *lines, self._line = (self._line + data).split(b"\n")
        for line in lines:
            if json.loads(line)["op"] == "stop":
                self.stop()

    def stop(self) -> None:
        """End: no more requests, then the user's processes, then the disk, then we."""
        if self._stopping is None:
            self._stopping = self._loop.create_task(self._stop())
            self._stopping.add_done_callback(self._end)

    async def _stop(self) -> None:
        from yurt_agent import spawn

        await self._server.close()
        await spawn.stop_everything(STOP_SECONDS)
        user.flush_disk()

    def _end(self, stopping: asyncio.Task[None]) -> None:
        # A stop must stop: the runner sees us end.
        error = stopping.exception()
        if error is not None:
            self._loop.call_exception_handler(
                {"message": "an order of the runner failed", "exception": error}
            )
        self.ended.set_result(0 if error is None else 1)


async def _serve(
    listener: int, order: Mapping[str, object], identity: Identity, line: bytes
) -> NoReturn:
    server = Server(Application(str(order["secret"]), identity))
    await server.listen(socket.socket(fileno=listener))
    agent = Agent(server, line)
    loop = asyncio.get_running_loop()
    os.set_blocking(ORDERS, False)
    loop.add_reader(ORDERS, agent.read_orders)
    loop.add_signal_handler(signal.SIGTERM, agent.stop)
    command = order["entrypoint"]
    if command:
        from yurt_agent import sessions

        assert isinstance(command, list)
        sessions.SESSIONS.start_entrypoint(identity, [str(word) for word in command])
    agent.obey(b"")
    code = await agent.ended
    sys.stderr.flush()
    # Not by way of the interpreter's end: a thread that hangs on a dead mount would hold it up.
    os._exit(code)


def run(listener: int, order: Mapping[str, object], identity: Identity, line: bytes) -> NoReturn:
    """Serve the socket ``listener``, as ``order`` assigned it; ``line`` begins the next one."""
    asyncio.run(_serve(listener, order, identity, line))
    raise AssertionError("it ends by itself")
