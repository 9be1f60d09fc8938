"""The routes of sessions: create, list, run, type, delete."""

from __future__ import annotations

from yurt_agent import spawn
from yurt_agent.answers import json_object
from yurt_agent.dialect import is_older
from yurt_agent.errors import BadRequestError
from yurt_agent.execute import BODY_LIMIT
from yurt_agent.fields import flag, text
from yurt_agent.http import Request, Response
from yurt_agent.logs import result_members
from yurt_agent.sessions import SESSIONS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from yurt_agent.commands import Command


async def list_sessions(_request: Request) -> Response:
    """Answer ``GET /process/session``."""
    return Response.json([session.describe() for session in SESSIONS.listed()])


async def create_session(request: Request) -> Response:
    """Answer ``POST /process/session``."""
    name = text(await request.json(), "sessionId")
    if not spawn.check_text("sessionId", name):
        raise BadRequestError("sessionId must not be empty")
    identity = request.identity
    cwd = identity.user.home if is_older(request, 0, 103) else identity.workdir
    SESSIONS.create(name, identity, cwd)
    return Response(status=201)


async def get_session(request: Request) -> Response:
    """Answer ``GET /process/session/{session}``."""
    return Response.json(SESSIONS.described(request.params["session"]))


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
    command_text = spawn.check_text("the command", text(body, "command", ""))
    if not command_text.strip():
        raise BadRequestError("command is required")
    detached = flag(body, "runAsync") or flag(body, "async")
    command = session.run(command_text, interactive=detached)
    if detached:
        return Response.json({"cmdId": command.id}, 202)
    code = await command.wait()
    members = {"cmdId": command.id, "exitCode": code, **result_members(request, command.log)}
    return json_object(members, command.log.size)


async def get_command(request: Request) -> Response:
    """Answer ``GET /process/session/{session}/command/{command}``."""
    return Response.json(_command(request).describe())


async def command_input(request: Request) -> Response:
    """Answer ``POST …/command/{command}/input``."""
    body = await request.json(BODY_LIMIT)
    await _command(request).type(text(body, "data"))
    return Response(status=204)


def _command(request: Request) -> Command:
    return SESSIONS.get(request.params["session"]).command(request.params["command"])
