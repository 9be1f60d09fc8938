"""Fetch an image in a process of its own, while the holder goes on listening.

What talks to the registry and unpacks archives is never loaded into the holder.
"""

from __future__ import annotations

import json
import os

from jobs.runner import spawn

_PROGRESS_BYTES = 65536


class FetchError(Exception):
    """The image cannot be had; the text says why and what to do."""


class Fetch:
    """One fetch; ``ended_fd`` becomes readable when it is over."""

    def __init__(self, data: str, image_id: str, registry: str) -> None:
        """Start it."""
        arguments = {"data": data, "image_id": image_id, "registry": registry}
        self._image_id = image_id
        null = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        self._result, result_end = os.pipe()
        self._log, log_end = os.pipe()
        os.set_blocking(self._log, False)
        self._said = ""
        self.pid = spawn.start_interpreter(
            ["fetch-image", json.dumps(arguments)], [null, result_end, log_end]
        )
        for fd in (null, result_end, log_end):
            os.close(fd)
        self.ended_fd = os.pidfd_open(self.pid)

    def progress(self) -> str:
        """Return in words how far it has come."""
        try:
            said = os.read(self._log, _PROGRESS_BYTES).decode(errors="replace").strip()
        except BlockingIOError:
            said = ""
        self._said = said.rpartition("\n")[2] or self._said
        return self._said or f"fetching image {self._image_id}"

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
        answer = json.loads(text) if text else {"error": f"fetching the image failed: {said}"}
        if "error" in answer:
            raise FetchError(answer["error"])
