"""The commands for a cluster over doubles of its parts: nodes, their keys, and who tells what."""

from __future__ import annotations

import functools
import json
import stat
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio
import typer
from typer.testing import CliRunner

from control.cli import nodes, ps
from control.cli.prepare import data_directory, is_ours
from control.cli.world import World, require_cluster
from control.errors import ConflictError, InvalidError, NotFoundError, YurtError
from control.model import State, VolumeState
from control.settings import Settings
from control.vault import load_keys
from jobs.memory import NODE
from jobs.node import read_config
from tests.support.records import a_sandbox, a_volume
from traefik.registry import Route
from yurt.cli import GROUP, join

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from typer.testing import Result

    from tests.support.control_rig import Rig

pytestmark = pytest.mark.unit
in_session = pytest.mark.asyncio(loop_scope="session")


@pytest_asyncio.fixture(loop_scope="session")
async def world(rig: Rig) -> AsyncIterator[World]:
    yield World(rig.store, rig.scheduler, rig.registry, rig, rig.settings)
    for node in await rig.store.nodes.all():
        if node.name != NODE:
            await rig.store.nodes.remove(node.name)
    rig.scheduler.cordoned.clear()


async def looked(world: World) -> dict[str, tuple[str, ...]]:
    lines, _ = await ps.look(world, pause_seconds=0)
    return {line.sandbox_id: line.differences for line in lines}


async def started(rig: Rig) -> str:
    """Make a sandbox that runs where its record says, with a disk."""
    sandbox_id = str((await rig.create())["id"])
    await rig.settle()
    rig.scheduler.disks.add(sandbox_id)
    return sandbox_id


@in_session
async def test_what_control_keeps_in_order_differs_nowhere(rig: Rig, world: World) -> None:
    sandbox_id = await started(rig)
    lines, silent = await ps.look(world, pause_seconds=0)
    assert silent == []
    [line] = lines
    assert line.differences == ()
    assert (line.said, line.disk_on, line.running_on) == ("ready", (NODE,), (NODE,))
    assert ps._cells(line)[1] == "started #1"
    assert json.loads(json.dumps(ps._fields(line)))["id"] == sandbox_id


@in_session
async def test_what_is_broken_is_marked(rig: Rig, world: World) -> None:
    one, two = await started(rig), await started(rig)
    rig.runners[one].answers = False
    await rig.registry.deregister(two)
    await rig.registry.register(Route("strangerstranger", 1, "127.0.0.1", 1, "localhost"))
    rig.scheduler.disks.add("leftleftleftleft")
    assert await looked(world) == {
        one: ("started, but its runner does not answer",),
        two: ("started, but not registered",),
        "strangerstranger": ("registration without a record",),
        "leftleftleftleft": (f"disk without a record on {NODE}",),
    }


@in_session
async def test_a_destroyed_record_is_looked_at_too(rig: Rig, world: World) -> None:
    gone = a_sandbox(state=State.DESTROYED)
    await rig.store.sandboxes.insert(gone, most=10)
    [line] = (await ps.look(world, pause_seconds=0))[0]
    assert line.record is not None
    assert line.record.state is State.DESTROYED


@in_session
async def test_a_lost_node_is_named_and_its_disks_are_not_judged(rig: Rig, world: World) -> None:
    await started(rig)
    rig.scheduler.lost.add(NODE)
    lines, silent = await ps.look(world, pause_seconds=0)
    assert silent == [NODE]
    assert lines[0].disk_on == ()
    assert not any("disk" in text for text in lines[0].differences)


@in_session
async def test_nodes_are_those_of_the_scheduler_and_those_with_a_key(
    rig: Rig, world: World
) -> None:
    await started(rig)
    await nodes.make_key(world.store, "other", rotate=False)
    here, other = await nodes.describe_nodes(world)
    assert (here["name"], here["state"], here["hasKey"], here["sandboxes"]) == (
        NODE,
        "ready",
        True,
        1,
    )
    assert (other["name"], other["state"], other["hasKey"]) == ("other", "unknown to Nomad", True)
    shown = [here, other, {**here, "hasKey": False, "cordoned": True}]
    assert [nodes._cells(row)[2] for row in shown] == [
        "ready",
        "unknown to Nomad",
        "ready, cordoned, no key",
    ]


@in_session
async def test_a_node_gets_one_key_unless_it_is_to_have_a_new_one(world: World) -> None:
    first = await nodes.make_key(world.store, "node-1", rotate=False)
    with pytest.raises(ConflictError, match="--rotate"):
        await nodes.make_key(world.store, "node-1", rotate=False)
    kept = await world.store.nodes.get("node-1")
    assert kept is not None
    assert kept.key == first
    second = await nodes.make_key(world.store, "node-1", rotate=True)
    assert second != first
    assert len(second) == nodes.KEY_BYTES


@pytest.mark.parametrize("name", ["", "a b", "a/b", "nöde", "x\n"])
@in_session
async def test_a_name_that_cannot_be_one_gets_no_key(world: World, name: str) -> None:
    with pytest.raises(InvalidError):
        await nodes.make_key(world.store, name, rotate=False)
    assert [node.name for node in await world.store.nodes.all()] == [NODE]


