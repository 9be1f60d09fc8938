"""``yurt up``: make ready, start, and show that it works."""

from __future__ import annotations

import asyncio
import os
import shlex
import signal
import time
from typing import TYPE_CHECKING, Annotated

import typer

from control.cli.output import Output, failures_told, read_settings
from control.cli.service import tell_ready

if TYPE_CHECKING:
    from control.settings import Settings

SNIPPET = 'eval "$({settings}./yurt env)"'
TRY = "./yurt create --name hello && ./yurt exec hello 'echo hello from $(hostname)'"


def up(
    detach: Annotated[
        bool, typer.Option("--detach", "-d", help="Return when it is ready, and leave it running.")
    ] = False,
    demo: Annotated[
        bool, typer.Option(help="Create a first sandbox, use it and delete it again.")
    ] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Start the server on this machine; the first time, make everything that it needs."""
    output = Output(as_json=as_json)
    with failures_told():
        from control.cli import supervisor
        from control.errors import ConflictError

        begin = time.monotonic()
        settings = read_settings()
        pid = supervisor.running(settings.data) if os.geteuid() == 0 else None
        if pid and not detach:
            message = f"it is up already (pid {pid}); `./yurt down` stops it"
            raise ConflictError(message)
        if pid:
            asyncio.run(supervisor.wait_until_ready(settings, lambda: _is_up(settings)))
            output.result(_describe(settings, {}, already_up=True), _text(settings, begin))
            return
        _make_ready(settings, output)
        if detach:
            _start_detached(settings, output)
            times = _demonstrate(settings, output) if demo else {}
            output.result(_describe(settings, times), _text(settings, begin))
        else:
            asyncio.run(_run_here(settings, output, demo=demo, begin=begin))


def _make_ready(settings: Settings, output: Output) -> None:
    """Check the machine and make what is missing, before anything runs."""
    from control.cli import prepare

    prepare.require_machine(settings)
    prepare.data_directory(settings.data)
    prepare.let_forwarded_packets_pass(output)
    prepare.make_names_known(settings, output)
    prepare.bundle(settings, output)
    prepare.default_snapshot(settings, output)


def _start_detached(settings: Settings, output: Output) -> None:
    from control.cli import supervisor

    with output.step("starting the server"):
        process = supervisor.start_detached(settings)

        def is_alive() -> bool:
            return process.poll() is None or _is_up(settings)

        asyncio.run(supervisor.wait_until_ready(settings, is_alive))


async def _run_here(settings: Settings, output: Output, *, demo: bool, begin: float) -> None:
    """Be the supervisor until a signal comes."""
    from control.cli import supervisor
    from control.errors import UnavailableError

    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    server = asyncio.create_task(supervisor.supervise(settings, ended))
    try:
        with output.step("starting the server"):
            await supervisor.wait_until_ready(settings, lambda: not server.done())
        tell_ready()
        times = await asyncio.to_thread(_demonstrate, settings, output) if demo else {}
        output.result(_describe(settings, times), _text(settings, begin))
        output.say("Ctrl-C stops the server; sandboxes go on, and the next `up` finds them again.")
        await server  # until a signal comes
    except UnavailableError:
        if server.done():
            await server  # raises what it ended with, which says more
        if not ended.is_set():
            raise
    finally:
        ended.set()
        await asyncio.wait([server])


def _demonstrate(settings: Settings, output: Output) -> dict[str, float]:
    from control.cli.demo import demonstrate

    return demonstrate(settings, output)


def _is_up(settings: Settings) -> bool:
    from control.cli import supervisor

    return supervisor.running(settings.data) is not None


def _describe(
    settings: Settings, times: dict[str, float], *, already_up: bool = False
) -> dict[str, object]:
    return {
        "apiUrl": settings.api_url,
        "data": str(settings.data),
        "alreadyUp": already_up,
        "seconds": {name: round(seconds, 3) for name, seconds in times.items()},
    }


def _text(settings: Settings, begin: float) -> str:
    """Say where it is, and what to paste into a shell to use it."""
    names = [f"YURT_{name.upper()}" for name in type(settings).model_fields]
    here = {name: os.environ[name] for name in names if name in os.environ}
    given = "".join(f"{name}={shlex.quote(value)} " for name, value in here.items())
    return (
        f"Yurt is up after {time.monotonic() - begin:.1f} s: {settings.api_url}\n\n"
        f"Try it:\n    {SNIPPET.format(settings=given)}\n    {TRY}\n"
    )
