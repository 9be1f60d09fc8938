"""The routes of the interpreter."""

from __future__ import annotations

import asyncio
import json

from yurt_agent import spawn
from yurt_agent.errors import BadRequestError, ToolboxError
from yurt_agent.execute import BODY_LIMIT
from yurt_agent.fields import number, text, text_map
from yurt_agent.http import DisconnectedError, Request, Response
from yurt_agent.interpreters import CONTEXTS, Context, Outcome, Output, Piece

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from yurt_agent.user import Identity
    from yurt_agent.websocket import WebSocket

DEFAULT_SECONDS = 600
_CLOSE_OK, _CLOSE_REFUSED, _CLOSE_TIMEOUT = 1000, 1008, 4008


async def list_contexts(_request: Request) -> Response:
    """Answer ``GET /process/interpreter/context``; the default one is not in the list."""
    return Response.json({"contexts": [context.describe() for context in CONTEXTS.listed()]})


async def create_context(request: Request) -> Response:
    """Answer ``POST /process/interpreter/context``."""
    body = await request.json()
    language = text(body, "language", "") or "python"
    if language != "python":
        raise BadRequestError(f"language {language!r} is not supported; use python")
    cwd = spawn.check_cwd(text(body, "cwd", ""), request.identity.workdir)
    return Response.json(CONTEXTS.add(cwd, request.identity).describe())


async def delete_context(request: Request) -> Response:
    """Answer ``DELETE /process/interpreter/context/{context}``."""
    name = request.params["context"]
    await CONTEXTS.delete(name)
    return Response.json({"message": f"context {name} deleted"})


async def execute(request: Request) -> None:
    """Answer the WebSocket ``GET /process/interpreter/execute``: one piece of code.

    A client that leaves interrupts its code.
    """
    socket = await request.websocket(_choose, max_message=BODY_LIMIT)
    message = await socket.receive()
    if message is None:
        return
    try:
        context, piece = _asked(message, request.identity)
    except ToolboxError as error:
        await socket.close(_CLOSE_REFUSED, error.message)
        return
    running = asyncio.ensure_future(_serve(socket, context, piece))
    leaving = asyncio.ensure_future(_until_gone(socket))
    try:
        await asyncio.wait((running, leaving), return_when=asyncio.FIRST_COMPLETED)
    finally:
        leaving.cancel()
        if not running.done():
            running.cancel()
        # To its end: the code is interrupted by then.
        await asyncio.shield(asyncio.wait((running,)))
    if not running.cancelled() and (failure := running.exception()) is not None:
        if isinstance(failure, ToolboxError):
            await socket.close(_CLOSE_REFUSED, failure.message)
        elif not isinstance(failure, DisconnectedError):
            raise failure


def _choose(offered: Sequence[str]) -> str | None:
    """Answer with whatever comes first: some clients insist on one that they offered."""
    return next(iter(offered), None)


def _asked(message: str | bytes, identity: Identity) -> tuple[Context, Piece]:
    try:
        body = json.loads(message)
    except (ValueError, RecursionError) as error:
        raise BadRequestError(f"the message is not valid JSON: {error}") from error
    if not isinstance(body, dict):
        raise BadRequestError("the message must be a JSON object")
    envs = text_map(body, "envs")
    spawn.check_environment(envs)
    seconds = number(body, "timeout", DEFAULT_SECONDS)
    piece = Piece(text(body, "code"), envs, max(0.0, seconds))
    return CONTEXTS.get(text(body, "contextId", ""), identity), piece


async def _until_gone(socket: WebSocket) -> None:
    while await socket.receive() is not None:
        continue


async def _serve(socket: WebSocket, context: Context, piece: Piece) -> None:
    async with context.turn:
        process = context.process()
        process.output.begin()
        sending = asyncio.ensure_future(_send_output(socket, process.output))
        try:
            outcome = await process.run(piece)
            process.output.finish()
            await sending
        finally:
            process.output.finish()
            sending.cancel()
            await asyncio.wait((sending,))
    await _say_goodbye(socket, outcome)


async def _send_output(socket: WebSocket, output: Output) -> None:
    try:
        while texts := await output.next():
            for stream, piece in texts:
                if piece:
                    await socket.send(json.dumps({"type": stream, "text": piece}))
    finally:
        output.drop()


async def _say_goodbye(socket: WebSocket, outcome: Outcome) -> None:
    if outcome.error is not None and not outcome.timed_out:
        await socket.send(json.dumps({"type": "error", **outcome.error}))
    status = "interrupted" if outcome.timed_out else "completed"
    await socket.send(json.dumps({"type": "control", "text": status}))
    if outcome.timed_out:
        await socket.close(_CLOSE_TIMEOUT, "execution timed out; raise timeout (seconds)")
    else:
        await socket.close(_CLOSE_OK)
