"""Start host programs without ``subprocess``, whose import costs the runner 20 ms."""

from __future__ import annotations

import os
import sys

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
ENVIRONMENT = {"PATH": _PATH, "LC_ALL": "C", "HOME": "/"}
_OUTPUT_LIMIT = 4096


def find(program: str) -> str:
    """Return the path of a host program.

    Raises:
        FileNotFoundError: it is in none of the system's directories.
    """
    for directory in _PATH.split(":"):
        path = f"{directory}/{program}"
        if os.access(path, os.X_OK):
            return path
    raise FileNotFoundError(f"{program} is not installed")


def start(arguments: Sequence[str], *, stdin: int, stdout: int, stderr: int) -> int:
    """Start a program with exactly these three fds and return its pid."""
    actions = [
        (os.POSIX_SPAWN_DUP2, stdin, 0),
        (os.POSIX_SPAWN_DUP2, stdout, 1),
        (os.POSIX_SPAWN_DUP2, stderr, 2),
    ]
    path = find(arguments[0])
    return os.posix_spawn(path, list(arguments), ENVIRONMENT, file_actions=actions)


def start_interpreter(arguments: Sequence[str], fds: Sequence[int]) -> int:
    """Start this runner's program anew with other arguments and the fds given as 0, 1, 2, ...

    Returns:
        Its pid.
    """
    program = [sys.executable, "-I", "-S", sys.argv[0], *arguments]
    # Two steps, because a target number may be the source of a later one.
    high = [os.dup(fd) for fd in fds]
    try:
        actions = [(os.POSIX_SPAWN_DUP2, fd, number) for number, fd in enumerate(high)]
        return os.posix_spawn(sys.executable, program, ENVIRONMENT, file_actions=actions)
    finally:
        for fd in high:
            os.close(fd)


def begin(arguments: Sequence[str], text: str = "") -> tuple[int, int]:
    """Start a program with ``text`` on its standard input; ``finish`` collects it."""
    null = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
    output, output_end = os.pipe()
    stdin = null
    if text:
        stdin, feed = os.pipe()
        os.write(feed, text.encode())  # below a pipe's 64 KiB: does not block
        os.close(feed)
    try:
        pid = start(arguments, stdin=stdin, stdout=output_end, stderr=output_end)
    except OSError:
        os.close(output)
        raise
    finally:
        os.close(output_end)
        os.close(null)
        if stdin != null:
            os.close(stdin)
    return pid, output


def finish(begun: tuple[int, int]) -> tuple[int, str]:
    """Wait for a program started by ``begin``; return its exit code and what it printed."""
    pid, output = begun
    printed = b""
    while chunk := os.read(output, 65536):
        printed = (printed + chunk)[-_OUTPUT_LIMIT:]
    os.close(output)
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status), printed.decode(errors="replace").strip()


def run(arguments: Sequence[str], text: str = "") -> tuple[int, str]:
    """Run a program to its end; return its exit code and what it printed (its last 4 KiB)."""
    return finish(begin(arguments, text))


TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
