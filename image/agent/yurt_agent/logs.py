"""The logs of commands: whole or followed, in the form that each generation of client reads."""

from __future__ import annotations

import asyncio

from yurt_agent.answers import INLINE, LIMIT, LongText, json_object, sent
from yurt_agent.dialect import client_version
from yurt_agent.http import Request, Response, StreamResponse
from yurt_agent.marks import STDERR, STDOUT, Unmarker
from yurt_agent.sessions import SESSIONS
from yurt_agent.spool import LIMIT as LOG_LIMIT, Log

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterator, Sequence

    from yurt_agent.websocket import WebSocket

_STRIPPED, _MARKED, _SPLIT = "stripped", "marked", "split"


def log_form(request: Request) -> str:
    """Tell how this generation of client wants logs.

    Below 0.27, and without a version, the text alone; below 0.167 with the marks of the streams;
    from then on an object with both streams apart.
    """
    version = client_version(request)
    if version is None:
        wants_marks = request.headers.get("x-daytona-split-output", "").lower() == "true"
        return _MARKED if wants_marks else _STRIPPED
    if version < (0, 27, 0):
        return _STRIPPED
    return _MARKED if version < (0, 167, 0) else _SPLIT


def result_members(request: Request, log: Log) -> dict[str, object]:
    """Return the members of an answer that show a log to this client."""
    form = log_form(request)
    if form == _STRIPPED:
        return {"output": LongText(_unmarked(log, LIMIT))}
    members: dict[str, object] = {"output": LongText(log.pieces(LIMIT))}
    if form == _SPLIT:
        members["stdout"] = LongText(_unmarked(log, LIMIT, STDOUT))
        members["stderr"] = LongText(_unmarked(log, LIMIT, STDERR))
    return members


def _unmarked(log: Log, limit: int, wanted: bytes = b"") -> Iterator[bytes]:
    unmarker = Unmarker(wanted)
    for piece in log.pieces(limit):
        yield unmarker.feed(piece)
    yield unmarker.finish()


async def command_logs(request: Request) -> Response | None:
    """Answer ``GET …/command/{command}/logs``: whole, or followed by HTTP or WebSocket."""
    session = SESSIONS.get(request.params["session"])
    return await _logs(request, session.command(request.params["command"]).log)


async def entrypoint_logs(request: Request) -> Response | None:
    """Answer ``GET /process/session/entrypoint/logs``."""
    return await _logs(request, SESSIONS.entrypoint_log())


async def _logs(request: Request, log: Log) -> Response | None:
    if request.headers.get("upgrade", "").lower() == "websocket":
        await _send_followed(await request.websocket(_version_protocol), _followed(request, log))
        return None
    form = log_form(request)
    if request.wants("follow"):
        return _plain(_followed(request, log))
    if form == _SPLIT:
        return json_object(result_members(request, log), log.size)
    pieces = log.pieces() if form == _MARKED else _unmarked(log, LOG_LIMIT)
    if log.size <= INLINE:
        return Response.text(b"".join(pieces))
    return _plain(sent(pieces))


def _plain(pieces: AsyncGenerator[bytes, None]) -> StreamResponse:
    return StreamResponse(pieces, content_type="text/plain; charset=utf-8")


def _version_protocol(offered: Sequence[str]) -> str | None:
    """Accept what browsers offer in place of a header; they insist on an answer."""
    return next((name for name in offered if name.startswith("X-Daytona-")), None)


async def _followed(request: Request, log: Log) -> AsyncGenerator[bytes, None]:
    unmarker = Unmarker() if log_form(request) == _STRIPPED else None
    async for data in log.follow():
        text = unmarker.feed(data) if unmarker else data
        if text:
            yield text
    if unmarker and (rest := unmarker.finish()):
        yield rest


async def _send_followed(socket: WebSocket, pieces: AsyncGenerator[bytes, None]) -> None:
    """Send until the log is complete or the client closes; a slow client slows only itself."""
    tasks = {
        asyncio.ensure_future(_send_all(socket, pieces)),
        asyncio.ensure_future(_until_closed(socket)),
    }
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await pieces.aclose()
    await socket.close(1000)


async def _send_all(socket: WebSocket, pieces: AsyncGenerator[bytes, None]) -> None:
    async for data in pieces:
        await socket.send(data)


async def _until_closed(socket: WebSocket) -> None:
    while await socket.receive() is not None:
        pass  # clients have nothing to say here
