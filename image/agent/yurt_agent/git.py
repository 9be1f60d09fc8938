"""Run the sandbox's own git for its user, in one repository.

It never asks: there is no terminal, and what it would ask for is an error. Credentials reach it
through a file in memory that a helper reads, for one server only: they are in no argument, no
variable, no configuration and no log. It ends, with all that it started, when the client goes
away.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from typing import NamedTuple

from yurt_agent import spawn
from yurt_agent.errors import BadRequestError, NotFoundError, ToolboxError
from yurt_agent.execute import memory_file
from yurt_agent.git_forms import Credentials, failure
from yurt_agent.paths import resolve
from yurt_agent.pipes import Source

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from yurt_agent.user import Identity

OUTPUT_BYTES = 64 << 20
"""Longest output that is answered; of more, nothing is."""

_SAID_BYTES = 64 << 10
_GRACE_SECONDS = 2.0
"""Time for git to remove what it had begun."""

_SIGNALLED = 128
_FOREIGN = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_NAMESPACE")
_ALWAYS = {
    # English, whatever the sandbox speaks: errors are told apart by their words.
    "LC_ALL": "C.UTF-8",
    "LANGUAGE": "C",
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_EDITOR": "true",
    "GIT_PAGER": "cat",
    # Whatever a configuration allows: remote helpers run programs.
    "GIT_ALLOW_PROTOCOL": "file:git:http:https:ssh",
    "GIT_LITERAL_PATHSPECS": "1",
}


class Login(NamedTuple):
    """Credentials, and the one server (``https://host:port``) that they are for."""

    server: str
    credentials: Credentials


class Result(NamedTuple):
    """How a run of git ended."""

    code: int
    out: str
    err: str

    def failure(self) -> ToolboxError:
        """Return the error that this is."""
        if self.code > _SIGNALLED:
            return ToolboxError(f"git was killed by signal {self.code - _SIGNALLED}: {self.err}")
        return failure("\n".join(text for text in (self.err.strip(), self.out.strip()) if text))


class Git:
    """Git in one directory."""

    def __init__(self, identity: Identity, directory: str) -> None:
        """Take an existing directory.

        Raises:
            BadRequestError: the image has no git.
        """
        self.directory = directory
        self._environment = {**identity.environment, **_ALWAYS}
        for name in _FOREIGN:
            self._environment.pop(name, None)
        program = shutil.which("git", path=self._environment.get("PATH", ""))
        if program is None:
            raise BadRequestError(
                "there is no git in the PATH of this sandbox: install it (apt-get install git, "
                "apk add git, …) or use a snapshot with it"
            )
        self._program = program

    async def run(
        self,
        *words: str,
        stdin: str = "",
        login: Login | None = None,
        more: Mapping[str, str] | None = None,
    ) -> Result:
        """Run git to its end, whatever its exit code.

        Args:
            words: its arguments.
            stdin: its standard input.
            login: for its one server.
            more: further variables.

        Raises:
            BadRequestError: it printed more than is answered.
            ToolboxError: it cannot be started.
        """
        environment = {**self._environment, **(more or {})}
        files = [memory_file(stdin)]
        try:
            if login is not None:
                files.append(_secret(login.credentials))
                environment.update(_helper(login.server, files[1], environment))
            return await self._run(words, environment, files)
        finally:
            for file in files:
                os.close(file)

    async def check(
        self,
        *words: str,
        stdin: str = "",
        login: Login | None = None,
        more: Mapping[str, str] | None = None,
    ) -> str:
        """Run git and return its output; as ``run``.

        Raises:
            ToolboxError: git failed; the status and code tell how.
        """
        result = await self.run(*words, stdin=stdin, login=login, more=more)
        if result.code != 0:
            raise result.failure()
        return result.out

    async def _run(
        self, words: Sequence[str], environment: Mapping[str, str], files: Sequence[int]
    ) -> Result:
        out, err = _Output(OUTPUT_BYTES), _Output(_SAID_BYTES)
        try:
            program = spawn.start(
                [self._program, *words],
                environment=environment,
                cwd=self.directory,
                streams=(files[0], out.write, err.write),
                keep=files[1:],
            )
        except OSError as error:
            out.close()
            err.close()
            raise ToolboxError(f"git could not be run: {error.strerror}") from error
        finally:
            os.close(out.write)
            os.close(err.write)
        try:
            code = await program.wait()
        finally:
            if program.running:
                await asyncio.shield(program.end(grace_seconds=_GRACE_SECONDS))
            out.finish()
            err.finish()
        if out.lost:
            raise BadRequestError(
                f"git printed more than {OUTPUT_BYTES >> 20} MiB: run it by process/execute"
            )
        return Result(code, out.text(), err.text())


class _Output:
    """The beginning of what comes through a pipe."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._pieces: list[bytes] = []
        self._size = 0
        self.lost = False
        read, self.write = os.pipe()
        self._source = Source(read, self._take)

    def _take(self, data: bytes) -> None:
        if self._size + len(data) > self._limit:
            self.lost = True
            return
        self._pieces.append(data)
        self._size += len(data)

    def finish(self) -> None:
        """Take what is there; what git left running in the background goes on unheard."""
        self._source.drain()
        self._source.ignore()

    def close(self) -> None:
        """Take nothing."""
        self._source.close()

    def text(self) -> str:
        """Return it; names that are not UTF-8 have surrogate escapes, as on the wire."""
        return b"".join(self._pieces).decode("utf-8", "surrogateescape")


def _secret(credentials: Credentials) -> int:
    return memory_file(f"username={credentials.username}\npassword={credentials.password}\n")


def _helper(server: str, file: int, environment: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Yield the variables that give git one helper for one server, and no other for it.

    A redirection to another server gets nothing, and the user's own helpers, which would keep
    the credentials, do not hear of them.
    """
    key = f"credential.{server}.helper"
    show = f'!f() {{ test "$1" != get || cat /proc/self/fd/{file}; }}; f'
    count = environment.get("GIT_CONFIG_COUNT", "0")
    first = int(count) if count.isdigit() else 0
    for number, value in enumerate(("", show), first):
        yield f"GIT_CONFIG_KEY_{number}", key
        yield f"GIT_CONFIG_VALUE_{number}", value
    yield "GIT_CONFIG_COUNT", str(first + 2)


def absolute(identity: Identity, path: str) -> str:
    """Return an absolute path; relative ones begin in the work directory.

    Raises:
        BadRequestError: it is empty, or no file can have it.
    """
    if not path:
        raise BadRequestError("path is required")
    return os.fsdecode(resolve(path, identity.workdir))


def repository(identity: Identity, path: str) -> Git:
    """Return git in a directory that exists; whether it is a repository, git knows.

    Raises:
        NotFoundError: there is no such directory.
        BadRequestError: no path, or no git.
    """
    directory = absolute(identity, path)
    if not os.path.isdir(directory):
        raise NotFoundError(
            f"repository not found: {path} is no directory that exists", code="GIT_REPO_NOT_FOUND"
        )
    return Git(identity, directory)
