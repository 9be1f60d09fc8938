"""The routes of git's configuration."""

from __future__ import annotations

import re

from yurt_agent import spawn
from yurt_agent.errors import BadRequestError
from yurt_agent.fields import text
from yurt_agent.git import Git, repository
from yurt_agent.http import Request, Response

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from yurt_agent.user import Identity

_SCOPES = ("global", "local", "system")
_KEY = re.compile(r"[A-Za-z0-9-]+\.([^\n]+\.)?[A-Za-z][A-Za-z0-9-]*\Z", re.DOTALL)
_UNSET = 1


async def get_value(request: Request) -> Response:
    """Answer ``GET /git/config``; without a scope the value that holds, wherever it is from."""
    key = _checked_key(request.first("key"))
    scope, path = request.first("scope"), request.first("path")
    git = _place(request.identity, scope, path)
    where = [f"--{scope}"] if scope else []
    result = await git.run("config", *where, "-z", "--get", key)
    if result.code not in {0, _UNSET} or result.err:
        # A file that is not there yet has no values.
        if "unable to read config file" not in result.err:
            raise result.failure()
        return Response.json({"value": None})
    value = result.out.removesuffix("\0") if result.code == 0 else None
    return Response.json({"value": value})


async def set_value(request: Request) -> Response:
    """Answer ``POST /git/config``."""
    body = await request.json()
    key, value = _checked_key(text(body, "key")), spawn.check_text("value", text(body, "value"))
    scope = _scope(body)
    git = _place(request.identity, scope, text(body, "path", ""))
    await _set(git, scope, key, value)
    return Response()


async def set_user(request: Request) -> Response:
    """Answer ``POST /git/config/user``."""
    body = await request.json()
    values = {
        f"user.{name}": spawn.check_text(name, text(body, name)) for name in ("name", "email")
    }
    scope = _scope(body)
    git = _place(request.identity, scope, text(body, "path", ""))
    for key, value in values.items():
        await _set(git, scope, key, value)
    return Response()


def _scope(body: Mapping[str, object]) -> str:
    return text(body, "scope", "") or "global"


def _place(identity: Identity, scope: str, path: str) -> Git:
    if scope and scope not in _SCOPES:
        raise BadRequestError(f"scope must be one of {', '.join(_SCOPES)}")
    if path:
        return repository(identity, path)
    if scope == "local":
        raise BadRequestError("path is required for the scope local")
    return Git(identity, identity.workdir)


def _checked_key(key: str) -> str:
    if not _KEY.match(spawn.check_text("key", key)) or key.startswith("-"):
        raise BadRequestError(f"key {key!r} is no key of a configuration, such as user.name")
    return key


async def _set(git: Git, scope: str, key: str, value: str) -> None:
    await git.check("config", f"--{scope}", "--replace-all", "--", key, value)
