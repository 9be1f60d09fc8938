"""The routes of git that have to do with other repositories."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress

from yurt_agent import git_forms, spawn
from yurt_agent.errors import BadRequestError, ConflictError, NotFoundError
from yurt_agent.fields import flag, number, text
from yurt_agent.git import Git, Login, absolute, repository
from yurt_agent.git_api import current, opened
from yurt_agent.http import Request, Response, in_thread

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

_SHA_DIGITS = (40, 64)


async def clone(request: Request) -> Response:
    """Answer ``POST /git/clone``; what fails or is broken off leaves nothing behind."""
    body = await request.json()
    address = git_forms.address(text(body, "url"))
    login = _login(body, address)
    path = absolute(request.identity, text(body, "path", ""))
    options = []
    if name := text(body, "branch", ""):
        options.append(f"--branch={git_forms.branch('branch', name)}")
    depth = _depth(body)
    if depth:
        options.append(f"--depth={depth}")
    commit = text(body, "commit_id", "")
    if commit:
        git_forms.commit(commit)
        options.append("--no-checkout")
    # The certificate is left unchecked for this call; it is for the caller to know why.
    more = {"GIT_SSL_NO_VERIFY": "1"} if flag(body, "insecure_skip_tls") else {}
    git = Git(request.identity, request.identity.workdir)
    new = not _exists(path)
    await git.check("clone", "--quiet", *options, "--", address.url, path, login=login, more=more)
    if commit:
        made = repository(request.identity, path)
        try:
            if depth and len(commit) in _SHA_DIGITS:
                fetch = ("fetch", "--quiet", f"--depth={depth}", "origin", commit)
                await made.check(*fetch, login=login, more=more)
            await made.check("checkout", "--quiet", "--detach", commit, "--")
        except BaseException:
            await in_thread(_remove, path, new)
            raise
    return Response()


def _exists(path: str) -> bool:
    return os.path.lexists(path)


def _depth(body: Mapping[str, object]) -> int:
    depth = number(body, "depth", 0)
    if depth != int(depth) or depth < 0:
        raise BadRequestError("depth must be a whole number of commits, 1 or more")
    return int(depth)


def _remove(path: str, whole: bool) -> None:
    """Remove a clone; the directory itself, which was empty before, stays if it was there."""
    if whole:
        shutil.rmtree(path, ignore_errors=True)
        return
    for entry in os.listdir(path):
        item = os.path.join(path, entry)
        if os.path.isdir(item) and not os.path.islink(item):
            shutil.rmtree(item, ignore_errors=True)
        else:
            with suppress(OSError):
                os.unlink(item)


def _login(body: Mapping[str, object], address: git_forms.Address) -> Login | None:
    """Return the credentials of a call, else those of the address, for its server.

    Raises:
        BadRequestError: they are given for what takes none.
    """
    given = git_forms.credentials(text(body, "username", ""), text(body, "password", ""))
    given = given or address.credentials
    if given is None:
        return None
    if not address.server:
        raise BadRequestError(
            "username and password are for http and https only; leave them out, ssh uses keys"
        )
    return Login(address.server, given)


async def push(request: Request) -> Response:
    """Answer ``POST /git/push``: one branch, to the one of its name."""
    body = await request.json()
    git = opened(request.identity, body)
    remote = git_forms.ref("remote", text(body, "remote", "") or "origin")
    name = text(body, "branch", "") or await current(git)
    login = _login(body, await _address_of(git, remote, "--push"))
    if not name:
        raise BadRequestError("no branch is checked out: say which branch to push")
    full = f"refs/heads/{git_forms.branch('branch', name)}"
    options = ["--set-upstream"] if flag(body, "set_upstream") else []
    await git.check("push", "--quiet", *options, "--", remote, f"{full}:{full}", login=login)
    return Response()


async def pull(request: Request) -> Response:
    """Answer ``POST /git/pull``: fetch and merge; conflicts are left to be resolved."""
    body = await request.json()
    git = opened(request.identity, body)
    here = await current(git)
    upstream = await _setting(git, f"branch.{here}.remote") if here else ""
    remote = git_forms.ref("remote", text(body, "remote", "") or upstream or "origin")
    name = text(body, "branch", "")
    if not name and remote == upstream:
        name = (await _setting(git, f"branch.{here}.merge")).removeprefix("refs/heads/")
    login = _login(body, await _address_of(git, remote))
    if not (name or here):
        raise BadRequestError("no branch is checked out: say which branch to pull")
    name = git_forms.branch("branch", name or here)
    options = ("--quiet", "--no-rebase", "--no-edit")
    await git.check("pull", *options, "--", remote, f"refs/heads/{name}", login=login)
    return Response()


async def _setting(git: Git, key: str) -> str:
    return (await git.run("config", "-z", "--get", key)).out.removesuffix("\0")


async def _address_of(git: Git, remote: str, *options: str) -> git_forms.Address:
    """Return a remote's address as git would use it.

    Raises:
        NotFoundError: there is no such remote.
        ToolboxError: there is no such repository.
    """
    await git.check("rev-parse", "--git-dir")
    result = await git.run("remote", "get-url", *options, "--", remote)
    if result.code != 0:
        raise NotFoundError(
            f"remote {remote!r} not found: add it by git/remotes", code="GIT_REPO_NOT_FOUND"
        )
    return git_forms.address(result.out.removesuffix("\n"))


async def list_remotes(request: Request) -> Response:
    """Answer ``GET /git/remotes``."""
    git = repository(request.identity, request.first("path"))
    return Response.json({"remotes": await _remotes(git)})


async def _remotes(git: Git) -> list[dict[str, str]]:
    await git.check("rev-parse", "--git-dir")
    result = await git.run("config", "-z", "--get-regexp", r"^remote\..*\.url$")
    if result.code not in {0, 1}:  # 1: there are none
        raise result.failure()
    return git_forms.read_remotes(result.out)


async def add_remote(request: Request) -> Response:
    """Answer ``POST /git/remotes``; one whose fetch fails is not kept."""
    body = await request.json()
    git = opened(request.identity, body)
    name = git_forms.branch("name", text(body, "name"))
    address = git_forms.address(text(body, "url"))
    if address.credentials is not None:
        raise BadRequestError(
            "a remote is written down, so leave the password out of its url: give it to push and "
            "pull, or store it by git/credentials"
        )
    known = {remote["name"]: remote["url"] for remote in await _remotes(git)}
    if name in known and not flag(body, "overwrite"):
        raise ConflictError(f"remote {name!r} already exists; overwrite it, or choose another name")
    before = known.get(name)
    await _point(git, name, before, address.url)
    if flag(body, "fetch"):
        result = await git.run("fetch", "--quiet", "--", name)
        if result.code != 0:
            await _point(git, name, address.url, before)
            raise result.failure()
    return Response(status=201)


async def _point(git: Git, name: str, before: str | None, after: str | None) -> None:
    if after is None:
        await git.check("remote", "remove", name)
    elif before is None:
        await git.check("remote", "add", "--", name, after)
    else:
        await git.check("remote", "set-url", "--", name, after)


async def store_credentials(request: Request) -> Response:
    """Answer ``POST /git/credentials``: keep them for all of the user's git, in plain text.

    They go where the user's own helper puts them; without one, git's file in his home.
    """
    body = await request.json()
    host = text(body, "host", "") or "github.com"
    protocol = text(body, "protocol", "") or "https"
    address = git_forms.address(f"{protocol}://{host}")
    if not address.server or address.credentials or address.url != address.server:
        raise BadRequestError("host must be a host with or without a port, protocol https or http")
    given = git_forms.credentials(text(body, "username"), text(body, "password"))
    if given is None or not given.password:
        raise BadRequestError("username and password are required")
    git = Git(request.identity, "/")
    if not await _setting(git, "credential.helper"):
        await git.check("config", "--global", "credential.helper", "store")
    told = {"protocol": protocol, "host": host, **given._asdict()}
    lines = "".join(f"{name}={spawn.check_text(name, value)}\n" for name, value in told.items())
    result = await git.run("credential", "approve", stdin=f"{lines}\n")
    if result.code != 0 or result.err:
        raise result.failure()
    return Response()
