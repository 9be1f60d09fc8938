"""The routes of sessions: create, list, run, type, read and follow logs, delete."""

from __future__ import annotations

from yurt_agent.dialect import client_version, is_older
from yurt_agent.errors import BadRequestError
from yurt_agent.execute import BODY_LIMIT
from yurt_agent.fields import flag, text
from yurt_agent.http import Request, Response, StreamResponse
from yurt_agent.output import LIMIT
from yurt_agent.sessions import ENTRYPOINT, ENTRYPOINT_COMMAND, SESSIONS, Command
from yurt_agent.spool import Spool, Stripper, split

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Sequence

    from yurt_agent.http import FileSlice

_STRIPPED, _MARKED, _SPLIT = "stripped", "marked", "split"


def log_format(request: Request) -> str:
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


async def list_sessions(_request: Request) -> Response:
    """Answer ``GET /process/session``."""
    return Response.json([session.describe() for session in SESSIONS.listed()])


async def create_session(request: Request) -> Response:
    """Answer ``POST /process/session``."""
    name = text(await request.json(), "sessionId")
    if not name or "\0" in name:
        raise BadRequestError("sessionId must not be empty")
    identity = request.identity
    cwd = identity.user.home if is_older(request, 0, 103) else identity.workdir
    SESSIONS.create(name, identity, cwd)
    return Response(status=201)


async def get_session(request: Request) -> Response:
    """Answer ``GET /process/session/{session}``."""
    return Response.json(SESSIONS.get(request.params["session"]).describe())


async def delete_session(request: Request) -> Response:
    """Answer ``DELETE /process/session/{session}``."""
    await SESSIONS.delete(request.params["session"])
    return Response(status=204)


async def session_exec(request: Request) -> Response:
    """Answer ``POST /process/session/{session}/exec``: at once, or when the command has ended.

    A client that hangs up leaves the command running: it belongs to the session.
    """
    body = await request.json(BODY_LIMIT)
    session = SESSIONS.get(request.params["session"])
    command_text = text(body, "command", "")
    if not command_text.strip():
        raise BadRequestError("command is required")
    if "\0" in command_text:
        raise BadRequestError("the command contains a NUL byte")
    detached = flag(body, "runAsync") or flag(body, "async")
    command = session.run(command_text, interactive=detached)
    if detached:
        return Response.json({"cmdId": command.id}, 202)
    code = await command.wait()
    return Response.json({"cmdId": command.id, "exitCode": code, **_shown(request, command.spool)})


def _shown(request: Request, spool: Spool) -> dict[str, object]:
    log = spool.read(LIMIT)
    shape = log_format(request)
    if shape == _STRIPPED:
        return {"output": _decode(strip(log))}
    if shape == _MARKED:
        return {"output": _decode(log)}
    out, err = split(log)
    return {"output": _decode(log), "stdout": _decode(out), "stderr": _decode(err)}


def strip(log: bytes) -> bytes:
    """Take the marks of the streams out of a whole log."""
    stripper = Stripper()
    return stripper.feed(log) + stripper.finish()


def _decode(log: bytes) -> str:
    return log.decode("utf-8", "replace")


async def get_command(request: Request) -> Response:
    """Answer ``GET /process/session/{session}/command/{command}``."""
    return Response.json(_command(request).describe())


async def command_input(request: Request) -> Response:
    """Answer ``POST …/command/{command}/input``."""
    body = await request.json()
    _command(request).write(text(body, "data"))
    return Response(status=204)


def _command(request: Request) -> Command:
    return SESSIONS.get(request.params["session"]).command(request.params["command"])


async def command_logs(request: Request) -> Response | None:
    """Answer ``GET …/command/{command}/logs``: whole, or followed by HTTP or WebSocket."""
    return await _logs(request, _command(request))


async def entrypoint_logs(request: Request) -> Response | None:
    """Answer ``GET /process/session/entrypoint/logs``."""
    return await _logs(request, SESSIONS.get(ENTRYPOINT).command(ENTRYPOINT_COMMAND))


async def _logs(request: Request, command: Command) -> Response | None:
    spool = command.spool
    pieces = _followed(request, spool)
    if request.headers.get("upgrade", "").lower() == "websocket":
        socket = await request.websocket(_version_protocol)
        async for data in pieces:
            await socket.send(data)
        await socket.close(1000)
        return None
    if request.wants("follow"):
        return StreamResponse(_pieces(pieces), content_type="text/plain; charset=utf-8")
    shown = _shown(request, spool)
    if "stdout" in shown:
        return Response.json(shown)
    return Response.text(str(shown["output"]))


async def _pieces(pieces: AsyncIterator[bytes]) -> AsyncGenerator[bytes | FileSlice, None]:
    async for data in pieces:
        yield data


def _version_protocol(offered: Sequence[str]) -> str | None:
    """Accept what browsers offer in place of a header; they insist on an answer."""
    return next((name for name in offered if name.startswith("X-Daytona-")), None)


async def _followed(request: Request, spool: Spool) -> AsyncIterator[bytes]:
    stripper = Stripper() if log_format(request) == _STRIPPED else None
    async for data in spool.follow():
        text_only = stripper.feed(data) if stripper else data
        if text_only:
            yield text_only
    if stripper and (rest := stripper.finish()):
        yield rest
