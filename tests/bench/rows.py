"""The rows of the table in design.md section 9 that exist, each measured through the front door."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import ctypes
import http.client
import json
import os
import socket
import sqlite3
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from control.model import StoppedBy
from control.naming import SandboxId, new_sandbox_id
from tests.bench.figures import Row, milliseconds
from tests.bench.peers import runc
from tests.e2e.sdk.__main__ import drive
from tests.support.api import Api
from tests.support.processes import holder_of_lock
from tests.support.store import opened
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.api import Sandbox
    from tests.support.instance import Instance

GIB = 1 << 30
PORT = 8123
LISTED = 1000
MANY = 100_000
MARK = "bench"
LOOPBACK = "127.0.0.1"
_PAGE = Path(__file__).parent.parent / "e2e" / "inside" / "page.py"


class Bench:
    """One server, and how often to measure."""

    def __init__(self, instance: Instance, times: int) -> None:
        self.instance, self.times = instance, times
        self.api = Api(instance)

    def sandbox(self) -> contextlib.AbstractContextManager[Sandbox]:
        return self.api.sandbox(labels={"made-by": MARK})

    def connection(self, sandbox: Sandbox) -> Connection:
        return Connection(self.instance, sandbox)


class Connection:
    """One that is kept alive, without a client library's own time."""

    def __init__(self, instance: Instance, sandbox: Sandbox) -> None:
        parts = urlsplit(instance.base_url)
        self._connection = http.client.HTTPConnection(parts.hostname or "", parts.port)
        self._id = sandbox.id
        self._body = json.dumps({"command": "true"})
        self._headers = {
            "Authorization": f"Bearer {instance.key}",
            "Content-Type": "application/json",
        }

    def execute(self) -> None:
        """Run a command by the toolbox."""
        said = self._ask("POST", f"/toolbox/{self._id}/process/execute", self._body)
        assert said["exitCode"] == 0, said

    def record(self) -> None:
        """Get the sandbox."""
        assert self._ask("GET", f"/api/sandbox/{self._id}")["id"] == self._id

    def _ask(self, method: str, path: str, body: str | None = None) -> dict[str, Any]:
        self._connection.request(method, path, body, self._headers)
        said: dict[str, Any] = json.loads(self._connection.getresponse().read())
        return said

    def close(self) -> None:
        self._connection.close()


def create(bench: Bench) -> Iterator[Row]:
    """Create → first command, cold."""
    made: list[Sandbox] = []

    def first_command() -> None:
        sandbox = bench.api.create(labels={"made-by": MARK})
        made.append(sandbox)
        sandbox.check("true")

    try:
        samples = milliseconds(first_command, bench.times, warm_up=1)
    finally:
        for sandbox in made:
            sandbox.delete()
    with runc(bench.instance.data) as bare:
        peer = milliseconds(bare.run, bench.times, warm_up=1)
    yield Row("create → first command, cold", samples, "ms", "250 / 400", "runc run", peer)


def herd(bench: Bench) -> Iterator[Row]:
    """Many creates at once."""

    def one(_: int) -> tuple[float, Sandbox]:
        started = time.perf_counter()
        sandbox = bench.api.create(labels={"made-by": MARK})
        return (time.perf_counter() - started) * 1000, sandbox

    with concurrent.futures.ThreadPoolExecutor(bench.times) as pool:
        results = list(pool.map(one, range(bench.times)))
    for _, sandbox in results:
        sandbox.delete()
    yield Row(f"{bench.times} creates at once", [spent for spent, _ in results])


def execute(bench: Bench) -> Iterator[Row]:
    """Exec in a running sandbox, by raw HTTP through Traefik."""
    times = bench.times * 10
    with bench.sandbox() as sandbox, contextlib.closing(bench.connection(sandbox)) as client:
        samples = milliseconds(client.execute, times, warm_up=10)
    with runc(bench.instance.data) as bare, bare.running() as name:
        peer = milliseconds(lambda: bare.execute(name), bench.times, warm_up=1)
    yield Row("exec in a running sandbox", samples, "ms", "8 / 20", "runc exec", peer)


