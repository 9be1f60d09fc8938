"""``yurt doctor``: what this machine, this node or the cluster lacks, and what to do about it."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from control.cli.output import failures_told, read_settings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from control.cli.checks import Check
    from control.settings import Settings

_COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}


def doctor(
    node: Annotated[
        bool, typer.Option("--node", help="Look at this machine as a node of a cluster.")
    ] = False,
    cluster: Annotated[
        bool, typer.Option("--cluster", help="Look at the cluster, from where control runs.")
    ] = False,
    agent: Annotated[
        str, typer.Option(envvar="NOMAD_ADDR", help="With --node: URL of this machine's Nomad.")
    ] = "http://127.0.0.1:4646",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Look for what is missing here; exit code 1 if Yurt cannot work."""
    with failures_told():
        settings = read_settings()
        found: list[Check] = []
        if node:
            found += _examine_node(settings, agent)
        if cluster:
            found += _examine_cluster(settings)
        if not (node or cluster):
            found += _examine(settings)
    if as_json:
        fields = [
            {"name": c.name, "verdict": c.verdict, "found": c.found, "advice": c.advice}
            for c in found
        ]
        typer.echo(json.dumps(fields, indent=2))
    else:
        _print(found)
    raise typer.Exit(int(any(check.verdict == "fail" for check in found)))


def _examine(settings: Settings) -> list[Check]:
    from control.cli import checks, supervisor

    if os.geteuid() != 0:
        return [checks.root(os.geteuid()), checks.kernel(os.uname().release)]
    found = list(checks.machine_checks(settings))
    pid = supervisor.running(settings.data)
    if pid is None:
        found += checks.port_checks(settings)
        found.append(checks.Check("server", checks.Verdict.OK, "not up"))
    else:
        found.append(checks.Check("server", checks.Verdict.OK, f"up (pid {pid})"))
    return found


def _examine_node(settings: Settings, agent: str) -> list[Check]:
    from control.cli import asking, checks, node_checks

    if os.geteuid() != 0:
        return [checks.root(os.geteuid())]
    with asking.nomad(settings, agent) as nomad:
        return list(node_checks.node_checks(settings.data, nomad))


def _examine_cluster(settings: Settings) -> list[Check]:
    from control.cli.cluster_doctor import cluster_checks_of
    from control.cli.world import require_cluster

    require_cluster(settings)
    return list(cluster_checks_of(settings))


def _print(found: Sequence[Check]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table("need", "", "found", "what to do", box=None, pad_edge=False)
    for check in found:
        verdict = f"[{_COLOURS[check.verdict]}]{check.verdict}[/]"
        table.add_row(check.name, verdict, escape(check.found), escape(check.advice))
    Console(width=None if sys.stdout.isatty() else 200).print(table)
