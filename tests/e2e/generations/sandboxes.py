"""Creating, finding and changing a sandbox."""

from __future__ import annotations

import asyncio
import inspect

from tests.e2e.generations.plain import ask
from tests.e2e.generations.visit import (
    HOME,
    Visit,
    all_of,
    call,
    expect,
    got,
    raises,
    refused,
    state,
)


@call("create")
async def create(visit: Visit) -> None:
    wanted = visit.made(
        "CreateSandboxFromSnapshotParams",
        env_vars={"MARK": f"{visit.mark} '\"$HOME", "EMPTY": ""},
        labels={"calls": visit.mark},
        auto_stop_interval=30,
    )
    visit.sandbox = await got(visit.client.create(wanted))
    expect("state", state(visit.sandbox), "started")


@call("get")
async def get(visit: Visit) -> None:
    found = await got(visit.client.get(visit.sandbox.id))
    expect("sandbox", (found.id, found.labels["calls"]), (visit.sandbox.id, visit.mark))
    await raises("not found", lambda: visit.client.get(f"missing-{visit.mark}"))


@call("list")
async def list_(visit: Visit) -> None:
    for labels, wanted in (
        ({"calls": visit.mark}, [visit.sandbox.id]),
        ({"calls": "another"}, []),
    ):
        if "query" in inspect.signature(visit.client.list).parameters:
            found = visit.client.list(visit.made("ListSandboxesQuery", labels=labels))
        else:
            found = visit.client.list(labels)
        expect("ids", [one.id for one in await all_of(found)], wanted)
    every = [one.id for one in await all_of(visit.client.list())]
    expect("without a filter", every.count(visit.sandbox.id), 1)


@call("find_one")
async def find_one(visit: Visit) -> None:
    found = await got(visit.client.find_one(labels={"calls": visit.mark}))
    expect("id", found.id, visit.sandbox.id)


@call("sandbox.refresh_data")
async def refresh_data(visit: Visit) -> None:
    await got(visit.sandbox.refresh_data())
    wanted = {"MARK": f"{visit.mark} '\"$HOME", "EMPTY": ""}
    expect("environment", visit.sandbox.env, wanted)


@call("sandbox.set_labels")
async def set_labels(visit: Visit) -> None:
    labels = {"calls": visit.mark, "more": "yes"}
    await got(visit.sandbox.set_labels(labels))
    await got(visit.sandbox.refresh_data())
    expect("labels", visit.sandbox.labels, labels)


@call("sandbox.set_autostop_interval")
async def set_autostop_interval(visit: Visit) -> None:
    await got(visit.sandbox.set_autostop_interval(45))
    await got(visit.sandbox.refresh_data())
    expect("interval", visit.sandbox.auto_stop_interval, 45)


@call("sandbox.set_auto_archive_interval")
async def set_auto_archive_interval(visit: Visit) -> None:
    await got(visit.sandbox.set_auto_archive_interval(90))
    await got(visit.sandbox.refresh_data())
    expect("interval", visit.sandbox.auto_archive_interval, 90)


@call("sandbox.set_auto_delete_interval")
async def set_auto_delete_interval(visit: Visit) -> None:
    for interval in (90, -1):
        await got(visit.sandbox.set_auto_delete_interval(interval))
        await got(visit.sandbox.refresh_data())
        expect("interval", visit.sandbox.auto_delete_interval, interval)


@call("sandbox.set_auto_pause_interval")
async def set_auto_pause_interval(visit: Visit) -> None:
    await got(visit.sandbox.set_auto_pause_interval(0))
    await got(visit.sandbox.set_autostop_interval(0))
    await refused("not support pausing", lambda: visit.sandbox.set_auto_pause_interval(30))


@call("sandbox.set_ttl")
async def set_ttl(visit: Visit) -> None:
    await got(visit.sandbox.set_ttl(600))
    await got(visit.sandbox.refresh_data())
    expect("it has an end", bool(visit.sandbox.auto_destroy_at), True)
    await got(visit.sandbox.set_ttl(0))
    await got(visit.sandbox.refresh_data())
    expect("it has an end", bool(visit.sandbox.auto_destroy_at), False)


