"""Take a cluster away, and count what is left of it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.runner import cgroup
from tests.cluster import network as networks, programs
from tests.cluster.cluster import Cluster
from tests.support import census

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_SETTLE_SECONDS = 15.0  # the kernel takes mounts and loop devices away after their processes
_POLL_SECONDS = 0.1
_CGROUPS = Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True)
class Left:
    """What a census finds that was not there before the cluster.

    Attributes:
        ours: what carries the cluster's name.
        others: what does not say whose it is: somebody else may have made it meanwhile.
    """

    ours: list[str]
    others: list[str]


def take_down(directory: Path, tell: Callable[[str], None] = lambda _: None) -> Left:
    """Kill every host, remove everything of the cluster, and compare with before it was made.

    Args:
        directory: the cluster's.
        tell: is told what is done now.

    Raises:
        ClusterError: there is no cluster in this directory.
    """
    cluster = Cluster.load(directory)
    state = json.loads((directory / "state.json").read_text())
    saved = json.loads((directory / "census.json").read_text())
    before = {kind: set(items) for kind, items in saved.items()}
    tell("killing hosts")
    for host in cluster.hosts:
        host.kill()
    cluster.network.remove()
    networks.restore_forwarding(state["forwarding"])
    sandboxes = [path.name for node in cluster.nodes for path in _run_directories(node.directory)]
    _wait_for_loop_devices(directory)
    _remove_control_groups(cluster, sandboxes, before["control group"])
    tell("removing files")
    shutil.rmtree(directory)
    tell("counting what is left")
    names = [str(directory), cluster.network.bridge, cluster.network.table, *sandboxes]
    end = time.monotonic() + _SETTLE_SECONDS
    while True:
        lines = census.difference(before, census.take(directory))
        ours = [line for line in lines if any(name in line for name in names)]
        if not ours or time.monotonic() > end:
            return Left(ours, [line for line in lines if line not in ours])
        time.sleep(_POLL_SECONDS)


def _run_directories(host: Path) -> Iterator[Path]:
    return (host / "yurt" / "run" / "sandboxes").glob("*")


def _remove_control_groups(cluster: Cluster, sandboxes: list[str], before: set[str]) -> None:
    """Remove the groups of sandboxes and of Nomad's tasks, which outlive all processes."""
    for name in sandboxes:
        cgroup.remove(name)
    for node in cluster.nodes:
        name = programs.control_group(node).lstrip("/")
        for group in [*_CGROUPS.glob(name), *_CGROUPS.glob(f"*/{name}")]:
            for path, _, _ in os.walk(group, topdown=False):
                Path(path).rmdir()
    if not before:
        cgroup.remove(".")  # not while another installation has sandboxes: it is not empty then


def _wait_for_loop_devices(directory: Path) -> None:
    """Wait until no disk below a directory is attached any more."""
    disks = {path.stat().st_ino for path in directory.glob("hosts/*/yurt/disks/*/disk.img")}
    end = time.monotonic() + _SETTLE_SECONDS
    while disks & _attached() and time.monotonic() < end:
        time.sleep(_POLL_SECONDS)


def _attached() -> set[int]:
    """The inodes behind all loop devices; files that happen to share one cost a wait, no more."""
    command = ["losetup", "--list", "--noheadings", "--raw", "--output", "BACK-INO"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True)
    return {int(line) for line in listed.stdout.split()}