@in_session
async def test_a_node_with_disks_keeps_its_key_unless_they_are_given_up(
    rig: Rig, world: World
) -> None:
    await nodes.make_key(world.store, "node-1", rotate=False)
    sandbox = a_sandbox(state=State.STOPPED, node="node-1", name="precious")
    gone = a_sandbox(minutes=1, state=State.DESTROYED, node="node-1")
    for one in (sandbox, gone):
        await rig.store.sandboxes.insert(one, most=10)
    with pytest.raises(ConflictError, match=r"1 sandboxes .* \(precious\)"):
        await nodes.revoke_key(world.store, "node-1", forget_disks=False)
    assert await world.store.nodes.get("node-1") is not None
    await nodes.revoke_key(world.store, "node-1", forget_disks=True)
    with pytest.raises(NotFoundError):
        await nodes.revoke_key(world.store, "node-1", forget_disks=True)


@in_session
async def test_a_failed_sandbox_that_is_to_go_counts_as_a_disk(rig: Rig, world: World) -> None:
    await nodes.make_key(world.store, "node-1", rotate=False)
    sandbox = a_sandbox(state=State.ERROR, node="node-1")
    await rig.store.sandboxes.insert(sandbox, most=10)
    with pytest.raises(ConflictError):
        await nodes.revoke_key(world.store, "node-1", forget_disks=False)


@in_session
async def test_a_node_with_a_volume_is_not_forgotten_by_the_way(rig: Rig, world: World) -> None:
    await nodes.make_key(world.store, "node-1", rotate=False)
    for volume in (
        a_volume(name="precious", node="node-1"),
        a_volume(node="node-1", state=VolumeState.DELETED),
        a_volume(node="node-2"),
    ):
        await rig.store.volumes.insert(volume, most=10)
    with pytest.raises(ConflictError, match=r"1 volumes .* \(volume precious\)"):
        await nodes.revoke_key(world.store, "node-1", forget_disks=False)
    await nodes.revoke_key(world.store, "node-1", forget_disks=True)


def test_what_a_node_is_given_is_what_preparing_takes(tmp_path: Path) -> None:
    settings = Settings(subnet="10.77.0.0/16", registry="http://10.0.0.2:5000/yurt")
    made = nodes.node_configuration(settings, "node-1", bytes(32), "10.0.0.53, 10.0.0.54")
    (tmp_path / "node.json").write_text(json.dumps(made))
    config = read_config(tmp_path / "node.json")
    assert (config.name, config.key, config.subnet) == ("node-1", "00" * 32, "10.77.0.0/16")
    assert config.resolvers == ["10.0.0.53", "10.0.0.54"]
    assert config.registry == "http://10.0.0.2:5000/yurt"
    with pytest.raises(InvalidError, match="--resolvers"):
        nodes.node_configuration(settings, "node-1", bytes(32), "dns.example.org")


def test_without_the_settings_of_a_cluster_its_commands_say_which_are_missing() -> None:
    with pytest.raises(YurtError, match="YURT_NOMAD_URL and YURT_CONSUL_URL"):
        require_cluster(Settings())


@functools.cache
def commands() -> typer.Typer:
    """The server's commands as they are installed."""
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    named = project["entry-points"][GROUP]
    made = typer.Typer()
    join((EntryPoint(name, value, GROUP) for name, value in named.items()), made)
    return made


def run(*arguments: str, environment: dict[str, str]) -> Result:
    return CliRunner().invoke(commands(), arguments, env=environment)


def test_a_key_is_printed_once_and_the_database_that_is_meant_has_it(tmp_path: Path) -> None:
    data = tmp_path / "data"
    environment = {"YURT_DATA": str(data)}
    failed = run("nodes", "add", "node-1", environment=environment)
    assert failed.exit_code == 1
    assert "YURT_DATA" in failed.stderr
    assert not data.exists()
    load_keys(data)
    printed = run("nodes", "add", "node-1", environment=environment)
    assert printed.exit_code == 0, printed.stderr
    key = json.loads(printed.stdout)["key"]
    assert key not in printed.stderr
    assert key.encode() not in (data / "yurt.db").read_bytes()
    assert stat.S_IMODE((data / "yurt.db").stat().st_mode) == 0o600
    again = run("nodes", "add", "node-1", environment=environment)
    assert (again.exit_code, again.stdout) == (1, "")
    removed = run("nodes", "remove", "node-1", "--json", environment=environment)
    assert json.loads(removed.stdout) == {"removed": "node-1"}


@pytest.mark.parametrize("command", ["nodes", "doctor --cluster", "cordon a", "uncordon a"])
def test_on_one_machine_commands_for_a_cluster_say_so(tmp_path: Path, command: str) -> None:
    found = run(*command.split(), environment={"YURT_DATA": str(tmp_path)})
    assert found.exit_code == 1
    assert "this is for a cluster" in found.stderr


def test_a_new_nodes_directory_may_have_what_its_operator_put_there(tmp_path: Path) -> None:
    (tmp_path / "node.json").touch()
    (tmp_path / "disks").mkdir()
    data_directory(tmp_path, expected=("node.json", "disks"))
    assert is_ours(tmp_path)


def test_preparing_says_what_is_missing(tmp_path: Path) -> None:
    found = run("nodes", "prepare", environment={"YURT_DATA": str(tmp_path / "data")})
    assert found.exit_code == 1
    assert "yurt nodes add" in found.stderr or "root" in found.stderr


def test_publishing_needs_a_registry(tmp_path: Path) -> None:
    found = run("snapshot", "publish", environment={"YURT_DATA": str(tmp_path)})
    assert found.exit_code == 1
    assert "YURT_REGISTRY" in found.stderr
