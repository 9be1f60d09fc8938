"""The routes of git that stay within one repository."""

from __future__ import annotations

from yurt_agent import git_forms, spawn
from yurt_agent.errors import BadRequestError, MissingFileError
from yurt_agent.fields import flag, text, texts
from yurt_agent.git import Git, absolute, repository
from yurt_agent.http import Request, Response

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from yurt_agent.user import Identity

BODY_LIMIT = 8 << 20
_FROM_INPUT = ("--pathspec-from-file=-", "--pathspec-file-nul")
_MODES = ("soft", "mixed", "hard", "merge", "keep")


async def status(request: Request) -> Response:
    """Answer ``GET /git/status``."""
    git = repository(request.identity, request.first("path"))
    output = await git.check(
        *("--no-optional-locks", "status", "--porcelain=v2", "--branch", "-z"),
        "--untracked-files=all",
    )
    head, files = git_forms.read_status(output)
    if head.ahead is None and head.branch and not head.upstream:
        head = await _compared(git, head)
    return Response.json(
        {
            "currentBranch": head.branch or "HEAD",
            "detached": not head.branch,
            "upstream": head.upstream,
            "branchPublished": head.ahead is not None,
            "ahead": head.ahead or 0,
            "behind": head.behind or 0,
            "fileStatus": files,
        }
    )


async def _compared(git: Git, head: git_forms.Head) -> git_forms.Head:
    """Compare a branch without upstream with the one of its name that was pushed, if any."""
    pushed = f"refs/remotes/origin/{head.branch}"
    result = await git.run("rev-list", "--left-right", "--count", f"HEAD...{pushed}", "--")
    if result.code != 0:
        return head
    ahead, behind = map(int, result.out.split())
    return head._replace(ahead=ahead, behind=behind)


async def history(request: Request) -> Response:
    """Answer ``GET /git/history``; a repository without commits has none."""
    git = repository(request.identity, request.first("path"))
    result = await git.run("log", "-z", git_forms.HISTORY, "HEAD", "--")
    if result.code != 0:
        head = await git.run("symbolic-ref", "-q", "HEAD")
        unborn = head.code == 0 and (await _missing(git, head.out.strip()))
        if not unborn:
            raise result.failure()
    return Response.json(git_forms.read_history(result.out))


async def _missing(git: Git, name: str) -> bool:
    return (await git.run("show-ref", "--verify", "--quiet", name)).code != 0


async def list_branches(request: Request) -> Response:
    """Answer ``GET /git/branches``: the local ones."""
    git = repository(request.identity, request.first("path"))
    output = await git.check("for-each-ref", "--format=%(refname:lstrip=2)", "refs/heads")
    return Response.json({"branches": output.splitlines(), "current": await current(git)})


async def current(git: Git) -> str:
    """Return the name of the branch that is checked out, empty if none is."""
    result = await git.run("symbolic-ref", "--quiet", "--short", "HEAD")
    return result.out.strip() if result.code == 0 else ""


async def create_branch(request: Request) -> Response:
    """Answer ``POST /git/branches``: make a branch and check it out."""
    git, body = await _opened(request)
    name = git_forms.branch("name", text(body, "name"))
    await git.check("checkout", "--quiet", "--no-track", "-b", name)
    return Response(status=201)


async def delete_branch(request: Request) -> Response:
    """Answer ``DELETE /git/branches``, merged or not."""
    git, body = await _opened(request)
    await git.check("branch", "--quiet", "-D", git_forms.branch("name", text(body, "name")))
    return Response(status=204)


async def checkout(request: Request) -> Response:
    """Answer ``POST /git/checkout``: a branch, also one of a remote, or any revision."""
    git, body = await _opened(request)
    await git.check("checkout", "--quiet", git_forms.ref("branch", text(body, "branch")), "--")
    return Response()


async def add(request: Request) -> Response:
    """Answer ``POST /git/add``; removed files count, too."""
    git, body = await _opened(request)
    await git.check("add", "--all", *_FROM_INPUT, stdin=_files(body))
    return Response()


async def commit(request: Request) -> Response:
    """Answer ``POST /git/commit``."""
    git, body = await _opened(request)
    message = spawn.check_text("message", text(body, "message"))
    if not message.strip():
        raise BadRequestError("message is required")
    person = {
        f"GIT_{role}_{field}": spawn.check_text(name, text(body, name))
        for role in ("AUTHOR", "COMMITTER")
        for field, name in (("NAME", "author"), ("EMAIL", "email"))
    }
    options = ["--allow-empty"] if flag(body, "allow_empty") else []
    await git.check(
        *("commit", "--quiet", "--no-edit", "--cleanup=verbatim", "--file=-", *options),
        stdin=message,
        more=person,
    )
    return Response.json({"hash": (await git.check("rev-parse", "HEAD")).strip()})


async def init(request: Request) -> Response:
    """Answer ``POST /git/init``; one that is there stays as it is."""
    body = await request.json()
    path = absolute(request.identity, text(body, "path", ""))
    options = ["--bare"] if flag(body, "bare") else []
    if name := text(body, "initial_branch", ""):
        options.append(f"--initial-branch={git_forms.branch('initial_branch', name)}")
    await Git(request.identity, "/").check("init", "--quiet", *options, "--", path)
    return Response(status=201)


async def reset(request: Request) -> Response:
    """Answer ``POST /git/reset``."""
    git, body = await _opened(request)
    mode = text(body, "mode", "") or "mixed"
    if mode not in _MODES:
        raise BadRequestError(f"mode must be one of {', '.join(_MODES)}")
    target = git_forms.ref("target", text(body, "target", "") or "HEAD")
    if not texts(body, "files"):
        await git.check("reset", "--quiet", f"--{mode}", target, "--")
        return Response()
    if mode != "mixed":
        raise BadRequestError(f"files can be reset in the mode mixed only, not {mode}")
    files = _files(body)
    await git.check("reset", "--quiet", *_FROM_INPUT, target, stdin=files)
    return Response()


async def restore(request: Request) -> Response:
    """Answer ``POST /git/restore``; the working tree, unless only ``staged`` is wanted."""
    git, body = await _opened(request)
    staged = flag(body, "staged")
    options = ["--staged"] if staged else []
    if flag(body, "worktree", default=not staged):
        options.append("--worktree")
    if not options:
        raise BadRequestError("staged and worktree are both false: nothing would be restored")
    if source := text(body, "source", ""):
        options.append(f"--source={git_forms.ref('source', source)}")
    await git.check("restore", "--quiet", *options, *_FROM_INPUT, stdin=_files(body))
    return Response()


def _files(body: Mapping[str, object]) -> str:
    files = texts(body, "files")
    if not files:
        raise BadRequestError("files is required: the paths, or . for all")
    if not all(files):
        raise MissingFileError("files has an empty path")
    return "".join(f"{spawn.check_text('files', name)}\0" for name in files)


async def _opened(request: Request) -> tuple[Git, Mapping[str, object]]:
    body = await request.json(BODY_LIMIT)
    return opened(request.identity, body), body


def opened(identity: Identity, body: Mapping[str, object]) -> Git:
    """Return git in the directory that a body names."""
    return repository(identity, text(body, "path", ""))
