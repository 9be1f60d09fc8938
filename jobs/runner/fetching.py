"""Fetch an image or an archive in a process of its own, while the holder goes on listening.

What talks to registries and stores and unpacks archives is never loaded into the holder.
"""

from __future__ import annotations

import os

from jobs.runner import plain, spawn

_PROGRESS_BYTES = 65536


class FetchError(Exception):
    """It cannot be had; the text says why and what to do."""


class Fetch:
    """One fetch; ``ended_fd`` becomes readable when it is over."""

    def __init__(
        self, verb: str, arguments: dict[str, Any], what: str, secret: dict[str, Any] | None = None
    ) -> None:
        """Start it.

        Args:
            verb: of the runner's, that does it.
            arguments: which everybody may read.
            what: is fetched, in words.
            secret: what only it may know; it comes by its standard input.
        """
        self._what = what
        given, give = os.pipe()
        os.write(give, plain.dumps(secret or {}).encode())  # below a pipe's 64 KiB: does not block
        os.close(give)
        self._result, result_end = os.pipe()
        self._log, log_end = os.pipe()
        os.set_blocking(self._log, False)
        self._said = ""
        self.pid = spawn.start_interpreter(
            [verb, plain.dumps(arguments)], [given, result_end, log_end]
        )
        for fd in (given, result_end, log_end):
            os.close(fd)
        self.ended_fd = os.pidfd_open(self.pid)

    def progress(self) -> str:
        """Return in words how far it has come."""
        try:
            said = os.read(self._log, _PROGRESS_BYTES).decode(errors="replace").strip()
        except BlockingIOError:
            said = ""
        self._said = said.rpartition("\n")[2] or self._said
        return self._said or f"fetching {self._what}"

    def finish(self) -> None:
        """Collect what ended.

        Raises:
            FetchError: it failed.
        """
        said = self.progress()
        with open(self._result, "rb") as result:
            text = result.read()
        os.waitpid(self.pid, 0)
        os.close(self.ended_fd)
        os.close(self._log)
        answer = plain.loads(text) if text else {"error": f"fetching {self._what} failed: {said}"}
        if "error" in answer:
            raise FetchError(answer["error"])


TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any
