"""The routes of terminals."""

from __future__ import annotations

import asyncio
import base64
import json
import os

from yurt_agent import spawn
from yurt_agent.errors import BadRequestError, GoneError, ToolboxError, UpgradeRequiredError
from yurt_agent.fields import flag, number, text, text_map
from yurt_agent.http import DisconnectedError, Request, Response
from yurt_agent.terminals import TERMINALS, Plan, Size, Terminal, Viewer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from yurt_agent.websocket import WebSocket

LARGEST_SIZE = 1000
EXIT_CONTROL = "X-Daytona-Pty-Exit-Control"
_ENVS = "X-Daytona-Pty-Envs~"
_CLOSE_OK, _CLOSE_SLOW, _CLOSE_FAILED, _CLOSE_EXITED = 1000, 1008, 1011, 4000


async def list_terminals(_request: Request) -> Response:
    """Answer ``GET /process/pty``."""
    return Response.json({"sessions": [t.describe() for t in TERMINALS.listed()]})


async def create_terminal(request: Request) -> Response:
    """Answer ``POST /process/pty``."""
    body = await request.json()
    default = Size()
    plan = Plan(
        spawn.check_text("id", text(body, "id", "")) or os.urandom(12).hex(),
        spawn.check_cwd(text(body, "cwd", ""), request.identity.workdir),
        _checked_envs(text_map(body, "envs")),
        # Clients send 0 for what they leave open.
        _checked_size(
            number(body, "cols", 0) or default.columns, number(body, "rows", 0) or default.rows
        ),
        flag(body, "lazyStart"),
    )
    _add(request, plan)
    return Response.json({"sessionId": plan.name}, 201)


def _add(request: Request, plan: Plan) -> Terminal:
    try:
        return TERMINALS.add(plan, request.identity)
    except OSError as error:
        raise ToolboxError(f"the terminal's shell could not be run: {error.strerror}") from error


def _checked_envs(envs: Mapping[str, str]) -> Mapping[str, str]:
    spawn.check_environment(envs)
    return envs


def _checked_size(columns: float, rows: float) -> Size:
    for name, value in (("cols", columns), ("rows", rows)):
        if not (value == int(value) and 1 <= value <= LARGEST_SIZE):
            raise BadRequestError(f"{name} must be a whole number from 1 to {LARGEST_SIZE}")
    return Size(int(columns), int(rows))


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
    terminal.resize(_checked_size(number(body, "cols"), number(body, "rows")))
    return Response.json(terminal.describe())


async def connect_terminal(request: Request) -> None:
    """Answer the WebSocket ``GET /process/pty/{terminal}/connect``."""
    terminal = TERMINALS.get(request.params["terminal"])
    if not terminal.active:
        raise GoneError(f"terminal {terminal.id!r} has ended", code="SESSION_ENDED")
    await _serve(await request.websocket(_choose), terminal)


async def create_connect(request: Request) -> None:
    """Answer the WebSocket ``GET /process/pty/create-connect``: make a terminal and attach."""
    if not request.upgrade:
        raise UpgradeRequiredError("connect by WebSocket", headers={"Upgrade": "websocket"})
    default = Size()
    plan = Plan(
        spawn.check_text("id", request.first("id")) or os.urandom(12).hex(),
        spawn.check_cwd(request.first("cwd"), request.identity.workdir),
        _checked_envs(_offered_envs(request)),
        _checked_size(
            _whole(request, "cols") or default.columns, _whole(request, "rows") or default.rows
        ),
    )
    terminal = _add(request, plan)
    await _serve(await request.websocket(_choose), terminal)


def _whole(request: Request, name: str) -> int:
    value = request.first(name) or "0"
    if not (value.isascii() and value.isdigit() and len(value) <= len(str(LARGEST_SIZE))):
        raise BadRequestError(f"{name} must be a whole number from 1 to {LARGEST_SIZE}")
    return int(value)


def _offered_envs(request: Request) -> dict[str, str]:
    """Read the environment that a client passes as a subprotocol, for want of a body."""
    for offered in request.headers.get("sec-websocket-protocol", "").split(","):
        name = offered.strip()
        if not name.startswith(_ENVS):
            continue
        encoded = name.removeprefix(_ENVS)
        try:
            value = json.loads(base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4)))
        except ValueError as error:
            raise BadRequestError(f"malformed environment in the subprotocol: {error}") from error
        return text_map({"envs": value}, "envs")
    return {}


def _choose(offered: Sequence[str]) -> str | None:
    """Answer with the exit control if it is offered, else with whatever comes first."""
    return EXIT_CONTROL if EXIT_CONTROL in offered else next(iter(offered), None)


async def _serve(socket: WebSocket, terminal: Terminal) -> None:
    """Serve one client until it leaves or the terminal ends."""
    try:
        terminal.start()
    except (OSError, ToolboxError) as error:
        await _say(socket, status="error", error=str(error))
        await socket.close(_CLOSE_FAILED, "the terminal's shell could not be run")
        return
    await _say(socket, status="connected")
    viewer = terminal.attach()
    output = asyncio.ensure_future(_send_output(socket, viewer))
    keys = asyncio.ensure_future(_take_keys(socket, terminal))
    try:
        await asyncio.wait((output, keys), return_when=asyncio.FIRST_COMPLETED)
        if output.done() and output.exception() is None:
            await _say_goodbye(socket, terminal, viewer)
    except DisconnectedError:
        return
    finally:
        terminal.detach(viewer)
        output.cancel()
        keys.cancel()
        await asyncio.gather(output, keys, return_exceptions=True)


async def _say(socket: WebSocket, **members: object) -> None:
    await socket.send(json.dumps({"type": "control", **members}))


async def _send_output(socket: WebSocket, viewer: Viewer) -> None:
    while data := await viewer.next():
        await socket.send(data)


async def _take_keys(socket: WebSocket, terminal: Terminal) -> None:
    while (keys := await socket.receive()) is not None:
        await terminal.type(keys.encode("utf-8", "replace") if isinstance(keys, str) else keys)


async def _say_goodbye(socket: WebSocket, terminal: Terminal, viewer: Viewer) -> None:
    if viewer.dropped:
        await socket.close(_CLOSE_SLOW, "this client is too slow for the output")
        return
    ended = {"exitCode": terminal.exit_code}
    if socket.subprotocol == EXIT_CONTROL:
        await _say(socket, status="exited", **ended)
    code = _CLOSE_OK if terminal.exit_code == 0 else _CLOSE_EXITED
    await socket.close(code, json.dumps(ended))
