"""What a user would take instead: a bare ``runc`` over the same root file system.

It stands in for ``docker run`` and ``docker exec``, which do the same and more on their way to it:
no daemon, no registry, no writable layer, no network but loopback.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


class Runc:
    """Runs containers from a bundle whose root is a read-only layer."""

    def __init__(self, directory: Path, layer: Path) -> None:
        self._directory, self._state = directory, directory / "state"
        subprocess.run(["runc", "spec"], cwd=directory, check=True)
        self._spec = json.loads((directory / "config.json").read_text())
        self._spec["root"] = {"path": str(layer), "readonly": True}
        self._spec["process"]["terminal"] = False
        self._count = 0

    def _name(self) -> str:
        self._count += 1
        return f"yurt-bench-{os.getpid()}-{self._count}"

    def _write(self, *arguments: str) -> None:
        self._spec["process"]["args"] = list(arguments)
        (self._directory / "config.json").write_text(json.dumps(self._spec))

    def _call(self, *arguments: str) -> None:
        # No pipes: a detached container would hold them open.
        null = subprocess.DEVNULL
        command = ["runc", "--root", str(self._state), *arguments]
        subprocess.run(command, cwd=self._directory, stdin=null, stdout=null, check=True)

    def run(self) -> None:
        """``docker run --rm IMAGE true``."""
        self._write("true")
        self._call("run", self._name())

    @contextlib.contextmanager
    def running(self) -> Iterator[str]:
        """A container that does nothing, to execute in."""
        self._write("sleep", "100000")
        name = self._name()
        self._call("run", "--detach", "--pid-file", str(self._directory / "pid"), name)
        try:
            yield name
        finally:
            self._call("delete", "--force", name)

    def execute(self, name: str) -> None:
        """``docker exec CONTAINER true``."""
        self._call("exec", name, "true")


@contextlib.contextmanager
def runc(data: Path) -> Iterator[Runc]:
    """Bare runc over the default snapshot of a data directory."""
    image = json.loads(next((data / "images").glob("*.json")).read_text())
    layer = data / "images" / "layers" / image["layers"][0]
    with tempfile.TemporaryDirectory(prefix="yurt-bench-", dir="/var/tmp") as name:
        yield Runc(Path(name), layer)