@call("sandbox.set_public")
async def set_public(visit: Visit) -> None:
    for public in (True, False):
        await got(visit.sandbox.set_public(public))
        await got(visit.sandbox.refresh_data())
        expect("public", visit.sandbox.public, public)


@call("sandbox.refresh_activity")
async def refresh_activity(visit: Visit) -> None:
    path = f"/sandbox/{visit.sandbox.id}"
    before = str((await ask("GET", path))["lastActivityAt"])
    await asyncio.sleep(1.1)
    await got(visit.sandbox.refresh_activity())
    after = str((await ask("GET", path))["lastActivityAt"])
    expect("it is later", after > before, True)


@call("sandbox.get_user_root_dir", "sandbox.get_user_home_dir", "sandbox.get_work_dir")
async def directories(visit: Visit) -> None:
    for name in sorted(visit.calls()):
        if name.startswith("sandbox.get_") and name.endswith("_dir"):
            method = getattr(visit.sandbox, name.partition(".")[2])
            expect(name, await got(method()), HOME)


@call("sandbox.update_network_settings")
async def update_network_settings(visit: Visit) -> None:
    for block in (True, False):
        await got(visit.sandbox.update_network_settings(network_block_all=block))
        await got(visit.sandbox.refresh_data())
        expect("blocked", visit.sandbox.network_block_all, block)


@call("sandbox.update_env")
async def update_env(visit: Visit) -> None:
    await got(visit.sandbox.update_env({"LATER": visit.mark}))
    expect("later", await visit.run("printenv LATER"), visit.mark)
    await got(visit.sandbox.update_env({}, unset=["LATER"]))
    expect("unset", await visit.run("printenv LATER"), "")


@call("sandbox.get_metrics_latest")
async def get_metrics_latest(visit: Visit) -> None:
    metrics = await got(visit.sandbox.get_metrics_latest())
    numbers = [value for value in vars(metrics).values() if isinstance(value, int | float)]
    expect("there are figures", any(number > 0 for number in numbers), True)


@call("sandbox.get_metrics")
async def get_metrics(visit: Visit) -> None:
    await refused("Cannot GET", lambda: visit.sandbox.get_metrics())


@call("sandbox.update_secrets")
async def update_secrets(visit: Visit) -> None:
    await refused("Cannot PUT", lambda: visit.sandbox.update_secrets({"A": "b"}))


@call("sandbox.create_ssh_access")
async def create_ssh_access(visit: Visit) -> None:
    await refused("Cannot POST", lambda: visit.sandbox.create_ssh_access(10))


@call("sandbox.validate_ssh_access")
async def validate_ssh_access(visit: Visit) -> None:
    await refused("Cannot GET", lambda: visit.sandbox.validate_ssh_access("token"))


@call("sandbox.revoke_ssh_access")
async def revoke_ssh_access(visit: Visit) -> None:
    await refused("Cannot DELETE", lambda: visit.sandbox.revoke_ssh_access("token"))


@call("sandbox.fork")
async def fork(visit: Visit) -> None:
    await refused("Forking is not supported", lambda: visit.sandbox.fork())


@call("sandbox.pause")
async def pause(visit: Visit) -> None:
    await refused("Pausing is not supported", lambda: visit.sandbox.pause())


@call("sandbox.recover")
async def recover(visit: Visit) -> None:
    """Only a broken one recovers."""
    await raises("not in a recoverable state", lambda: visit.sandbox.recover())


@call("sandbox.create_snapshot")
async def create_snapshot(visit: Visit) -> None:
    name = f"calls-{visit.mark}"
    await visit.run(f"echo {visit.mark} > {HOME}/in-snapshot")
    await got(visit.sandbox.create_snapshot(name))
    wanted = visit.made("CreateSandboxFromSnapshotParams", snapshot=name)
    copy = await got(visit.client.create(wanted))
    try:
        answer = await got(copy.process.exec(f"cat {HOME}/in-snapshot"))
        expect("content", answer.result.strip(), visit.mark)
    finally:
        await got(visit.client.delete(copy))
    await got(visit.client.snapshot.delete(await got(visit.client.snapshot.get(name))))
