"""Terminals: interactive shells on pseudo-terminals, each seen by any number of clients.

A terminal goes on when its clients leave. What it prints while nobody looks is kept, up to a
bound, and shown to the next client.
"""

from __future__ import annotations

import asyncio
import base64
import fcntl
import json
import os
import struct
import termios
from datetime import UTC, datetime

from yurt_agent import spawn
from yurt_agent.errors import BadRequestError, ConflictError, GoneError, NotFoundError
from yurt_agent.fields import flag, number, text, text_map
from yurt_agent.http import DisconnectedError, Request, Response

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from yurt_agent.user import Identity
    from yurt_agent.websocket import WebSocket

COLUMNS, ROWS = 80, 24
LARGEST_SIZE = 1000
EXIT_CONTROL = "X-Daytona-Pty-Exit-Control"
_ENVS = "X-Daytona-Pty-Envs~"
_UNSEEN_LIMIT = 64 << 10
_QUEUE_LIMIT = 4 << 20
_READ = 1 << 16
_CLOSE_OK, _CLOSE_SLOW, _CLOSE_EXITED = 1000, 1013, 4000


class Viewer:
    """One attached client; output waits for it in a queue of bounded size."""

    def __init__(self, socket: WebSocket) -> None:
        self.socket = socket
        self._queue: asyncio.Queue[bytes] = asyncio.Queue()
        self._waiting = 0

    def show(self, data: bytes) -> bool:
        """Queue output; False if this client is too slow for it."""
        self._waiting += len(data)
        self._queue.put_nowait(data)
        return self._waiting <= _QUEUE_LIMIT

    async def send_all(self) -> None:
        """Send what is queued, for ever; an empty piece ends it."""
        while data := await self._queue.get():
            self._waiting -= len(data)
            await self.socket.send(data)


