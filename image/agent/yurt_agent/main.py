"""The agent's life: listen, take the assignment, become the sandbox's user, serve, stop.

The runner speaks to it over three pipes. Standard input brings one JSON object a line; standard
output takes single bytes: ``L`` listening, ``R`` ready, ``U`` the image has no such user; standard
error is the log.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys

from yurt_agent.routes import Application
from yurt_agent.server import Server

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Coroutine, Mapping

    from yurt_agent.user import Identity

PORT = 2280
STOP_SECONDS = 5.0
"""Time for the user's processes to end by themselves."""

ORDERS, EVENTS = 0, 1
READ_BYTES = 1 << 16


class Agent:
    """What the runner's orders do."""

    def __init__(self, application: Application, server: Server) -> None:
        self._application = application
        self._server = server
        self._loop = asyncio.get_running_loop()
        self._line = b""
        self._tasks: set[asyncio.Task[None]] = set()
        self._assigned = False
        self._stopping = False
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
            return
        *lines, self._line = (self._line + data).split(b"\n")
        for line in lines:
            self._obey(line)

    def _obey(self, line: bytes) -> None:
        # Imported after we listen: the runner needs the time between to write its order.
        import json

        order = json.loads(line)
        if order["op"] == "stop":
            self.stop()
        elif order["op"] == "assign" and not self._assigned:
            self._assigned = True
            self._spawn(self._assign(order))

    async def _assign(self, order: Mapping[str, object]) -> None:
        from yurt_agent import spawn, user

        try:
            identity = _identity(order)
        except user.UnknownUserError as error:
            sys.stderr.write(f"{error}\n")
            os.write(EVENTS, b"U")
            return
        spawn.prepare()
        user.set_limits()
        user.become(identity.user)
        self._application.assign(str(order["secret"]), identity)
        command = order["entrypoint"]
        if command:
            from yurt_agent import sessions

            sessions.SESSIONS.start_entrypoint(identity, [str(word) for word in _list(command)])
        os.write(EVENTS, b"R")

    def stop(self) -> None:
        """End: no more requests, then the user's processes, then the disk, then we."""
        if not self._stopping:
            self._stopping = True
            self._spawn(self._stop())

    async def _stop(self) -> None:
        await self._server.close()
        if self._assigned:
            from yurt_agent import spawn, user

            await spawn.stop_everything(STOP_SECONDS)
            user.flush_disk()
        self._end(0)

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._settle)

    def _settle(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            # Half an assignment is none, and a stop must stop: the runner sees us end.
            self._loop.call_exception_handler(
                {"message": "an order of the runner failed", "exception": task.exception()}
            )
            self._end(1)

    def _end(self, code: int) -> None:
        if not self.ended.done():
            self.ended.set_result(code)


def _identity(order: Mapping[str, object]) -> Identity:
    from yurt_agent import user

    wanted = user.Accounts.load().user(str(order["user"]))
    # Nothing of our own environment: it is that of the bundle's interpreter.
    built = user.environment(wanted, _strings(order["env"]))
    return user.Identity(wanted, built, user.working_directory(str(order["workdir"]), wanted.home))


def _strings(value: object) -> dict[str, str]:
    assert isinstance(value, dict)
    return {str(name): str(item) for name, item in value.items()}


def _list(value: object) -> list[object]:
    assert isinstance(value, list)
    return value


async def run(port: int) -> None:
    """Listen, say so, and obey until told to stop."""
    application = Application()
    server = Server(application)
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    await server.listen(listener)
    agent = Agent(application, server)
    loop = asyncio.get_running_loop()
    os.set_blocking(ORDERS, False)
    loop.add_reader(ORDERS, agent.read_orders)
    loop.add_signal_handler(signal.SIGTERM, agent.stop)
    os.write(EVENTS, b"L")
    code = await agent.ended
    sys.stderr.flush()
    # Not by way of the interpreter's end: a thread that hangs on a dead mount would hold it up.
    os._exit(code)


def main() -> int:
    """Run the agent; the only argument is the port, for tests."""
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
        signal.signal(number, signal.SIG_DFL)  # ignored ones would stay so in all that we start
    asyncio.run(run(int(sys.argv[1]) if len(sys.argv) > 1 else PORT))
    return 0
