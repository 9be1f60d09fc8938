"""The local scheduler: runners as processes of this machine, for a Yurt without Nomad.

It keeps nothing in memory that it could not find again: a runner is its own session, holds a lock
in its run directory, and answers on a socket there. After a restart runners are adopted by lock and
handshake, never by pid.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import logging
import os
import shutil
import signal
import socket
import struct
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from control.errors import ConflictError, NoCapacityError, NotFoundError, UnavailableError
from jobs.installed import install_runner, interpreter
from jobs.node import NodeConfig, prepare, verb_result
from jobs.runner import locks
from jobs.runner.channel import connect_unix
from jobs.runner.layers import WITH_PARENT
from jobs.scheduler import Allocation, Exit, Job, NodeStatus

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Mapping

logger = logging.getLogger(__name__)

NODE = "local"
GATE_ADDRESS = "127.0.0.1"
CORDONED = "cordoned"
_POLL_SECONDS = 0.05
MIB = 1 << 20
_KILL_WAIT_SECONDS = 70.0
_LOG = "runner.log"
_LOG_TAIL_BYTES = 2000


@dataclass(frozen=True, slots=True)
class NodeSettings:
    """What this machine offers and what its sandboxes may reach.

    Attributes:
        data: the data directory.
        key: HMAC key between control and this node's runners.
        bundle: the agent bundle that new sandboxes get.
        resolvers: IPv4 addresses of name servers.
        never: networks that no sandbox reaches, besides the private ones.
        subnet: IPv4 network for the links to sandboxes; a /31 each.
        ports: first and last port for gates.
        memory_reserve: share of its memory limit that a sandbox reserves.
        memory_floor_mib: memory that is left to the machine.
        registry_auth: file of credentials for foreign registries, empty for none.
        disk_overcommit: how many times the volume's space the disks' limits may sum up to.
    """

    data: Path
    key: bytes
    bundle: Path
    resolvers: list[str]
    never: list[str]
    subnet: str
    ports: tuple[int, int] = (20000, 31999)
    memory_reserve: float = 0.25
    memory_floor_mib: int = 256
    disk_overcommit: float = 1.0
    registry_auth: str = ""


@dataclass(slots=True, eq=False)
class _Run:
    """One runner, as its run directory tells it."""

    job: Job
    port: int
    directory: Path
    child: int | None = None
    connection: socket.socket | None = None
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    exit: Exit | None = None

    def allocation(self) -> Allocation:
        return allocation_of(self.job, self.port, self.exit, running=not self.ended.is_set())


class LocalScheduler:
    """``Scheduler`` over this machine; use as an asynchronous context manager."""

    def __init__(self, settings: NodeSettings) -> None:
        self._settings = settings
        self._runs: dict[str, _Run] = {}
        self._changes: asyncio.Queue[str] = asyncio.Queue()
        self._submitting = asyncio.Lock()
        self._followers = asyncio.TaskGroup()

    @property
    def _sandboxes(self) -> Path:
        return self._settings.data / "run" / "sandboxes"

    async def __aenter__(self) -> LocalScheduler:
        """Prepare the node and adopt every runner that lives or has ended."""
        settings = self._settings
        node = NodeConfig(
            name=NODE,
            key=settings.key.hex(),
            subnet=settings.subnet,
            bundle=str(settings.bundle),
            resolvers=settings.resolvers,
            never=settings.never,
            registry_auth=settings.registry_auth,
        )
        self._runner = await asyncio.to_thread(prepare, settings.data, node, logger.info)
        await self._followers.__aenter__()
        for directory in run_directories(settings.data):
            await self._adopt(directory)
        return self

    async def __aexit__(self, *_: object) -> None:
        """Let go of the runners; they go on."""
        for task in list(self._followers._tasks):
            task.cancel()
        await self._followers.__aexit__(None, None, None)
        for run in self._runs.values():
            if run.connection:
                run.connection.close()

    async def _adopt(self, directory: Path) -> None:
        await asyncio.to_thread(_wait_for_job, directory)
        try:
            job, port = read_job(directory)
        except FileNotFoundError:
            shutil.rmtree(directory)  # submit had not come further than the directory
            return
        self._follow(_Run(job, port, directory))

    def _follow(self, run: _Run) -> None:
        self._runs[run.job.sandbox_id] = run
        self._followers.create_task(self._until_end(run))

    async def _until_end(self, run: _Run) -> None:
        """Hold a connection to the runner: its end is the runner's end."""
        loop = asyncio.get_running_loop()
        while _child_lives(run) or locks.is_held(str(run.directory / "lock")):
            connection = _connect(run.directory)
            if connection is None:
                await asyncio.sleep(_POLL_SECONDS)
                continue
            run.connection = connection
            with suppress(ConnectionError):
                while await loop.sock_recv(connection, 4096):
                    pass
            run.connection = None
            connection.close()
        run.exit = read_exit(run.directory)
        run.ended.set()
        self._changes.put_nowait(run.job.sandbox_id)

    async def submit(self, job: Job, *, avoid: Collection[str] = ()) -> Allocation:
        """See ``Scheduler.submit``; it sees itself how much room the disks leave."""
        async with self._submitting:
            run = self._runs.get(job.sandbox_id)
            if run and run.job.generation == job.generation:
                return run.allocation()
            if run and not run.ended.is_set():
                raise ConflictError(f"generation {run.job.generation} of the sandbox still runs")
            await self._require_room(job)
            run = _Run(job, self._free_port(), self._sandboxes / job.sandbox_id)
            await asyncio.to_thread(self._start, run)
            self._follow(run)
            return run.allocation()

    async def _require_room(self, job: Job) -> None:
        """Refuse what would take memory or disk that others were promised."""
        settings = self._settings
        if self._cordon.exists():
            raise NoCapacityError(f"no room: node {NODE} is cordoned; uncordon it")
        memory = _memory_mib()
        reserve = settings.memory_reserve
        running = [r.job for r in self._runs.values() if not r.ended.is_set()]
        reserved = self._reserved_mib()
        wanted = job.memory_mib * reserve
        if reserved + wanted + settings.memory_floor_mib > memory["MemTotal"]:
            raise NoCapacityError(
                f"no room: {len(running)} sandboxes have reserved {reserved:.0f} MiB of memory, "
                f"this one needs {wanted:.0f} MiB more; stop or delete some"
            )
        if wanted + settings.memory_floor_mib > memory["MemAvailable"]:
            raise NoCapacityError(
                f"no room: only {memory['MemAvailable']} MiB of memory are free, this sandbox "
                f"needs {wanted:.0f} MiB with {settings.memory_floor_mib} MiB left to the machine"
            )
        await self._require_disk(job, running)

    async def _require_disk(self, job: Job, running: Collection[Job]) -> None:
        """Refuse what a disk is to have more if others leave no room, also those being made."""
        settings = self._settings
        disks = await asyncio.to_thread(_disk_room, settings.data, settings.disk_overcommit)
        wanted = job.disk_bytes - disks.limits.get(job.sandbox_id, 0)
        if wanted <= 0:
            return
        coming = [j.disk_bytes for j in running if j.sandbox_id not in disks.limits]
        free = disks.free - sum(coming)
        if wanted > free:
            raise NoCapacityError(
                f"no room: the disks of {len(disks.limits) + len(coming)} sandboxes leave "
                f"{max(free, 0) // MIB:.0f} MiB of the volume, this one needs "
                f"{wanted // MIB} MiB more; delete some or enlarge the volume"
            )

    def _free_port(self) -> int:
        first, last = self._settings.ports
        taken = {run.port for run in self._runs.values() if not run.ended.is_set()}
        for port in range(first, last + 1):
            if port not in taken and _can_bind(port):
                return port
        raise NoCapacityError(f"no room: every port from {first} to {last} is taken")

    def _start(self, run: _Run) -> None:
        directory = run.directory
        directory.mkdir(mode=0o700, exist_ok=True)
        for name in ("exit.json", "spec.json", _LOG):
            (directory / name).unlink(missing_ok=True)
        spec = asdict(run.job) | {
            "address": GATE_ADDRESS,
            "port": run.port,
            "data": str(self._settings.data),
        }
        command = [*interpreter(), str(self._runner), "run", str(directory), json.dumps(spec)]
        log = os.open(directory / _LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        fcntl.flock(log, fcntl.LOCK_EX)  # the runner has the log as long as it lives
        null = os.open(os.devnull, os.O_RDONLY)
        try:
            run.child = os.posix_spawn(
                command[0],
                command,
                {"PATH": os.defpath},
                setsid=True,
                file_actions=[(os.POSIX_SPAWN_DUP2, null, 0)]
                + [(os.POSIX_SPAWN_DUP2, log, fd) for fd in (1, 2)],
            )
        finally:
            os.close(log)
            os.close(null)

    async def stop(self, sandbox_id: str, *, grace_seconds: float) -> None:
        """See ``Scheduler.stop``."""
        run = self._runs.get(sandbox_id)
        if run is None or run.ended.is_set():
            return
        if run.connection:
            with suppress(ConnectionError):
                run.connection.send(b"s")
        elif run.child is not None:
            os.kill(run.child, signal.SIGTERM)  # it has only just been started
        with suppress(TimeoutError):
            await asyncio.wait_for(run.ended.wait(), grace_seconds)
            return
        _kill(run)
        try:
            await asyncio.wait_for(run.ended.wait(), _KILL_WAIT_SECONDS)
        except TimeoutError as error:
            raise UnavailableError(f"the runner of {sandbox_id} does not end") from error

    async def allocation(self, sandbox_id: str) -> Allocation | None:
        """See ``Scheduler.allocation``."""
        run = self._runs.get(sandbox_id)
        return run.allocation() if run else None

    async def allocations(self) -> list[Allocation]:
        """See ``Scheduler.allocations``."""
        return [run.allocation() for run in self._runs.values()]

    async def forget(self, sandbox_id: str) -> None:
        """See ``Scheduler.forget``."""
        run = self._runs.get(sandbox_id)
        if run is None:
            return
        if not run.ended.is_set():
            raise ConflictError(f"the runner of {sandbox_id} still runs")
        with suppress(FileNotFoundError):
            await asyncio.to_thread(shutil.rmtree, run.directory)
        del self._runs[sandbox_id]

    async def changes(self) -> AsyncIterator[str]:
        """See ``Scheduler.changes``."""
        while True:
            yield await self._changes.get()

    async def work(
        self, verb: str, arguments: Mapping[str, Any], *, node: str = ""
    ) -> dict[str, Any]:
        """See ``Scheduler.work``."""
        if node not in {"", NODE}:
            raise UnavailableError(f"{verb} cannot be done on {node}: there is only node {NODE}")
        return await self._verb(verb, {"data": str(self._settings.data), **arguments})

    async def nodes(self) -> list[NodeStatus]:
        """See ``Scheduler.nodes``: there is this machine."""
        status = NodeStatus(
            name=NODE,
            address=GATE_ADDRESS,
            is_ready=True,
            is_cordoned=self._cordon.exists(),
            node_class="",
            version="",
            memory_mib=_memory_mib()["MemTotal"],
            memory_reserved_mib=round(self._reserved_mib()),
            disk_mib=await self._disk_mib(),
        )
        return [status]

    async def disk_sizes(self) -> dict[str, int]:
        """See ``Scheduler.disk_sizes``."""
        return {NODE: await self._disk_mib()}

    async def _disk_mib(self) -> int:
        settings = self._settings
        disks = await asyncio.to_thread(_disk_room, settings.data, settings.disk_overcommit)
        return int(disks.free + sum(disks.limits.values())) // MIB

    async def cordon(self, node: str, *, on: bool) -> None:
        """See ``Scheduler.cordon``; it holds over restarts."""
        if node != NODE:
            raise NotFoundError(f"no such node: {node} (there is only {NODE})")
        if on:
            self._cordon.touch(mode=0o600)
        else:
            self._cordon.unlink(missing_ok=True)

    @property
    def _cordon(self) -> Path:
        return self._settings.data / CORDONED

    def _reserved_mib(self) -> float:
        running = [run.job for run in self._runs.values() if not run.ended.is_set()]
        return sum(job.memory_mib for job in running) * self._settings.memory_reserve

    async def _verb(self, verb: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        return await run_verb(self._runner, verb, arguments)


async def run_verb(runner: Path, verb: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Run one of the runner's one-shot verbs; it ends when this process does, or is cancelled.

    Raises:
        UnavailableError: it failed; the text is the verb's own.
    """
    process = await asyncio.create_subprocess_exec(
        *(*WITH_PARENT, *interpreter()),
        str(runner),
        verb,
        json.dumps(arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        output, errors = await process.communicate()
    except asyncio.CancelledError:
        process.kill()  # whoever asked does not want it any more
        await process.wait()
        raise
    return verb_result(verb, process.returncode or 0, output.decode(), errors.decode())


async def teardown(data: Path) -> None:
    """Stop every runner of a data directory and undo what the node was prepared with.

    Used when the whole installation is removed; control must not run any more.

    Raises:
        UnavailableError: something could not be ended; nothing more is undone.
    """
    runner = await asyncio.to_thread(install_runner, data)
    runs = run_directories(data)
    for directory in runs:
        connection = _connect(directory)
        if connection is not None:
            with connection:
                connection.send(b"s")
    for directory in runs:
        async with asyncio.timeout(_KILL_WAIT_SECONDS):
            await asyncio.to_thread(locks.wait, str(directory / "lock"))
    await run_verb(runner, "sweep", {"data": str(data)})
    await run_verb(runner, "forget-node", {})


def run_directories(data: Path) -> list[Path]:
    """List the run directories of a data directory."""
    sandboxes = data / "run" / "sandboxes"
    return sorted(sandboxes.iterdir()) if sandboxes.is_dir() else []


@dataclass(frozen=True, slots=True)
class _DiskRoom:
    limits: dict[str, int]
    free: float


def _disk_room(data: Path, overcommit: float) -> _DiskRoom:
    """Sum up what the disks may grow to, against what the volume has for them, in bytes."""
    volume = os.statvfs(data / "disks")
    limits, used = {}, 0
    for image in (data / "disks").glob("*/disk.img"):
        try:
            status = image.stat()
        except FileNotFoundError:
            continue  # deleted since it was listed
        limits[image.parent.name] = status.st_size
        used += status.st_blocks * 512
    room = volume.f_bavail * volume.f_frsize + used
    return _DiskRoom(limits, room * overcommit - sum(limits.values()))


def _memory_mib() -> dict[str, int]:
    lines = Path("/proc/meminfo").read_text().splitlines()
    return {name: int(rest.split()[0]) >> 10 for name, _, rest in (x.partition(":") for x in lines)}


def _can_bind(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((GATE_ADDRESS, port))
        except OSError:
            return False
    return True


def _wait_for_job(directory: Path) -> None:
    """Wait until a runner that has just been started has written its job, or is gone."""
    while not (directory / "spec.json").exists() and locks.is_held(str(directory / _LOG)):
        time.sleep(_POLL_SECONDS)


def _child_lives(run: _Run) -> bool:
    """Tell whether the process that we started lives; what was adopted has only its lock."""
    if run.child is None:
        return False
    try:
        pid, _ = os.waitpid(run.child, os.WNOHANG)
    except ChildProcessError:
        pid = run.child
    if pid:
        run.child = None
    return run.child is not None


def _connect(directory: Path) -> socket.socket | None:
    """Connect to a runner's socket, or return None if nothing listens there."""
    try:
        connection = socket.socket(fileno=connect_unix(str(directory / "sock")).detach())
    except OSError:
        return None
    connection.setblocking(False)
    return connection


def _kill(run: _Run) -> None:
    """Kill a runner's guard, whose pid is safe to use while it is our child or connected to us."""
    if run.child is not None:
        os.kill(run.child, signal.SIGKILL)
    elif run.connection is not None:
        credentials = run.connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        pid, _, _ = struct.unpack("3i", credentials)
        os.kill(pid, signal.SIGKILL)


def allocation_of(job: Job, port: int, ended: Exit | None, *, running: bool) -> Allocation:
    """Describe a job of this machine."""
    where = NODE, GATE_ADDRESS, port
    return Allocation(job.sandbox_id, job.generation, *where, running, ended)


def read_job(directory: Path) -> tuple[Job, int]:
    """Read from a run directory what runs or ran there, and the port of its gate.

    Raises:
        FileNotFoundError: nothing was started there yet.
    """
    spec = json.loads((directory / "spec.json").read_text())
    job = Job(**{name: spec[name] for name in Job.__slots__ if name in spec})
    return job, int(spec["port"])


def is_live(directory: Path) -> bool:
    """Tell whether the runner of a run directory lives, also one that was just started."""
    return any(locks.is_held(str(directory / name)) for name in ("lock", _LOG))


def read_exit(directory: Path) -> Exit:
    """Read from a run directory how its runner ended."""
    try:
        said = json.loads((directory / "exit.json").read_text())
    except FileNotFoundError:
        log = directory / _LOG
        tail = log.read_text(errors="replace")[-_LOG_TAIL_BYTES:].strip() if log.exists() else ""
        last = f": {tail.splitlines()[-1]}" if tail else ""
        return Exit(f"the runner was killed{last}", 137, "unknown", datetime.now(UTC))
    return Exit(
        said["reason"], said["code"], said["phase"], datetime.fromtimestamp(said["at"], UTC)
    )