class Terminal:
    """A shell on a pseudo-terminal."""

    def __init__(
        self,
        name: str,
        identity: Identity,
        *,
        cwd: str,
        envs: Mapping[str, str],
        size: tuple[int, int],
        lazy: bool,
    ) -> None:
        self.id, self.cwd, self.envs, self.lazy = name, cwd, dict(envs), lazy
        self.columns, self.rows = size
        self.exit_code: int | None = None
        self._identity = identity
        self._created_at = datetime.now(UTC).isoformat()
        self._fd = -1
        self._program: spawn.Program | None = None
        self._ending: asyncio.Task[None] | None = None
        self._viewers: list[Viewer] = []
        self._unseen = b""
        self._exited = asyncio.Event()

    @property
    def active(self) -> bool:
        """Whether its shell runs, or is yet to be started."""
        return self.exit_code is None

    def describe(self) -> dict[str, object]:
        """Return it as the wire shows it."""
        return {
            "id": self.id,
            "cwd": self.cwd,
            "envs": self.envs,
            "cols": self.columns,
            "rows": self.rows,
            "createdAt": self._created_at,
            "active": self.active,
            "lazyStart": self.lazy,
        }

    def start(self) -> None:
        """Start the shell, unless it was started before."""
        if self._program is not None:
            return
        environment = {
            "TERM": "xterm-256color",
            **self._identity.environment,
            **self.envs,
        }
        self._fd, inner = os.openpty()
        os.set_blocking(self._fd, False)
        self._set_size()
        wanted = self._identity.user.shell
        shell = wanted if os.access(wanted, os.X_OK) else spawn.shell(environment)
        try:
            self._program = spawn.start(
                [shell, "-l", "-i"],
                environment=environment,
                cwd=self.cwd,
                streams=(inner, inner, inner),
                before=_take_terminal,
            )
        finally:
            os.close(inner)
        loop = asyncio.get_running_loop()
        loop.add_reader(self._fd, self._read)
        self._ending = loop.create_task(self._until_end(self._program))

    def _read(self) -> None:
        try:
            data = os.read(self._fd, _READ)
        except BlockingIOError:
            return
        except OSError:
            data = b""  # EIO: the last process has let go of the terminal
        if not data:
            asyncio.get_running_loop().remove_reader(self._fd)
            return
        self._show(data)

    def _show(self, data: bytes) -> None:
        if not self._viewers:
            self._unseen = (self._unseen + data)[-_UNSEEN_LIMIT:]
        for viewer in list(self._viewers):
            if not viewer.show(data):
                self._viewers.remove(viewer)  # its task sees it and closes

    async def _until_end(self, program: spawn.Program) -> None:
        code = await program.wait()
        self._read()
        asyncio.get_running_loop().remove_reader(self._fd)
        os.close(self._fd)
        self._fd = -1
        self.exit_code = code
        self._exited.set()

    def type(self, data: bytes) -> None:
        """Give keystrokes to the shell; what a terminal does not take is lost, as on a real one."""
        if self._fd >= 0:
            try:
                os.write(self._fd, data)
            except BlockingIOError:
                return

    def resize(self, columns: int, rows: int) -> None:
        """Change the size; the shell is told by the kernel.

        Raises:
            GoneError: the shell has ended.
        """
        if not self.active:
            raise GoneError(f"terminal {self.id!r} has ended", code="SESSION_ENDED")
        self.columns, self.rows = columns, rows
        self._set_size()

    def _set_size(self) -> None:
        if self._fd >= 0:
            size = struct.pack("HHHH", self.rows, self.columns, 0, 0)
            fcntl.ioctl(self._fd, termios.TIOCSWINSZ, size)

    async def attach(self, socket: WebSocket) -> None:
        """Serve one client until it leaves or the shell ends."""
        viewer = Viewer(socket)
        if self._unseen:
            viewer.show(self._unseen)
            self._unseen = b""
        self._viewers.append(viewer)
        tasks = {
            asyncio.ensure_future(work)
            for work in (viewer.send_all(), self._take_keys(socket), self._exited.wait())
        }
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if self._exited.is_set():
                await self._say_goodbye(viewer)
            elif viewer not in self._viewers:
                await socket.close(_CLOSE_SLOW, "this client is too slow for the output")
        except DisconnectedError:
            return
        finally:
            if viewer in self._viewers:
                self._viewers.remove(viewer)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _say_goodbye(self, viewer: Viewer) -> None:
        viewer.show(b"")
        await viewer.send_all()
        ended = {"exitCode": self.exit_code}
        socket = viewer.socket
        if socket.subprotocol == EXIT_CONTROL:
            await socket.send(json.dumps({"type": "control", "status": "exited", **ended}))
        code = _CLOSE_OK if self.exit_code == 0 else _CLOSE_EXITED
        await socket.close(code, json.dumps(ended))

    async def _take_keys(self, socket: WebSocket) -> None:
        while (keys := await socket.receive()) is not None:
            self.type(keys.encode() if isinstance(keys, str) else keys)

    async def close(self) -> None:
        """Kill the shell and all of its session, also what was disowned."""
        if self._program is not None:
            await self._program.kill_tree()
            assert self._ending is not None
            await self._ending
        elif self.active:
            self.exit_code = spawn.NOT_STARTED
            self._exited.set()


