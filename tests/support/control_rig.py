"""A whole control over doubles: no runner, no Traefik, no socket.

The doubles of runners speak the real messages, through the real application.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import httpx

from control.app import Adapters, Control, now
from control.errors import UnavailableError
from control.model import Node, SnapshotState, VolumeState
from control.settings import Settings
from control.vault import Keys, new_api_key
from jobs.memory import DISK_MIB, NODE, MemoryScheduler
from jobs.runner.gate_holder import MESSAGE_LIMIT
from jobs.runner.message import UP, UP_ANSWER, Head, seal, unseal
from tests.support.public import deviations, operation_of
from tests.support.records import a_snapshot, a_store
from traefik.memory import MemoryRegistry

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
    from pathlib import Path

    from control.model import Run
    from control.store import Store
    from control.store.sql import SqlStore
    from jobs.scheduler import Allocation, Job

NODE_KEY = bytes(range(32))
FENCED = {404, 409}
AWAY = {500, 503}


class Runner:
    """What control sees of one start of one sandbox."""

    def __init__(self, rig: Rig, job: Job) -> None:
        self.rig, self.job = rig, job
        self.incarnation = secrets.token_hex(16)
        self.sequence = 0
        self.last_down = 0
        self.phase = "assign"
        self.assignment: dict[str, Any] = {}
        self.orders: list[str] = []
        self.answers = True
        self.idle_seconds = 0.0
        self.warned = self.closed = False

    def head(self) -> Head:
        self.sequence += 1
        return Head(NODE, self.job.sandbox_id, self.job.generation, self.incarnation, self.sequence)

    async def report(self, phase: str, **facts: Any) -> httpx.Response:
        """Send a report until control takes it, and check the seal of its answer."""
        while True:
            head = self.head()
            answer = await self.rig.report(head, {"phase": phase, **facts})
            if answer.status_code not in AWAY:
                break
            await asyncio.sleep(0.005)
        if answer.status_code == 200:
            answered = unseal(NODE_KEY, UP_ANSWER, answer.headers, answer.content)
            assert answered.fields() == head.fields()
        return answer

    async def claim(self) -> bool:
        answer = await self.report("assign", facts={})
        if answer.status_code in FENCED:
            self.rig.scheduler.end(self.job.sandbox_id, "fenced", code=1, phase="assign")
            return False
        assert answer.status_code == 200, answer.text
        self.assignment = answer.json()
        return True

    @property
    def version(self) -> int:
        return int(self.assignment.get("version", 0))

    async def boot(self) -> None:
        if await self.claim():
            self.phase = "ready"
            await self.report("ready", boot_ms={})

    async def stop(self) -> None:
        self.phase = "stopping"
        await self.report("exit", reason="", code=0, reached="stopping")
        self.rig.scheduler.end(self.job.sandbox_id, "", phase="stopping")

    def take(self, run: Run, order: Mapping[str, Any]) -> dict[str, Any]:
        """Carry out an order as the holder does."""
        if not self.answers:
            raise UnavailableError("the runner does not answer")
        if (run.generation, run.incarnation) != (self.job.generation, self.incarnation):
            raise UnavailableError("refused: for another start")
        if run.down_sequence <= self.last_down:
            raise UnavailableError("refused: too old")
        if len(json.dumps(order)) > MESSAGE_LIMIT:
            raise UnavailableError("refused: 413")
        self.last_down = run.down_sequence
        self.orders.append(order["op"])
        if order["op"] == "assign" and order["assignment"]["version"] > self.assignment["version"]:
            self.assignment = {**self.assignment, **order["assignment"]}
        if order["op"] == "stop" and self.phase != "stopping":
            _ = self.rig.spawn(self.stop())
        return {"phase": self.phase, **self.use(order)}

    def use(self, order: Mapping[str, Any]) -> dict[str, Any]:
        """Tell of the use of the sandbox, as the holder and the gate do together."""
        said: dict[str, Any] = {}
        match order:
            case {"op": "touch"}:
                self.idle_seconds = 0.0
            case {"op": "warn"}:
                self.warned = True
            case {"op": "reopen"}:
                self.closed = False
            case {"op": "quiesce", "idle_seconds": wanted}:
                self.closed = said["closed"] = self.idle_seconds >= wanted
            case _:
                pass
        return {"idle_seconds": self.idle_seconds, "warned": self.warned, **said}


@dataclass(frozen=True)
class Tenant:
    """An organisation and its first key."""

    rig: Rig
    id: str
    key: str

    async def call(self, method: str, path: str, **more: Any) -> httpx.Response:
        headers = {"authorization": f"Bearer {self.key}", **more.pop("headers", {})}
        return await self.rig.http.request(method, path, headers=headers, **more)


class Rig:
    """Control and its doubles. ``boots`` says what becomes of each start."""

    def __init__(self, directory: Path, store: SqlStore, **settings: Any) -> None:
        self.settings = Settings(data=directory, **settings)
        self.secrets = Keys(bytes(32), NODE_KEY, new_api_key())
        self.store: Store = store
        self.scheduler = MemoryScheduler(on_submit=self._submitted, on_stop=lambda _: None)
        self.registry = MemoryRegistry()
        self.runners: dict[str, Runner] = {}
        self.boots: Callable[[Runner], Coroutine[Any, Any, None]] | None = Runner.boot
        self._stack = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Self:
        self.tasks = await self._stack.enter_async_context(asyncio.TaskGroup())
        await self.begin()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.end()
        for task in list(self.tasks._tasks):
            task.cancel()
        await self._stack.aclose()

    async def begin(self) -> None:
        """Start control; what the doubles know is as it was."""
        await self.store.nodes.put(Node(NODE, NODE_KEY, now()))
        self.control = Control(self.settings, self.secrets, self.adapters())
        await self.control.__aenter__()
        self.running = asyncio.ensure_future(self.control.run())
        self.http = httpx.AsyncClient(
            transport=httpx.ASGITransport(self.control.app, raise_app_exceptions=False),
            base_url="http://localhost:9878/api",
            trust_env=False,
            headers={"authorization": f"Bearer {self.secrets.api_key}"},
            event_hooks={"response": [self._compare]},
        )

    async def _compare(self, answer: httpx.Response) -> None:
        """Hold every answer to the public description, in whatever test it comes up."""
        operation = operation_of(answer.request)
        if operation is None:
            return
        await answer.aread()
        is_json = answer.headers.get("content-type") == "application/json" and answer.content
        body = answer.json() if is_json else None
        assert deviations(operation, answer.status_code, body) == []

    def adapters(self) -> Adapters:
        return Adapters(self.store, self.scheduler, self.registry, self)

    async def end(self) -> None:
        """End control as abruptly as one process can end itself."""
        self.running.cancel()
        await asyncio.gather(self.running, return_exceptions=True)
        await self.http.aclose()
        await self.control.__aexit__()

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        return self.tasks.create_task(work)

    def _submitted(self, job: Job) -> None:
        runner = Runner(self, job)
        self.runners[job.sandbox_id] = runner
        if self.boots is not None:
            _ = self.spawn(self.boots(runner))

    async def send(
        self, allocation: Allocation, run: Run, order: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Be the ``Gates``."""
        await asyncio.sleep(0)
        if not allocation.running:
            raise UnavailableError("connection refused")
        return self.runners[allocation.sandbox_id].take(run, order)

    async def report(self, head: Head, body: Mapping[str, Any], **headers: str) -> httpx.Response:
        raw = json.dumps(body).encode()
        sealed = seal(NODE_KEY, UP, head, raw)
        url = "http://localhost/internal/report"
        if self.http.is_closed:
            return httpx.Response(503)
        return await self.http.post(url, content=raw, headers={**sealed, **headers})

    # -- as a client ---------------------------------------------------------------------------

    async def call(self, method: str, path: str, **more: Any) -> httpx.Response:
        return await self.http.request(method, path, **more)

    async def tenant(self, name: str) -> Tenant:
        """Make an organisation, and be one of it."""
        made = await self.call("POST", "/organizations", json={"name": name})
        assert made.status_code == 201, made.text
        return Tenant(self, made.json()["id"], made.json()["apiKey"]["value"])

    async def create(self, **body: Any) -> dict[str, Any]:
        answer = await self.call("POST", "/sandbox", json=body)
        assert answer.status_code == 200, answer.text
        made: dict[str, Any] = answer.json()
        return made

    async def submitted(self, **body: Any) -> Runner:
        """Create a sandbox and return its runner, which does nothing by itself."""
        self.boots = None
        known = set(self.runners)
        creating = self.spawn(self._create(body))

        async def there() -> bool:
            await asyncio.sleep(0)
            return len(self.runners) > len(known)

        await eventually(there)
        creating.cancel()
        await self.settle()
        (sandbox_id,) = set(self.runners) - known
        return self.runners[sandbox_id]

    async def _create(self, body: dict[str, Any]) -> None:
        await self.create(**body)

    async def show(self, sandbox_id: str) -> dict[str, Any]:
        answer = await self.call("GET", f"/sandbox/{sandbox_id}")
        assert answer.status_code == 200, answer.text
        shown: dict[str, Any] = answer.json()
        return shown

    async def until(self, sandbox_id: str, state: str) -> dict[str, Any]:
        shown: dict[str, Any] = {}

        async def reached() -> bool:
            nonlocal shown
            await self.settle()
            shown = await self.show(sandbox_id)
            return bool(shown["state"] == state)

        await eventually(reached)
        return shown

    async def wipe(self) -> None:
        """Make everything as it was at the beginning, for the next test."""
        await self.settle()
        for outline in await self.store.sandboxes.survey():
            await self.store.sandboxes.remove(outline.id)
        for volume in await self.store.volumes.all(frozenset(VolumeState)):
            await self.store.volumes.remove(volume.id)
        for sandbox_id in list(self.scheduler.jobs):
            self.scheduler.end(sandbox_id, "wiped")
            await self.scheduler.forget(sandbox_id)
        for route in await self.registry.routes():
            await self.registry.deregister(route.sandbox_id)
        for snapshot in await self.store.snapshots.in_states(frozenset(SnapshotState)):
            await self.store.snapshots.remove(snapshot.id)
        await self.store.snapshots.put(a_snapshot(general=True))
        self.scheduler.images.clear()
        self.scheduler.disks.clear()
        self.scheduler.lost.clear()
        self.scheduler.disk_mib = DISK_MIB
        self.scheduler.most = None
        self.boots = Runner.boot
        self.http.headers["authorization"] = f"Bearer {self.secrets.api_key}"
        for organization in (await self.call("GET", "/organizations")).json()[1:]:
            await self.call("DELETE", f"/organizations/{organization['id']}")
        for key in (await self.call("GET", "/api-keys")).json()[1:]:
            await self.call("DELETE", f"/api-keys/{key['name']}")
        await self.control.reconciler.resync()
        await self.settle()

    async def settle(self) -> None:
        """Wait until reconcile has nothing to do that is due."""

        async def idle() -> bool:
            await asyncio.sleep(0)
            is_idle: bool = self.control.reconciler.queue.is_idle
            return is_idle

        await eventually(idle)


def complaint(answer: httpx.Response) -> str:
    """Check the envelope and return its message."""
    body = answer.json()
    assert body["statusCode"] == answer.status_code
    assert body["source"] == "DAYTONA_API"
    assert {"path", "timestamp", "error", "message", "code"} <= body.keys()
    message: str = body["message"]
    return message


async def eventually(
    check: Callable[[], Coroutine[Any, Any, bool]], *, seconds: float = 30.0
) -> None:
    async with asyncio.timeout(seconds):
        while not await check():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.002)


@contextlib.asynccontextmanager
async def a_rig(directory: Path, **settings: Any) -> AsyncIterator[Rig]:
    """A running control with a default snapshot."""
    async with a_store(directory) as store:
        await store.snapshots.put(a_snapshot(general=True))
        async with Rig(directory, store, **settings) as rig:

            async def resynced() -> bool:
                await asyncio.sleep(0)
                return rig.control.reconciler.resynced_at is not None

            await eventually(resynced)
            yield rig
