"""Stopping, growing, archiving, starting again, and the end."""

from __future__ import annotations

from tests.e2e.generations.visit import (
    HOME,
    RefusedError,
    Visit,
    becomes,
    call,
    expect,
    got,
    state,
)

NO_STORE = "Archiving is not set up"  # on a cluster without an object store


async def fresh_state(visit: Visit) -> str:
    await got(visit.sandbox.refresh_data())
    return state(visit.sandbox)


@call("stop")
async def client_stop(visit: Visit) -> None:
    await visit.run(f"echo {visit.mark} > {HOME}/kept")
    await got(visit.client.stop(visit.sandbox))
    expect("state", await fresh_state(visit), "stopped")


@call("start")
async def client_start(visit: Visit) -> None:
    await got(visit.client.start(visit.sandbox))
    expect("state", await fresh_state(visit), "started")
    expect("kept", await visit.run(f"cat {HOME}/kept"), visit.mark)
    expect("environment", await visit.run('printf %s "$MARK"'), f"{visit.mark} '\"$HOME")


@call("sandbox.stop", "sandbox.wait_for_sandbox_stop")
async def stop(visit: Visit) -> None:
    await got(visit.sandbox.stop())
    await got(visit.sandbox.wait_for_sandbox_stop())
    expect("state", await fresh_state(visit), "stopped")


@call("sandbox.resize", "sandbox.wait_for_resize_complete")
async def resize(visit: Visit) -> None:
    disk = int(visit.sandbox.disk) + 1
    await got(visit.sandbox.resize(visit.made("Resources", cpu=2, disk=disk)))
    await got(visit.sandbox.wait_for_resize_complete())
    await got(visit.sandbox.refresh_data())
    expect("size", (visit.sandbox.cpu, visit.sandbox.disk), (2, disk))


@call("sandbox.start", "sandbox.wait_for_sandbox_start")
async def start(visit: Visit) -> None:
    await got(visit.sandbox.start())
    await got(visit.sandbox.wait_for_sandbox_start())
    expect("state", await fresh_state(visit), "started")
    expect("kept", await visit.run(f"cat {HOME}/kept"), visit.mark)


@call("sandbox.archive")
async def archive(visit: Visit) -> None:
    await got(visit.sandbox.stop())
    try:
        await got(visit.sandbox.archive())
    except Exception as error:
        if NO_STORE in f"{error}":
            raise RefusedError(NO_STORE) from error
        raise
    await becomes("state", lambda: fresh_state(visit), "archived")
    await got(visit.sandbox.start())
    expect("kept", await visit.run(f"cat {HOME}/kept"), visit.mark)


async def gone(visit: Visit, name: str) -> bool:
    try:
        found = await got(visit.client.get(name))
    except Exception as error:
        if "not found" in f"{error}".lower():
            return True
        raise
    return state(found) == "destroyed"


@call("sandbox.delete")
async def delete(visit: Visit) -> None:
    other = await got(visit.client.create())
    await got(other.delete())
    await becomes("it is gone", lambda: gone(visit, other.id), wanted=True)


@call("delete")
async def client_delete(visit: Visit) -> None:
    await got(visit.client.delete(visit.sandbox))
    await becomes("it is gone", lambda: gone(visit, visit.sandbox.id), wanted=True)


@call("close")
async def close(visit: Visit) -> None:
    await got(visit.client.close())
