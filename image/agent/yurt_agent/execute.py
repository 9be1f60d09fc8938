"""``POST /process/execute``: one command, its output and exit code.

The command's tree is killed at the time-out and when the client hangs up; children that it left
running in the background do not hold up the answer and live on.
"""

from __future__ import annotations

import asyncio
import os
import shlex

from yurt_agent import spawn
from yurt_agent.dialect import is_older
from yurt_agent.errors import BadRequestError, RequestTimeoutError
from yurt_agent.fields import number, text, text_map
from yurt_agent.http import Request, Response
from yurt_agent.output import Output

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

BODY_LIMIT = 32 << 20
_LONGEST_ARGUMENT = 100_000
"""Bytes; the kernel takes 128 KiB in one argument (execve(2))."""


async def execute(request: Request) -> Response:
    """Answer ``POST /process/execute``.

    Clients below 0.170 wrap what they run into ``sh -c "…"``. That is split once, as a shell
    would, and run directly: one more shell would expand quotes and ``$`` a second time.
    """
    body = await request.json(BODY_LIMIT)
    command = text(body, "command", "")
    if not command.strip():
        raise BadRequestError("command is required")
    if "\0" in command:
        raise BadRequestError("the command contains a NUL byte")
    environment = _environment(request, text_map(body, "envs"))
    cwd = spawn.check_cwd(text(body, "cwd", ""), request.identity.workdir)
    words = _wrapped(command) if is_older(request, 0, 170) else None
    seconds = number(body, "timeout", 0)
    if words:
        return await run(words, environment=environment, cwd=cwd, seconds=seconds)
    interpreter = spawn.shell(environment)
    if len(command.encode()) < _LONGEST_ARGUMENT:
        words = [interpreter, "-c", command]
        return await run(words, environment=environment, cwd=cwd, seconds=seconds)
    script = memory_file(command)
    try:
        words = [interpreter, f"/proc/self/fd/{script}"]
        return await run(words, environment=environment, cwd=cwd, seconds=seconds, keep=(script,))
    finally:
        os.close(script)


def _environment(request: Request, extra: Mapping[str, str]) -> dict[str, str]:
    spawn.check_environment(extra)
    return {**request.identity.environment, **extra}


def _wrapped(command: str) -> list[str] | None:
    try:
        words = shlex.split(command)
    except ValueError:
        return None
    return words if words[:2] == ["sh", "-c"] else None


def memory_file(content: str) -> int:
    """Return the descriptor of a file in memory, for what is too long for an argument."""
    fd = os.memfd_create("yurt")
    view = memoryview(content.encode())
    while view:
        view = view[os.write(fd, view) :]
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


async def run(
    command: Sequence[str],
    *,
    environment: Mapping[str, str],
    cwd: str,
    seconds: float,
    stdin: int = -1,
    keep: Sequence[int] = (),
) -> Response:
    """Run a command to its end and answer ``{exitCode, result}``.

    Raises:
        RequestTimeoutError: it ran longer than ``seconds`` (0: no limit); its tree was killed.
    """
    code, printed = await collect(
        command, environment=environment, cwd=cwd, seconds=seconds, stdin=stdin, keep=keep
    )
    return Response.json({"exitCode": code, "result": printed})


async def collect(
    command: Sequence[str],
    *,
    environment: Mapping[str, str],
    cwd: str,
    seconds: float,
    stdin: int = -1,
    keep: Sequence[int] = (),
) -> tuple[int, str]:
    """Run a command as ``run`` does; return its exit code and its output."""
    output = Output()
    null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    try:
        program = spawn.start(
            command,
            environment=environment,
            cwd=cwd,
            streams=(null if stdin < 0 else stdin, output.write_fd, output.write_fd),
            keep=keep,
        )
    except OSError as error:
        output.finish()
        return spawn.NOT_STARTED, f"{command[0]}: {error.strerror}"
    finally:
        os.close(null)
        output.close_write()
    try:
        async with asyncio.timeout(seconds or None):
            code = await program.wait()
    except TimeoutError:
        raise RequestTimeoutError(
            f"command execution timeout: killed after {seconds:g} s; raise timeout (seconds)",
            code="PROCESS_EXECUTION_TIMEOUT",
        ) from None
    finally:
        if program.running:
            await asyncio.shield(program.kill_tree())
        printed = output.finish()
    return code, printed