def preview(bench: Bench) -> Iterator[Row]:
    """A small page through Traefik and gate, against a connection straight to the sandbox."""
    times = bench.times * 20
    with bench.sandbox() as sandbox:
        sandbox.upload(_PAGE.read_bytes(), "/tmp/page.py")
        sandbox.background(f"python3 /tmp/page.py {PORT} text >/dev/null 2>&1")
        url, headers = sandbox.preview(PORT)
        parts = urlsplit(url)
        # By address: what a name costs to resolve is not the gate's.
        through = http.client.HTTPConnection(LOOPBACK, parts.port)
        direct = http.client.HTTPConnection(LOOPBACK, PORT)
        headers["Host"] = parts.netloc

        def get(connection: http.client.HTTPConnection, more: dict[str, str]) -> int:
            connection.request("GET", "/", headers=more)
            answer = connection.getresponse()
            answer.read()
            return answer.status

        eventually(lambda: get(through, headers) == 200, "the page")
        direct.sock = connect_inside(bench.instance, sandbox, PORT)
        straight = milliseconds(lambda: get(direct, {}), times, warm_up=20)
        over = milliseconds(lambda: get(through, headers), times, warm_up=20)
        through.close()
        direct.close()
    difference = [a - b for a, b in zip(sorted(over), sorted(straight), strict=True)]
    yield Row("preview: overhead over a direct connection", difference, "ms", "2 / 10")
    yield Row("preview: whole request", over, "ms", "", "direct", straight)


def connect_inside(instance: Instance, sandbox: Sandbox, port: int) -> socket.socket:
    """Connect to a port of the sandbox's loopback, with nothing in between."""
    lock = instance.data / "run" / "sandboxes" / sandbox.id / "lock"
    here = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    networks = {str(Path(f"/proc/{pid}/ns/net").readlink()): pid for pid in family(lock)}
    (pid,) = (
        pid for name, pid in networks.items() if name != str(Path("/proc/self/ns/net").readlink())
    )
    there = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY)
    set_namespace = ctypes.CDLL(None, use_errno=True).setns
    # A socket stays in the namespace that it was made in.
    assert set_namespace(there, 0) == 0
    made = socket.socket()
    assert set_namespace(here, 0) == 0
    os.close(here)
    os.close(there)
    made.connect((LOOPBACK, port))
    return made


def stop_and_start(bench: Bench) -> Iterator[Row]:
    """Stop an idle sandbox and start it again."""
    stops, starts = [], []
    with bench.sandbox() as sandbox:
        for _ in range(bench.times):
            sandbox.check("true")
            stops += milliseconds(sandbox.stop, 1)
            starts += milliseconds(sandbox.start, 1)
    yield Row("stop (idle), the disk kept", stops, "ms", "150")
    yield Row("start again", starts, "ms", "300")


def wake(bench: Bench) -> Iterator[Row]:
    """A request to a sandbox that its timer stopped, held until the sandbox answers it."""
    samples = []
    with bench.sandbox() as sandbox, contextlib.closing(bench.connection(sandbox)) as client:
        for _ in range(bench.times):
            sandbox.stop()
            asyncio.run(_by_timer(bench.instance, sandbox.id))
            samples += milliseconds(client.execute, 1)
    yield Row("request to a stopped one → its answer", samples, "ms", "≤ 800")


async def _by_timer(instance: Instance, sandbox_id: str) -> None:
    """Have it look as if its timer had stopped it: real timers take a minute."""
    async with opened(instance) as store:
        await store.sandboxes.change(
            SandboxId(sandbox_id), lambda record: replace(record, stopped_by=StoppedBy.COLLECTOR)
        )


