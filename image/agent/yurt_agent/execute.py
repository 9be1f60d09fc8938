"""``POST /process/execute``: one command, its output and exit code.

The command's tree is killed at the time-out and when the client hangs up; children that it left
running in the background do not hold up the answer and live on. Of output beyond the answer's
limit the last part is answered, and the program is never held up.
"""

from __future__ import annotations

import asyncio
import os
import shlex
from typing import NamedTuple

from yurt_agent import spawn
from yurt_agent.answers import LIMIT, LongText, json_object
from yurt_agent.dialect import is_older
from yurt_agent.errors import BadRequestError, RequestTimeoutError
from yurt_agent.fields import number, text, text_map
from yurt_agent.pipes import Source
from yurt_agent.spool import Log

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from yurt_agent.http import Request, Response

BODY_LIMIT = 32 << 20
_LONGEST_ARGUMENT = 100_000
"""Bytes; the kernel takes 128 KiB in one argument (execve(2))."""


class Task(NamedTuple):
    """What to run; ``stdin`` -1 is no input, ``seconds`` 0 no limit."""

    command: Sequence[str]
    environment: Mapping[str, str]
    cwd: str
    seconds: float = 0.0
    stdin: int = -1
    keep: Sequence[int] = ()


async def execute(request: Request) -> Response:
    """Answer ``POST /process/execute``.

    The shell gets the command as an argument and not on its standard input: a command that reads
    its input would eat the rest of the script there. Only what is too long for an argument comes
    as a file. Clients below 0.170 wrap what they run into ``sh -c "…"``; that is split once, as a
    shell would, and run directly: one more shell would expand quotes and ``$`` a second time.
    """
    body = await request.json(BODY_LIMIT)
    command = spawn.check_text("the command", text(body, "command", ""))
    if not command.strip():
        raise BadRequestError("command is required")
    task = Task(
        (),
        environment(request, body),
        spawn.check_cwd(text(body, "cwd", ""), request.identity.workdir),
        seconds(body),
    )
    words = _wrapped(command) if is_older(request, 0, 170) else None
    if words:
        return await _answer(task._replace(command=words))
    shell = spawn.shell(task.environment)
    if len(os.fsencode(command)) < _LONGEST_ARGUMENT:
        return await _answer(task._replace(command=[*shell, "-c", "--", command]))
    script = memory_file(command)
    try:
        words = [*shell, f"/proc/self/fd/{script}"]
        return await _answer(task._replace(command=words, keep=(script,)))
    finally:
        os.close(script)


def environment(request: Request, body: Mapping[str, object]) -> dict[str, str]:
    """Return the sandbox's environment with the variables of this call.

    Raises:
        BadRequestError: a variable that no program could be given.
    """
    extra = text_map(body, "envs")
    spawn.check_environment(extra)
    return {**request.identity.environment, **extra}


def seconds(body: Mapping[str, object]) -> float:
    """Return the call's time-out; 0, and less, is none."""
    return max(0.0, number(body, "timeout", 0))


def _wrapped(command: str) -> list[str] | None:
    try:
        words = shlex.split(command)
    except ValueError:
        return None
    return words if words[:2] == ["sh", "-c"] else None


def memory_file(content: str) -> int:
    """Return the descriptor of a file in memory, for what is too long for an argument."""
    fd = os.memfd_create("yurt")
    view = memoryview(os.fsencode(content))
    while view:
        view = view[os.write(fd, view) :]
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


async def _answer(task: Task) -> Response:
    code, log = await run(task)
    result = LongText(log.pieces(LIMIT))
    return json_object({"exitCode": code, "result": result}, log.size)


async def run(task: Task) -> tuple[int, Log]:
    """Run a command to its end; return its exit code and what it printed to both streams.

    One that cannot be started has code -1 and the reason as its output.

    Raises:
        RequestTimeoutError: it ran longer than its time; its tree was killed.
    """
    log = Log()
    read, write = os.pipe()
    output = Source(read, log.append)
    try:
        program = _start(task, write)
    except OSError as error:
        output.close()
        log.append(f"{task.command[0]}: {error.strerror}\n".encode())
        return spawn.NOT_STARTED, log
    finally:
        os.close(write)
    try:
        async with asyncio.timeout(task.seconds or None):
            code = await program.wait()
    except TimeoutError:
        raise RequestTimeoutError(
            f"command execution timeout: killed after {task.seconds:g} s; raise timeout (seconds)",
            code="PROCESS_EXECUTION_TIMEOUT",
        ) from None
    finally:
        if program.running:
            await asyncio.shield(program.end())
        # Children may hold the pipe: what is in it now is all that we wait for.
        output.drain()
        output.ignore()
    return code, log


def _start(task: Task, output: int) -> spawn.Program:
    null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC) if task.stdin < 0 else -1
    try:
        return spawn.start(
            task.command,
            environment=task.environment,
            cwd=task.cwd,
            streams=(null if task.stdin < 0 else task.stdin, output, output),
            keep=task.keep,
        )
    finally:
        if null >= 0:
            os.close(null)
