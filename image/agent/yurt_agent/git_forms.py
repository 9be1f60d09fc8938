"""What is sent to git and what comes back, as pure functions: checks, readers, errors.

Everything that a client names goes on a command line of git, so nothing may begin with ``-``.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from yurt_agent import spawn
from yurt_agent.errors import (
    BadGatewayError,
    BadRequestError,
    ConflictError,
    DiskFullError,
    ForbiddenError,
    MissingFileError,
    NotFoundError,
    ToolboxError,
    UnauthorizedError,
    UnprocessableError,
)
from yurt_agent.http import unquote

WORDS = {
    ".": "Unmodified",
    "M": "Modified",
    "T": "Modified",
    "A": "Added",
    "D": "Deleted",
    "R": "Renamed",
    "C": "Copied",
    "U": "Updated but unmerged",
}
"""The wire's words for git's letters."""

MESSAGE_CHARACTERS = 4000
_SCHEMES = ("http", "https", "ssh", "git", "file")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_HELPER = re.compile(r"[A-Za-z0-9+.-]*::")
_PASSWORD = re.compile(r"(://[^/\s:@]*):[^/\s@]+@")
_COMMIT = re.compile(r"[0-9A-Fa-f]{4,64}\Z")
_FILE_FIELDS = {"1": 8, "2": 9, "u": 10}
"""Of porcelain v2 (git-status(1)): how many fields precede a path."""


class Head(NamedTuple):
    """What status says of the branch; ``ahead`` is None if the upstream is not there."""

    branch: str = ""
    upstream: str = ""
    ahead: int | None = None
    behind: int | None = None


class Credentials(NamedTuple):
    """Of one http server; never written down."""

    username: str
    password: str


class Address(NamedTuple):
    """A URL without the credentials that were in it; ``server`` is empty if it is not http."""

    url: str
    server: str
    credentials: Credentials | None


def ref(name: str, value: str) -> str:
    """Return a branch, revision or remote that can go on a command line.

    Raises:
        BadRequestError: git would take it for something else, or it cannot be one.
    """
    spawn.check_text(name, value)
    if not value or value.startswith("-") or any(char.isspace() for char in value):
        raise BadRequestError(
            f"{name} {value!r} is no name: it is empty, begins with - or has blanks"
        )
    return value


def branch(name: str, value: str) -> str:
    """Return the name of a branch.

    Raises:
        BadRequestError: no branch can be called so.
    """
    ref(name, value)
    parts = value.split("/")
    bad = any(not part or part.startswith(".") or part.endswith(".lock") for part in parts)
    if (
        bad
        or value == "@"
        or value.endswith(".")
        or re.search(r"\.\.|@\{|[~^:?*\[\\\x00-\x1f\x7f]", value)
    ):
        raise BadRequestError(f"{name} {value!r} is no name of a branch; see git check-ref-format")
    return value


def commit(value: str) -> str:
    """Return the hash of a commit.

    Raises:
        BadRequestError: it is none.
    """
    if not _COMMIT.match(value):
        raise BadRequestError("commit_id must be the hash of a commit: 4 to 64 hexadecimal digits")
    return value


def address(value: str) -> Address:
    """Take a URL apart, so that no password in it gets on a command line or in a configuration.

    Args:
        value: a URL, ``user@host:path``, or a path.

    Raises:
        BadRequestError: it would run a program, or cannot be a URL.
    """
    spawn.check_text("url", value)
    if not value.strip() or value.startswith("-") or any(char in value for char in "\r\n"):
        raise BadRequestError("url must be the URL of a repository, and not begin with -")
    if _HELPER.match(value):
        raise BadRequestError(
            "url names a remote helper; use http, https, ssh, git, file or a path"
        )
    found = _SCHEME.match(value)
    if found is None:
        return Address(value, "", None)
    scheme = found[1].lower()
    if scheme not in _SCHEMES:
        raise BadRequestError(f"url has the scheme {scheme!r}; use one of {', '.join(_SCHEMES)}")
    host, slash, path = value[found.end() :].partition("/")
    user, at, host = host.rpartition("@")
    if not host and scheme != "file":
        raise BadRequestError("url names no host")
    if host.startswith("-") or re.search(r"[\s?#\\]", user + host):
        raise BadRequestError("the host in url is none")
    if scheme not in {"http", "https"}:
        name, colon, _ = user.partition(":")
        if colon:
            raise BadRequestError(f"{scheme} takes no password in its url; use a key")
        return Address(f"{scheme}://{name}{at}{host}{slash}{path}", "", None)
    server = f"{scheme}://{host}"
    name, colon, password = user.partition(":")
    given = credentials(unquote(name.encode()), unquote(password.encode())) if colon else None
    kept = f"{name}@" if at and not colon else ""
    return Address(f"{scheme}://{kept}{host}{slash}{path}", server, given)


def credentials(username: str, password: str) -> Credentials | None:
    """Return what can be told to git, None if neither is given.

    Raises:
        BadRequestError: they hold what git's protocol of helpers cannot carry.
    """
    if not username and not password:
        return None
    for name, value in (("username", username), ("password", password)):
        spawn.check_text(name, value)
        if "\n" in value or "\r" in value:
            raise BadRequestError(f"{name} contains a line break")
    # Servers that take a token as password take any user with it.
    return Credentials(username or "git", password)


def read_status(output: str) -> tuple[Head, list[dict[str, str]]]:
    """Read ``git status --porcelain=v2 --branch -z``; files are as the wire shows them."""
    head, files = Head(), []
    items = iter(output.split("\0"))
    for item in items:
        kind, _, rest = item.partition(" ")
        if kind == "#":
            head = _read_header(head, rest)
        elif kind == "?":
            files.append(_file(rest, "Untracked", "Untracked"))
        elif kind in _FILE_FIELDS:
            *fields, name = rest.split(" ", _FILE_FIELDS[kind] - 1)
            staging, worktree = (WORDS[letter] for letter in fields[0])
            if kind == "u":
                staging = worktree = WORDS["U"]
            files.append(_file(name, staging, worktree, next(items) if kind == "2" else ""))
    return head, files


def _read_header(head: Head, text: str) -> Head:
    name, _, value = text.partition(" ")
    if name == "branch.head":
        return head._replace(branch="" if value == "(detached)" else value)
    if name == "branch.upstream":
        return head._replace(upstream=value)
    if name == "branch.ab":
        ahead, behind = value.split()
        return head._replace(ahead=int(ahead), behind=-int(behind))
    return head


def _file(name: str, staging: str, worktree: str, extra: str = "") -> dict[str, str]:
    return {"name": name, "staging": staging, "worktree": worktree, "extra": extra}


HISTORY = "--format=tformat:%H%x00%an%x00%ae%x00%aI%x00%B"
_HISTORY_FIELDS = ("hash", "author", "email", "timestamp", "message")


def read_history(output: str) -> list[dict[str, str]]:
    """Read ``git log -z`` in the format ``HISTORY``."""
    fields = output.split("\0")[:-1]
    count = len(_HISTORY_FIELDS)
    rows = (fields[start : start + count] for start in range(0, len(fields), count))
    return [dict(zip(_HISTORY_FIELDS, row, strict=True)) for row in rows]


def read_remotes(output: str) -> list[dict[str, str]]:
    """Read ``git config -z --get-regexp ^remote\\..*\\.url$``; the first URL of each counts."""
    found: dict[str, str] = {}
    for item in output.split("\0")[:-1]:
        key, _, url = item.partition("\n")
        found.setdefault(key.removeprefix("remote.").removesuffix(".url"), url)
    return [{"name": name, "url": url} for name, url in found.items()]


_KINDS: tuple[tuple[str, type[ToolboxError], str], ...] = (
    (r"No space left on device|Disk quota exceeded", DiskFullError, ""),
    (
        r"Authentication failed|could not read (Username|Password)|Permission denied \(|"
        r"returned error: 401|Host key verification failed",
        UnauthorizedError,
        "GIT_AUTH_FAILED",
    ),
    (r"returned error: 403", ForbiddenError, ""),
    (r"\[remote rejected\]", UnprocessableError, "GIT_REMOTE_REJECTED"),
    (r"\[rejected\]|stale info", ConflictError, "GIT_PUSH_REJECTED"),
    (
        r"would be overwritten by|commit your changes or stash|not uptodate\. Cannot",
        ConflictError,
        "GIT_DIRTY_WORKTREE",
    ),
    (
        r"CONFLICT \(|Automatic merge failed|unmerged files|unrelated histories|"
        r"not concluded your merge|resolve your current index|Not possible to fast-forward|"
        r"you are in the middle of a (merge|rebase|cherry-pick)|path .* is unmerged",
        ConflictError,
        "GIT_MERGE_CONFLICT",
    ),
    (r"[Aa] branch named .* already exists", ConflictError, "GIT_BRANCH_EXISTS"),
    (
        r"Remote branch .* not found|[Cc]ouldn't find remote ref|branch .* not found|"
        r"src refspec .* does not match|invalid reference: |not a valid object name|"
        r"is not a commit and a branch .* cannot be created|No such ref",
        NotFoundError,
        "GIT_BRANCH_NOT_FOUND",
    ),
    (
        r"reference is not a tree|unable to read tree|ambiguous argument|[Cc]ould not resolve '|"
        r"not our ref|bad revision|unadvertised object|Failed to resolve|could not resolve \S+$",
        NotFoundError,
        "",
    ),
    (r"pathspec .* did not match", MissingFileError, ""),
    (r"dubious ownership|[Pp]ermission denied$|Permission denied\n", ForbiddenError, ""),
    (
        r"not a git repository|does not appear to be a git repository|[Rr]epository .*not found|"
        r"repository .* does not exist|No such remote",
        NotFoundError,
        "GIT_REPO_NOT_FOUND",
    ),
    (
        r"Could not resolve host|Failed to connect|Couldn't connect|"
        r"Connection (refused|reset|timed)|certificate|[Tt]imed out|hung up unexpectedly|early EOF|"
        r"returned error: 5|unable to (access|connect)|SSL|TLS|unable to look up|"
        r"RPC failed|invalid index-pack",
        BadGatewayError,
        "GIT_TRANSPORT_FAILED",
    ),
    (
        r"already exists|checked out at|index\.lock|used by worktree|cannot lock ref",
        ConflictError,
        "",
    ),
)


def failure(said: str) -> ToolboxError:
    """Choose the error for what git said in English; what is unknown is a bad request."""
    text = _PASSWORD.sub(r"\1:***@", said).strip()
    text = text[-MESSAGE_CHARACTERS:] or "git failed without a word"
    for pattern, kind, code in _KINDS:
        if re.search(pattern, text, re.MULTILINE):
            return kind(f"git: {text}", code=code)
    return BadRequestError(f"git: {text}")