def memory(bench: Bench) -> Iterator[Row]:
    """Proportional set size of everything that one idle sandbox keeps running."""
    with contextlib.ExitStack() as stack:
        made = [stack.enter_context(bench.sandbox()) for _ in range(5)]
        for sandbox in made:
            sandbox.check("true")
        samples = [_pss_mib(bench.instance, sandbox) for sandbox in made]
    yield Row("idle cost per sandbox", samples, "MB PSS", "40")


def _pss_mib(instance: Instance, sandbox: Sandbox) -> float:
    lock = instance.data / "run" / "sandboxes" / sandbox.id / "lock"
    total = 0
    for pid in family(lock):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1])
    return total / 1024


def family(lock: Path) -> list[int]:
    """The process that holds a lock, and all that came from it."""
    found = [holder_of_lock(lock).pid]
    for pid in found:
        for task in Path(f"/proc/{pid}/task").iterdir():
            found += map(int, (task / "children").read_text().split())
    return found


def transfer(bench: Bench) -> Iterator[Row]:
    """1 GiB up and down through the newest SDK."""
    ran = drive("newest_async", bench.instance.variables, GIB, capture=True)
    if ran.returncode:
        raise RuntimeError(ran.stdout[-2000:])
    seconds = json.loads(ran.stdout.splitlines()[-1])["seconds"]
    for verb in ("upload_file", "download_file"):
        rate = GIB / 1e6 / seconds[f"{verb}: {GIB} bytes"]
        yield Row(f"{verb} of 1 GiB through the SDK", [rate], "MB/s", "≥ 200")


def read(bench: Bench) -> Iterator[Row]:
    """One record, and a list of a thousand."""
    with bench.sandbox() as sandbox, contextlib.closing(bench.connection(sandbox)) as client:
        samples = milliseconds(client.record, bench.times * 20, warm_up=20)
        sandbox.stop()
        copies = _copy(bench.instance, sandbox.id, LISTED - 1)
        try:
            lists = milliseconds(lambda: _list(bench), bench.times, warm_up=1)
        finally:
            _remove(bench.instance, copies)
    yield Row("GET /sandbox/{id}", samples, "ms", "3 / 10")
    yield Row(f"list of {LISTED}", lists, "ms", "100")


def _list(bench: Bench) -> None:
    # The oldest dialect lists everything in one answer.
    answer = bench.api.call("GET", "/sandbox", headers={"X-Daytona-SDK-Version": "0.21.0"})
    assert len(answer.json()) == LISTED


def _copy(instance: Instance, sandbox_id: str, count: int) -> list[SandboxId]:
    """Write further records like that of a stopped sandbox; making them would take minutes."""
    made = [new_sandbox_id() for _ in range(count)]
    with _records(instance) as records:
        names = [row[1] for row in records.execute("PRAGMA table_info(sandboxes)")]
        same = ", ".join(name for name in names if name not in {"id", "name"})
        records.executemany(
            f"INSERT INTO sandboxes (id, name, {same}) SELECT ?, ?, {same} FROM sandboxes"
            " WHERE id = ?",
            [(name, name, sandbox_id) for name in made],
        )
    return made


def _remove(instance: Instance, made: list[SandboxId]) -> None:
    with _records(instance) as records:
        records.executemany("DELETE FROM sandboxes WHERE id = ?", [(name,) for name in made])


@contextlib.contextmanager
def _records(instance: Instance) -> Iterator[sqlite3.Connection]:
    """The server's own file: what is done in it is one transaction."""
    with contextlib.closing(sqlite3.connect(instance.data / "yurt.db")) as records, records:
        yield records


def many(bench: Bench) -> Iterator[Row]:
    """Creates beside a hundred thousand records, against creates before there were any."""
    (before,) = create(bench)
    with bench.sandbox() as sandbox:
        sandbox.stop()
        _copy(bench.instance, sandbox.id, MANY)
        (after,) = create(bench)
    what = f"create beside {MANY} records"
    yield replace(after, what=what, target="", peer_name="without", peer=before.samples)


ROWS = (create, execute, preview, stop_and_start, wake, memory, transfer, read)
ON_REQUEST = (herd, many)
