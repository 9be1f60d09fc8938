"""Serve: ``python -m control``. Which settings there are is in ``control.settings``."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import signal
import sys
from typing import TYPE_CHECKING

import uvicorn
from pydantic import ValidationError
from typing_extensions import override

from control import listen, logs
from control.app import Adapters, Control, now
from control.endpoints import consul_settings, nomad_settings
from control.errors import UnavailableError, YurtError
from control.forward import MAX_MESSAGE_BYTES
from control.gates import HttpGates
from control.nodes import Nodes
from control.resolvers import name_servers
from control.settings import Settings
from control.store.opening import open_store
from control.vault import FileVault, Keys, load_keys
from jobs.local import NODE, LocalScheduler, NodeSettings
from traefik.files import FileRegistry

if TYPE_CHECKING:
    import socket
    from collections.abc import AsyncIterator, Iterator

    from jobs.scheduler import Scheduler
    from traefik.registry import RouteRegistry

logger = logging.getLogger(__name__)

KEEP_ALIVE_SECONDS = 120  # longer than Traefik keeps an idle connection to us
_DRAIN_SECONDS = 5
_PAUSES_SECONDS = (1, 2, 5, 10)


class _Server(uvicorn.Server):
    """Leaves signals to us: uvicorn would end the process by them, not by returning."""

    @override
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none."""
        yield


async def serve(settings: Settings, secrets: Keys) -> None:
    """Serve until SIGTERM or SIGINT."""
    sockets = [listen.on_loopback(settings.port_path), listen.on_path(settings.socket_path)]
    if settings.control_door:
        sockets.append(listen.on_address(*settings.control_door))
    async with contextlib.AsyncExitStack() as stack:
        control = await _begin(stack, settings, secrets)
        await _until_signal(control, sockets)


async def _begin(stack: contextlib.AsyncExitStack, settings: Settings, secrets: Keys) -> Control:
    """Open everything; a database on another machine is waited for."""
    pauses = itertools.chain(_PAUSES_SECONDS, itertools.repeat(_PAUSES_SECONDS[-1]))
    while True:
        async with contextlib.AsyncExitStack() as opening:
            try:
                adapters = await opening.enter_async_context(_adapters(settings, secrets))
                control = await opening.enter_async_context(Control(settings, secrets, adapters))
            except UnavailableError as error:
                if not settings.is_shared:
                    raise
                logger.warning("control cannot start yet: %s", error)
            else:
                stack.push_async_exit(opening.pop_all())
                return control
        await asyncio.sleep(next(pauses))


@contextlib.asynccontextmanager
async def _adapters(settings: Settings, secrets: Keys) -> AsyncIterator[Adapters]:
    async with (
        open_store(settings.store, FileVault(settings.data)) as store,
        _scheduler(settings, secrets) as scheduler,
        _registry(settings) as registry,
        HttpGates(Nodes(store.nodes).key) as gates,
    ):
        if not settings.nomad_url:
            await Nodes(store.nodes).join(NODE, secrets.node_key, now())
        yield Adapters(store, scheduler, registry, gates)


def _scheduler(
    settings: Settings, secrets: Keys
) -> contextlib.AbstractAsyncContextManager[Scheduler]:
    if settings.nomad_url:
        from jobs.nomad import NomadScheduler  # one machine needs none of it

        return NomadScheduler(nomad_settings(settings))
    node = NodeSettings(
        data=settings.data,
        key=secrets.node_key,
        bundle=(settings.data / "lib" / "agent").resolve(),
        resolvers=name_servers(settings),
        never=[],
        subnet=settings.subnet,
        registry_auth=str(settings.registry_auth or ""),
        memory_reserve=settings.memory_reserve,
        memory_floor_mib=settings.memory_floor_mib,
        disk_overcommit=settings.disk_overcommit,
    )
    return LocalScheduler(node)


def _registry(settings: Settings) -> contextlib.AbstractAsyncContextManager[RouteRegistry]:
    if settings.consul_url:
        from traefik.consul import ConsulRegistry

        return ConsulRegistry(consul_settings(settings))
    routes = settings.routes_path
    routes.mkdir(mode=0o700, parents=True, exist_ok=True)
    return contextlib.nullcontext(FileRegistry(routes))


async def _until_signal(control: Control, sockets: list[socket.socket]) -> None:
    server = _Server(
        uvicorn.Config(
            control.app,
            http="httptools",
            ws="websockets-sansio",
            ws_max_size=MAX_MESSAGE_BYTES,
            lifespan="off",
            access_log=False,
            log_config=None,
            proxy_headers=False,
            server_header=False,
            date_header=False,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=_DRAIN_SECONDS,
        )
    )

    def end() -> None:
        control.close()
        server.should_exit = True

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, end)
    # One group: if reconciling fails, serving ends with it, and we are started again.
    async with asyncio.TaskGroup() as tasks:
        reconciling = tasks.create_task(control.run())
        await server.serve(sockets)
        reconciling.cancel()


def main() -> int:
    """Run the service and return its exit code."""
    logs.set_up()
    os.umask(0o077)
    try:
        settings = Settings()
        lock = listen.only_one(settings.data / "run" / "control.lock")
        secrets = load_keys(settings.data)
        asyncio.run(serve(settings, secrets))
        os.close(lock)
    except (YurtError, ValidationError) as error:
        logger.error("control cannot start: %s", error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
