"""A real PostgreSQL server of the tests' own: one process, its data in a directory, killed and
revived. It listens on a socket in that directory, which nobody else may enter.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

_PROGRAMS = Path("/usr/lib/postgresql")
_SERVER_USER = "postgres"  # the server refuses to run as root
_USER = "yurt"
_SETTINGS = {
    "listen_addresses": "",
    "fsync": "off",  # the machine does not crash under the tests; processes may
    "shared_buffers": "16MB",
    "max_connections": "100",
    "deadlock_timeout": "100ms",
}


@functools.cache
def _program(name: str) -> str:
    found = sorted(_PROGRAMS.glob(f"*/bin/{name}"), key=lambda path: float(path.parts[-3]))
    if not found:
        raise LookupError(f"no {name} below {_PROGRAMS}: ./yurt install --dev installs PostgreSQL")
    return str(found[-1])


def _unprivileged() -> list[str]:
    """Whom to run as, until the tests themselves end."""
    if os.geteuid() != 0:
        return []
    user = [f"--reuid={_SERVER_USER}", f"--regid={_SERVER_USER}", "--init-groups"]
    return ["setpriv", *user, "--pdeathsig=KILL"]


class Postgres:
    """One server with any number of databases."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._server: subprocess.Popen[bytes] | None = None
        self._numbers = itertools.count(1)
        initdb = [_program("initdb"), "--pgdata", str(self.data), "--username", _USER]
        initdb += ["--auth=trust", "--encoding=UTF8", "--no-sync", "--no-instructions"]
        # A language that sorts by other rules than bytes, if the program has ICU.
        initdb += ["--locale=C.UTF-8", "--locale-provider=icu", "--icu-locale=en-US"]
        made = subprocess.run(
            [*_unprivileged(), *initdb],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
            cwd="/",
        )
        assert made.returncode == 0, made.stdout.decode()

    @property
    def data(self) -> Path:
        return self.directory / "data"

    def url(self, database: str) -> str:
        return f"postgresql:///{database}?" + urlencode(
            {"user": _USER, "host": str(self.directory)}
        )

    def start(self) -> None:
        assert self._server is None
        settings = {**_SETTINGS, "unix_socket_directories": str(self.directory)}
        options = [f"--{name}={value}" for name, value in settings.items()]
        log = self.directory / "log"
        with log.open("ab") as output:
            self._server = subprocess.Popen(
                [*_unprivileged(), _program("postgres"), "-D", str(self.data), *options],
                stdout=output,
                stderr=output,
                cwd="/",
                start_new_session=True,
            )
        eventually(self._answers, f"PostgreSQL answers ({log})", seconds=30)

    def _answers(self) -> bool:
        assert self._server is not None
        assert self._server.poll() is None, (self.directory / "log").read_text()
        command = [_program("pg_isready"), "--quiet", "--host", str(self.directory)]
        return subprocess.run(command, check=False).returncode == 0

    def crash(self) -> None:
        """End it at once and without tidying up; the next start recovers from its log."""
        if self._server is not None:
            self._server.send_signal(signal.SIGQUIT)
            self._server.wait(30)
            self._server = None

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """Let none of its processes run."""
        assert self._server is not None
        group = self._server.pid
        os.killpg(group, signal.SIGSTOP)
        children = _children(group)
        for child in children:
            os.kill(child, signal.SIGSTOP)
        try:
            yield
        finally:
            for child in children:
                os.kill(child, signal.SIGCONT)
            os.killpg(group, signal.SIGCONT)

    def run(self, statement: str, database: str = "postgres") -> str:
        """Carry out a statement as an administrator would."""
        command = [_program("psql"), "--no-psqlrc", "--quiet", "--tuples-only", "--no-align"]
        command += ["--set=ON_ERROR_STOP=1", "--command", statement, self.url(database)]
        done = subprocess.run(command, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode()

    def new_database(self, template: str = "template1") -> str:
        """Make a database and return its name."""
        name = f"yurt{next(self._numbers)}"
        self.run(f"CREATE DATABASE {name} TEMPLATE {template}")
        return name


def _children(pid: int) -> list[int]:
    listed = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(child) for child in listed.split()]


@contextlib.contextmanager
def running() -> Iterator[Postgres]:
    """Start a server; it and its data are gone afterwards."""
    directory = Path(tempfile.mkdtemp(prefix="yurt-postgres-"))
    if os.geteuid() == 0:
        shutil.chown(directory, _SERVER_USER, _SERVER_USER)
    server = None
    try:
        server = Postgres(directory)
        server.start()
        yield server
    finally:
        if server is not None:
            server.crash()
        shutil.rmtree(directory)
