"""Keep a program running: start it again when it ends, and end it when we end.

The kernel kills the child with us, so nothing is left whatever happens to us.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import signal
import time
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

_LOG = logging.getLogger(__name__)

FIRST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 5.0
# Whoever lived this long is started again at once.
STEADY_SECONDS = 10.0
STOP_SECONDS = 10.0
LOG_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class Program:
    """What to run: ``prepare`` is called before each start and returns the command."""

    name: str
    prepare: Callable[[], Sequence[str]]
    environment: Mapping[str, str]
    log: Path


def killed_with_us(command: Sequence[str]) -> list[str]:
    """Put a command behind ``setpriv``, so that it is killed when its parent ends."""
    return ["setpriv", "--pdeathsig=KILL", *command]


async def keep_running(program: Program) -> None:
    """Run a program until this task is cancelled; then it is asked to end, and killed if need be.

    It is started again after it ended: at first at once, then after longer and longer pauses.
    """
    pause = FIRST_PAUSE_SECONDS
    while True:
        begin = time.monotonic()
        process = await _start(program)
        _LOG.info("%s started, pid %d", program.name, process.pid)
        try:
            code = await process.wait()
        except asyncio.CancelledError:
            await _stop(process)
            raise
        _LOG.warning("%s ended with code %d", program.name, code)
        if time.monotonic() - begin > STEADY_SECONDS:
            pause = FIRST_PAUSE_SECONDS
        await asyncio.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE_SECONDS)


async def _start(program: Program) -> asyncio.subprocess.Process:
    with open_log(program.log) as log:
        return await asyncio.create_subprocess_exec(
            *program.prepare(),
            env=dict(program.environment),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd="/",
            start_new_session=True,
        )


async def _stop(process: asyncio.subprocess.Process) -> None:
    if process.returncode is not None:
        return
    process.send_signal(signal.SIGTERM)
    try:
        await asyncio.wait_for(process.wait(), STOP_SECONDS)
    except TimeoutError:
        process.kill()
        await process.wait()


def open_log(path: Path) -> IO[bytes]:
    """Open a log to append to, for root's eyes only."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "wb")


def put_aside(path: Path) -> None:
    """Begin a log that has grown large anew; what it had is kept until the next time.

    Whoever writes it goes on in the same file: logs are opened to append.
    """
    if path.exists() and path.stat().st_size > LOG_BYTES:
        shutil.copyfile(path, path.with_name(f"{path.name}.1"))
        os.truncate(path, 0)
