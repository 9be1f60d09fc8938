"""An agent as a child process on a loopback port, started as in a sandbox: ``-I -S``, no ssl."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager, suppress
from http.client import HTTPConnection
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlencode

import httptools

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

SECRET = "0123456789abcdef"
SECONDS = 20.0

PLACES = (
    Path(__file__).parents[2] / "image" / "agent",
    Path(httptools.__file__).parents[1],
)
# The bundle's Python has no ssl; asyncio then does without it.
START = """
import sys
sys.modules["ssl"] = None
sys.path[:0] = sys.argv[2:]
from yurt_agent.main import main
sys.exit(main())
"""


class Answer(NamedTuple):
    """A whole response; header names are lower-case."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        """Parse the body."""
        return json.loads(self.body)


class AgentRig:
    """One running agent."""

    def __init__(self, *, public: Path | None = None, env: Mapping[str, str] | None = None) -> None:
        """Start it and wait until it listens.

        Args:
            public: an empty directory that every user may enter; if given, Python and the agent
                are mounted there (in a mount namespace of their own, so as root only), because
                an agent that has become another user must still be able to import.
            env: added to its own environment.
        """
        self.port = _free_port()
        python, places = Path(sys.executable), list(PLACES)
        enter: list[str] = []
        if public is not None:
            prefix, *mounted = [public / name for name in ("python", "agent", "packages")]
            script = "".join(
                f"mkdir -p {target} && mount --bind {source} {target} && "
                for source, target in zip(
                    [Path(sys.base_prefix), *places], [prefix, *mounted], strict=True
                )
            )
            enter = ["unshare", "--mount", "sh", "-c", f'{script} exec "$@"', "sh"]
            python = prefix / "bin" / f"python3.{sys.version_info.minor}"
            places = mounted
        command = [str(python), "-I", "-S", "-X", "utf8", "-c", START, str(self.port)]
        self.process = subprocess.Popen(
            [*enter, *command, *map(str, places)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={"PATH": os.environ["PATH"], "LC_ALL": "C", **(env or {})},
            start_new_session=True,
        )
        assert self.event() == b"L"

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens."""
        return "127.0.0.1", self.port

    def event(self) -> bytes:
        """Read the next byte that it tells the runner; empty at its end."""
        assert self.process.stdout is not None
        return self.process.stdout.read(1)

    def order(self, **order: object) -> None:
        """Write one line as the runner does."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(order).encode() + b"\n")
        self.process.stdin.flush()

    def assign(self, **changes: object) -> bytes:
        """Give it an assignment and return the event that follows."""
        order: dict[str, object] = {
            "op": "assign",
            "secret": SECRET,
            "sandbox_id": "s" * 26,
            "env": {"HOME": "/nonexistent"},  # login shells read nothing of the tester's
            "user": str(os.getuid()),
            "workdir": "",
            "entrypoint": [],
        }
        self.order(**{**order, **changes})
        return self.event()

    def request(
        self,
        method: str,
        route: str,
        body: Any = None,
        *,
        headers: Mapping[str, str] | None = None,
        **query: Any,
    ) -> Answer:
        """Send one request with the secret; a dictionary goes as JSON, ``query`` in the address."""
        given = {"X-Yurt-Secret": SECRET, **(headers or {})}
        if isinstance(body, dict):
            body, given["Content-Type"] = json.dumps(body), "application/json"
        if query:
            route += "?" + urlencode(query)
        connection = HTTPConnection(*self.address, timeout=SECONDS)
        try:
            connection.request(method, route, body, given)
            response = connection.getresponse()
            raw = response.read()
        finally:
            connection.close()
        return Answer(
            response.status, {name.lower(): value for name, value in response.getheaders()}, raw
        )

    def connect(self) -> socket.socket:
        """Open a raw connection."""
        return socket.create_connection(self.address, timeout=SECONDS)

    def memory_kib(self, field: str = "VmHWM") -> int:
        """Read its peak (VmHWM) or present (VmRSS) memory."""
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith(field + ":"):
                return int(line.split()[1])
        raise LookupError(field)

    def stop(self) -> int:
        """Tell it to stop, as the runner does, and return its exit code."""
        self.order(op="stop")
        return self.process.wait(SECONDS)

    def log(self) -> str:
        """Return all that it wrote to its log; only after its end."""
        assert self.process.stderr is not None
        return self.process.stderr.read().decode()

    def _pipes(self) -> set[Path]:
        """Return the directory of its commands' pipes, while a command has them open."""
        opened = set[Path]()
        for descriptor in Path(f"/proc/{self.process.pid}/fd").iterdir():
            with suppress(FileNotFoundError):
                opened.add(descriptor.readlink().parent)
        return {directory for directory in opened if directory.name.startswith(".yurt-")}

    def close(self) -> None:
        """End it in every case; a killed one cannot tidy up, so that is done for it."""
        left = set[Path]()
        if self.process.poll() is None:
            left = self._pipes()
            self.process.send_signal(signal.SIGKILL)
        self.process.wait(SECONDS)
        for directory in left:
            shutil.rmtree(directory, ignore_errors=True)
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            if pipe is not None and not pipe.closed:
                pipe.close()


@contextmanager
def running_agent(*, public: Path | None = None, **assignment: object) -> Iterator[AgentRig]:
    """Run an agent that has its assignment."""
    rig = AgentRig(public=public)
    try:
        assert rig.assign(**assignment) == b"R"
        yield rig
    finally:
        rig.close()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