def _take_terminal() -> None:
    """Make the terminal the controlling one of the new session."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


class Terminals:
    """All terminals of the sandbox."""

    def __init__(self) -> None:
        self._terminals: dict[str, Terminal] = {}

    def listed(self) -> list[Terminal]:
        """Return those whose shells have not ended."""
        return [terminal for terminal in self._terminals.values() if terminal.active]

    def get(self, name: str) -> Terminal:
        """Return a terminal.

        Raises:
            NotFoundError: there is none of that id.
        """
        if name not in self._terminals:
            raise NotFoundError(f"terminal {name!r} not found")
        return self._terminals[name]

    def add(self, terminal: Terminal) -> None:
        """Keep a new terminal; an ended one of the same id makes room.

        Raises:
            ConflictError: the id is taken.
        """
        known = self._terminals.get(terminal.id)
        if known is not None and known.active:
            raise ConflictError(f"terminal {terminal.id!r} already exists")
        if not terminal.lazy:
            terminal.start()
        self._terminals[terminal.id] = terminal

    async def delete(self, name: str) -> None:
        """End a terminal."""
        terminal = self.get(name)
        del self._terminals[name]
        await terminal.close()

    async def stop_everything(self, _grace_seconds: float) -> None:
        """End every terminal; closing a terminal gives its programs no time, as on a real one."""
        await asyncio.gather(*(self.delete(name) for name in list(self._terminals)))


TERMINALS = Terminals()


async def list_terminals(_request: Request) -> Response:
    """Answer ``GET /process/pty``."""
    return Response.json({"sessions": [t.describe() for t in TERMINALS.listed()]})


async def create_terminal(request: Request) -> Response:
    """Answer ``POST /process/pty``."""
    body = await request.json()
    name = text(body, "id")
    if not name:
        raise BadRequestError("id must not be empty")
    size = (number(body, "cols", COLUMNS) or COLUMNS, number(body, "rows", ROWS) or ROWS)
    TERMINALS.add(
        _new(
            request,
            name,
            cwd=text(body, "cwd", ""),
            envs=text_map(body, "envs"),
            size=size,
            lazy=flag(body, "lazyStart"),
        )
    )
    return Response.json({"sessionId": name}, 201)


def _new(
    request: Request,
    name: str,
    *,
    cwd: str,
    envs: Mapping[str, str],
    size: tuple[float, float],
    lazy: bool = False,
) -> Terminal:
    spawn.check_environment(envs)
    return Terminal(
        name,
        request.identity,
        cwd=spawn.check_cwd(cwd, request.identity.workdir),
        envs=envs,
        size=_checked_size(*size),
        lazy=lazy,
    )


def _checked_size(columns: float, rows: float) -> tuple[int, int]:
    for name, value in (("cols", columns), ("rows", rows)):
        if not (value == int(value) and 1 <= value <= LARGEST_SIZE):
            raise BadRequestError(f"{name} must be a whole number from 1 to {LARGEST_SIZE}")
    return int(columns), int(rows)


async def get_terminal(request: Request) -> Response:
    """Answer ``GET /process/pty/{terminal}``."""
    return Response.json(TERMINALS.get(request.params["terminal"]).describe())


async def delete_terminal(request: Request) -> Response:
    """Answer ``DELETE /process/pty/{terminal}``."""
    name = request.params["terminal"]
    await TERMINALS.delete(name)
    return Response.json({"message": f"terminal {name} ended"})


async def resize_terminal(request: Request) -> Response:
    """Answer ``POST /process/pty/{terminal}/resize``."""
    terminal = TERMINALS.get(request.params["terminal"])
    body = await request.json()
    terminal.resize(*_checked_size(number(body, "cols"), number(body, "rows")))
    return Response.json(terminal.describe())


async def connect_terminal(request: Request) -> None:
    """Answer the WebSocket ``GET /process/pty/{terminal}/connect``."""
    terminal = TERMINALS.get(request.params["terminal"])
    if not terminal.active:
        raise GoneError(f"terminal {terminal.id!r} has ended", code="SESSION_ENDED")
    await _attach(request, terminal)


async def create_connect(request: Request) -> None:
    """Answer the WebSocket ``GET /process/pty/create-connect``: make a terminal and attach."""
    name = request.first("id") or os.urandom(12).hex()
    offered = request.headers.get("sec-websocket-protocol", "").split(",")
    size = (_whole(request, "cols", COLUMNS), _whole(request, "rows", ROWS))
    terminal = _new(request, name, cwd=request.first("cwd"), envs=_offered_envs(offered), size=size)
    TERMINALS.add(terminal)
    await _attach(request, terminal)


def _whole(request: Request, name: str, default: int) -> int:
    value = request.first(name) or str(default)
    if not (value.isascii() and value.isdigit()):
        raise BadRequestError(f"{name} must be a whole number from 1 to {LARGEST_SIZE}")
    return int(value)


def _offered_envs(offered: Sequence[str]) -> dict[str, str]:
    """Read the environment that a client passes as a subprotocol, for want of a body."""
    for name in offered:
        if not name.strip().startswith(_ENVS):
            continue
        encoded = name.strip().removeprefix(_ENVS)
        try:
            value = json.loads(base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4)))
        except ValueError as error:
            raise BadRequestError(f"malformed environment in the subprotocol: {error}") from error
        if not isinstance(value, dict):
            raise BadRequestError("the environment in the subprotocol is no object")
        return text_map({"envs": value}, "envs")
    return {}


def _choose(offered: Sequence[str]) -> str | None:
    """Answer with the exit control if it is offered, else with whatever comes first."""
    return EXIT_CONTROL if EXIT_CONTROL in offered else next(iter(offered), None)


async def _attach(request: Request, terminal: Terminal) -> None:
    socket = await request.websocket(_choose)
    try:
        terminal.start()
    except OSError as error:
        await socket.send(json.dumps({"type": "control", "status": "error", "error": str(error)}))
        await socket.close(1011, "the terminal could not be started")
        return
    await socket.send(json.dumps({"type": "control", "status": "connected"}))
    await terminal.attach(socket)
