"""Control that dies by its own hand at one of its steps: the server of ``test_kill_matrix``.

    python -m tests.chaos.knife supervise     instead of the supervisor that ``./yurt up`` starts
    python -m tests.chaos.knife               instead of ``python -m control``

The supervisor starts control again soon, however often it dies; the one that it stands for waits
longer and longer.

A step is a call by which control changes the world: a record, a job, a route, an order to a runner,
an object of the archive store, an answer. ``run/knife`` in the data directory says where to die,
like ``before job: submit``; who dies removes it first. Each step that begins is a line of
``run/steps``. Nothing of the product knows of this.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from unittest import mock

from typing_extensions import override

from control import __main__ as control_main, app
from control.app import Adapters, Control
from control.archives import Archives
from control.cli import children, supervisor
from control.cli.down import end
from control.settings import Settings
from tests.support.instance import REPOSITORY
from tests.support.processes import holder_of_lock

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
    from pathlib import Path

    from control.asgi import Message, Receive, Scope, Send
    from control.model import Run, Sandbox
    from control.naming import SandboxId
    from control.vault import Keys
    from jobs.scheduler import Allocation
    from tests.support.instance import Instance

# Collector and reconcile ask at any time how a runner does; that changes nothing.
_QUESTIONS = {"idle", "hello"}
_CHANGING = {"POST", "DELETE"}


def order_path(data: Path) -> Path:
    """Name the file that says where control is to die."""
    return data / "run" / "knife"


def steps_path(data: Path) -> Path:
    """Name the file of the steps that began."""
    return data / "run" / "steps"


class Knife:
    """Notes steps, and kills this process at one of them."""

    def __init__(self, data: Path) -> None:
        self._order, self._steps = order_path(data), steps_path(data)

    def before(self, step: str) -> None:
        with self._steps.open("a") as file:
            file.write(f"{step}\n")
        self._at(f"before {step}")

    def after(self, step: str) -> None:
        self._at(f"after {step}")

    def _at(self, moment: str) -> None:
        try:
            ordered = self._order.read_text()
        except FileNotFoundError:
            return
        if ordered == moment:
            self._order.unlink()
            os.kill(os.getpid(), signal.SIGKILL)

    async def around(self, step: str, work: Callable[[], Awaitable[Any]]) -> Any:
        self.before(step)
        result = await work()
        self.after(step)
        return result


class Cut:
    """Anything, with some of its calls behind the knife; a call is a step by what it is given."""

    def __init__(self, target: Any, knife: Knife, **steps: Callable[..., str]) -> None:
        self._target, self._knife, self._named = target, knife, steps

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._target, name)
        step = self._named.get(name)
        if step is None:
            return found

        async def call(*args: Any, **more: Any) -> Any:
            return await self._knife.around(step(*args), lambda: found(*args, **more))

        return call


class CutSandboxes(Cut):
    """Records; what a change is, is seen by what it changes, in the midst of its transaction."""

    async def change(self, sandbox_id: SandboxId, mutate: Callable[[Sandbox], Sandbox]) -> Sandbox:
        step = ""

        def told(record: Sandbox) -> Sandbox:
            nonlocal step
            new = mutate(record)
            step = change_of(record, new)
            if step:
                self._knife.before(step)
            return new

        changed: Sandbox = await self._target.change(sandbox_id, told)
        if step:
            self._knife.after(step)
        return changed


def change_of(old: Sandbox, new: Sandbox) -> str:
    """Name a change of a record; numbers of messages and times alone are none."""
    if old.state is not new.state:
        return f"record: {old.state.value} → {new.state.value}"
    differing = {
        "wanted otherwise": old.desired_state is not new.desired_state,
        "claimed by its runner": old.run.incarnation != new.run.incarnation,
        "last word of its runner": old.run.exit_reason != new.run.exit_reason,
        "its gate knows all": old.run.pushed_version != new.run.pushed_version,
        "it is archived whole": new.archive is not None and old.archive is None,
        "its archive is gone": old.archive is not None and new.archive is None,
        "its node": old.node != new.node,
        "what it says": old.error_reason != new.error_reason,
    }
    return next((f"record: {name}" for name, differs in differing.items() if differs), "")


class CutStore(Cut):
    """A store with some of its parts behind the knife."""

    def __init__(self, target: Any, knife: Knife) -> None:
        super().__init__(target, knife)
        self.sandboxes = CutSandboxes(
            target.sandboxes,
            knife,
            insert=lambda *_: "record: made",
            remove=lambda *_: "record: removed",
        )
        self.trail = Cut(target.trail, knife, add=lambda *_: "line of the audit log")


class CutGates(Cut):
    """The way to the runners."""

    async def send(
        self, allocation: Allocation, run: Run, order: Mapping[str, Any]
    ) -> dict[str, Any]:
        def work() -> Awaitable[dict[str, Any]]:
            sent: Awaitable[dict[str, Any]] = self._target.send(allocation, run, order)
            return sent

        if order["op"] in _QUESTIONS:
            return await work()
        answer: dict[str, Any] = await self._knife.around(f"runner: {order['op']}", work)
        return answer


def cut_adapters(adapters: Adapters, knife: Knife) -> Adapters:
    scheduler: Any = Cut(
        adapters.scheduler,
        knife,
        submit=lambda *_: "job: submit",
        stop=lambda *_: "job: stop",
        forget=lambda *_: "job: forget",
        work=lambda verb, *_: f"node: {verb}",
    )
    registry: Any = Cut(
        adapters.registry,
        knife,
        register=lambda *_: "route: register",
        deregister=lambda *_: "route: deregister",
    )
    store: Any = CutStore(adapters.store, knife)
    return Adapters(store, scheduler, registry, CutGates(adapters.gates, knife))


class CutControl(Control):
    """Answers to what changes something are steps, too."""

    def __init__(self, settings: Settings, secrets: Keys, adapters: Adapters) -> None:
        super().__init__(settings, secrets, adapters)
        knife, served = Knife(settings.data), self.app

        async def cut(scope: Scope, receive: Receive, send: Send) -> None:
            async def told(message: Message) -> None:
                if message["type"] == "http.response.start":
                    knife.before("answer")
                await send(message)
                if message["type"] == "http.response.body" and not message.get("more_body"):
                    knife.after("answer")

            is_call = scope.get("method") in _CHANGING and scope["path"].startswith("/api/sandbox")
            await served(scope, receive, told if is_call else send)

        self.app = cut  # type: ignore[assignment]


class CutArchives(Archives):
    """The archive store, as control uses it."""

    knife: Knife

    @override
    async def remove(self, name: str) -> None:
        remove = super().remove
        await self.knife.around("store: remove the archive", lambda: remove(name))

    @override
    async def remove_all(self, sandbox_id: str) -> None:
        remove_all = super().remove_all
        await self.knife.around("store: remove all archives", lambda: remove_all(sandbox_id))


def control() -> int:
    """Be control."""
    knife = Knife(Settings().data)
    adapters_of = control_main._adapters

    @contextlib.asynccontextmanager
    async def adapters(settings: Settings, secrets: Keys) -> AsyncIterator[Adapters]:
        async with adapters_of(settings, secrets) as found:
            yield cut_adapters(found, knife)

    CutArchives.knife = knife
    mock.patch.object(app, "Archives", CutArchives).start()
    mock.patch.object(control_main, "Control", CutControl).start()
    control_main._adapters = adapters
    return control_main.main()


@contextlib.contextmanager
def serving(instance: Instance) -> Iterator[None]:
    """Have these two serve an instance that is up, in the place of its own."""
    holder_of_lock(supervisor.lock_path(instance.data)).kill()  # control goes with it
    with supervisor.log_path(instance.data, "supervisor").open("ab") as log:
        started = subprocess.Popen(
            [sys.executable, "-m", "tests.chaos.knife", "supervise"],
            env={**instance.environment(), "PYTHONPATH": str(REPOSITORY)},
            cwd=REPOSITORY,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        yield
    finally:
        end(started.pid)
        started.wait()


def supervise() -> None:
    """Be the supervisor."""
    children.LONGEST_PAUSE_SECONDS = children.FIRST_PAUSE_SECONDS
    control_of = supervisor._control

    def cut(settings: Settings) -> children.Program:
        command = children.killed_with_us([sys.executable, "-m", "tests.chaos.knife"])
        return replace(control_of(settings), prepare=lambda: command)

    supervisor._control = cut
    asyncio.run(supervisor._main())


if __name__ == "__main__":
    if "supervise" in sys.argv:
        supervise()
    else:
        sys.exit(control())
