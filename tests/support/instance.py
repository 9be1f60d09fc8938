"""An embedded server of the tests' own, driven as its users do: by ``./yurt``."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import socket
import subprocess
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support import census, images

if TYPE_CHECKING:
    from collections.abc import Iterator

REPOSITORY = Path(__file__).parents[2]
LOG_TAIL = 4000
UP_SECONDS = 900  # the default snapshot is made in it, from packages
SETTLE_SECONDS = 10  # the kernel takes links and namespaces away after their processes


@dataclass(eq=False)
class Instance:
    """One data directory and port.

    ``settings`` are further ``YURT_*`` variables; ``slowness`` stretches every time limit, for
    machines that are emulated.
    """

    data: Path
    port: int
    settings: dict[str, str] = field(default_factory=dict)
    variables: dict[str, str] = field(default_factory=dict)
    slowness: int = 1

    @classmethod
    @contextlib.contextmanager
    def temporary(cls, **settings: str) -> Iterator[Instance]:
        """Yield an instance that is not up; afterwards it is purged and nothing may be left.

        Raises:
            AssertionError: something of it was still there after ``down --purge``.
        """
        parent = Path(tempfile.mkdtemp(prefix="yurt-test-", dir="/var/tmp"))
        instance = cls(parent / "data", free_port(), settings)
        try:
            before = census.take(instance.data)
            before["file"].discard(str(parent))
            yield instance
        finally:
            instance.down("--purge")
            shutil.rmtree(parent)
        instance.expect_nothing_left(before)

    def expect_nothing_left(self, before: census.Census) -> None:
        """Compare with a count from before; the kernel gets some seconds to clear away."""
        end = time.monotonic() + SETTLE_SECONDS * self.slowness
        while lines := census.difference(before, census.take(self.data)):
            if time.monotonic() > end:
                raise AssertionError("after `down --purge`:\n" + "\n".join(lines))
            time.sleep(0.2)

    def run(
        self, *arguments: str, seconds: float = 120, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run ``./yurt`` with this instance's settings."""
        # Not a pipe: what `up -d` leaves running would hold it open.
        with tempfile.TemporaryFile("w+") as output:
            ran = subprocess.run(
                [REPOSITORY / "yurt", *arguments],
                env=self.environment(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=seconds * self.slowness,
                check=False,
            )
            output.seek(0)
            ran.stdout = output.read()
        if check and ran.returncode:
            raise AssertionError(f"yurt {' '.join(arguments)}: {ran.returncode}\n{ran.stdout}")
        return ran

    def environment(self) -> dict[str, str]:
        """Variables for a program that works on this instance."""
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("YURT_", "DAYTONA_"))}
        here = {"YURT_DATA": str(self.data), "YURT_PORT": str(self.port)}
        return {**inherited, **self.settings, **here}

    def up(self) -> float:
        """Start in the background; return the seconds until it was ready."""
        images.borrow(self.data)
        started = time.monotonic()
        self.run("up", "-d", seconds=UP_SECONDS)
        spent = time.monotonic() - started
        images.keep(self.data)
        self.variables = parse_exports(self.run("env").stdout)
        return spent

    def down(self, *arguments: str) -> None:
        self.run("down", *arguments)

    def logs(self) -> str:
        """The end of every log of the server and of the runners that there are."""
        found = [*self.data.glob("log/*.log"), *self.data.glob("run/sandboxes/*/*.log")]
        parts = [f"--- {path}\n{path.read_text(errors='replace')[-LOG_TAIL:]}" for path in found]
        return "\n".join(parts)

    @property
    def api_url(self) -> str:
        return self.variables["DAYTONA_API_URL"]

    @property
    def base_url(self) -> str:
        return self.api_url.removesuffix("/api")

    @property
    def key(self) -> str:
        return self.variables["DAYTONA_API_KEY"]


def parse_exports(text: str) -> dict[str, str]:
    """Read ``export NAME=VALUE`` lines as a shell would."""
    found = {}
    for name, value in re.findall(r"^export (\w+)=(.*)$", text, re.MULTILINE):
        found[name] = shlex.split(value)[0] if value else ""
    return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
