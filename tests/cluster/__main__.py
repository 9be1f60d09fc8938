"""A cluster on this machine, for development.

    python -m tests.cluster up [--servers 1|3] [--nodes N]
    python -m tests.cluster down
    python -m tests.cluster kill HOST [PROGRAM]    a host's plug, or one program on it
    python -m tests.cluster start HOST [PROGRAM]   the same again

Its files are in ``.cluster``; ``. .cluster/env`` sets what clients need. Needs root, and ``nomad``
and ``consul`` on PATH: without them the exit code is 2, and 1 for whatever else goes wrong.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from control.cli.output import Output
from tests.cluster import programs
from tests.cluster.cluster import Cluster
from tests.cluster.errors import ClusterError, MissingError
from tests.cluster.making import make
from tests.cluster.removing import take_down

if TYPE_CHECKING:
    from tests.cluster.host import Host

DIRECTORY = Path(__file__).parents[2] / ".cluster"
SERVER_COUNTS = (1, 3)


def up(servers: int, nodes: int) -> None:
    begin = time.monotonic()
    cluster = make(DIRECTORY, servers=servers, nodes=nodes, output=Output())
    print(_where(cluster))
    print(f"\nThe cluster is up after {time.monotonic() - begin:.1f} s. Use it:")
    print(f"    . {DIRECTORY / 'env'}")


def _where(cluster: Cluster) -> str:
    rows = [(host.name, host.address, *cluster.programs_of(host)) for host in cluster.hosts]
    lines = [f"  {name:10} {address:12} {' '.join(names)}" for name, address, *names in rows]
    about = [
        f"{programs.version('nomad')}   {cluster.nomad_url}/ui",
        f"{programs.version('consul')}   {cluster.consul_url}/ui",
        f"Traefik    {cluster.url}",
        f"registry   {cluster.registry_url}",
        f"archives   {cluster.objects_url}",
        f"logs       {cluster.directory}/hosts/<name>/log",
    ]
    return "\n".join(["", *lines, "", *about])


def down() -> int:
    output = Output()
    with output.step("taking the cluster away") as tell:
        left = take_down(DIRECTORY, tell)
    for line in left.others:
        output.say(f"new since `make cluster`, and not known to be its: {line}")
    for line in left.ours:
        output.say(line)
    output.say("something of the cluster was left" if left.ours else "nothing of it was left")
    return 1 if left.ours else 0


def kill(host: str, program: str | None) -> None:
    cluster = Cluster.load(DIRECTORY)
    if program:
        _host(cluster, host).stop(program)
    else:
        _host(cluster, host).kill()


def start(host: str, program: str | None) -> None:
    cluster = Cluster.load(DIRECTORY)
    if program:
        cluster.start(_host(cluster, host), program)
    else:
        cluster.restart(_host(cluster, host))


def _host(cluster: Cluster, name: str) -> Host:
    for host in cluster.hosts:
        if host.name == name:
            return host
    names = ", ".join(host.name for host in cluster.hosts)
    raise ClusterError(f"no such host: {name} (there are: {names})")


def main() -> int:
    parser = argparse.ArgumentParser(description="A cluster on this machine, for development.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    making = verbs.add_parser("up", help="make it")
    making.add_argument("--servers", type=int, choices=SERVER_COUNTS, default=1)
    making.add_argument("--nodes", type=int, choices=range(1, 10), default=2)
    verbs.add_parser("down", help="take it away")
    for verb, what in (("kill", "kill a host, or one program"), ("start", "start it again")):
        hurting = verbs.add_parser(verb, help=what)
        hurting.add_argument("host")
        hurting.add_argument("program", nargs="?")
    chosen = parser.parse_args()
    try:
        if os.geteuid() != 0:
            raise ClusterError("this needs root")
        match chosen.verb:
            case "up":
                up(chosen.servers, chosen.nodes)
            case "down":
                return down()
            case "kill":
                kill(chosen.host, chosen.program)
            case _:
                start(chosen.host, chosen.program)
    except MissingError as error:
        print(f"cluster: {error}", file=sys.stderr)
        return 2
    except ClusterError as error:
        print(f"cluster: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
