"""Prepare a node: ``python -m jobs.node prepare --data DIR --config FILE``.

What every runner of a node relies on, whoever starts it: its directories, the runner's program, the
agent bundle, ``node.json``, the kernel's rules. FILE is JSON with the fields of ``NodeConfig``;
those that are missing are made or looked up. Doing it again renews what has changed. Does not know
what is scheduled.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from control.errors import InvalidError, WorkError, YurtError
from jobs.images import ensure_bundle
from jobs.installed import install_runner, install_tools, interpreter, link_runner
from jobs.runner import record

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_DIRECTORIES = ("run/sandboxes", "disks", "images/layers", "lib")
_LOG_TAIL_BYTES = 2000


@dataclass(frozen=True, slots=True)
class NodeConfig:
    """What is the same for every sandbox of a node: the fields of ``node.json``.

    Attributes:
        name: of the node, as the scheduler knows it.
        key: HMAC key between control and this node's runners, hexadecimal.
        subnet: IPv4 network for the links to sandboxes; a /31 each.
        bundle: directory of the agent bundle; if empty, it is made below the data directory.
        resolvers: IPv4 addresses of name servers.
        never: networks that no sandbox reaches, besides the private ones (a cluster's own).
        registry: where images are fetched from, e.g. ``https://registry.example.com/yurt``.
        tools: directory of the packages that one-shot work uses; always made anew.
        registry_auth: file of credentials for other registries (containers-auth.json(5)).
    """

    name: str
    key: str
    subnet: str
    bundle: str = ""
    resolvers: list[str] = field(default_factory=list)
    never: list[str] = field(default_factory=list)
    registry: str = ""
    tools: str = ""
    registry_auth: str = ""


def prepare(data: Path, node: NodeConfig, progress: Callable[[str], None]) -> Path:
    """Make a node ready for runners, and sweep up after those that were killed.

    Returns:
        The runner's ``main.py``, in its immutable directory.

    Raises:
        UnavailableError: something is missing on this machine.
    """
    for name in _DIRECTORIES:
        (data / name).mkdir(mode=0o700, parents=True, exist_ok=True)
    runner = install_runner(data)
    # One of ours may be of an older version: ``node.json`` is read again at the next time.
    is_ours = Path(node.bundle).match(f"{data}/lib/agent-*")
    bundle = node.bundle if node.bundle and not is_ours else str(ensure_bundle(data, progress))
    made = {"bundle": bundle, "tools": str(install_tools(data))}
    record.write_whole(str(data / "node.json"), json.dumps(asdict(node) | made))
    run_verb(runner, "prepare-node", {})
    run_verb(runner, "sweep", {"data": str(data)})
    link_runner(runner)
    return runner


def run_verb(runner: Path, verb: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Run one of the runner's one-shot verbs, and wait for it.

    Raises:
        UnavailableError: it failed; the text is the verb's own.
    """
    command = [*interpreter(), str(runner), verb, json.dumps(arguments)]
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    return verb_result(verb, done.returncode, done.stdout, done.stderr)


def verb_result(verb: str, code: int, output: str, errors: str) -> dict[str, Any]:
    """Read what a verb printed.

    Raises:
        WorkError: it failed; the text is the verb's own.
    """
    if code:
        said = json.loads(output)["error"] if output else errors[-_LOG_TAIL_BYTES:]
        raise WorkError(verb, said)
    result: dict[str, Any] = json.loads(output)
    return result


def read_config(path: Path) -> NodeConfig:
    """Read a node's configuration.

    Raises:
        InvalidError: the file cannot be read, or is not such a configuration.
    """
    known = {each.name for each in fields(NodeConfig)}
    try:
        given = json.loads(path.read_text())
        unknown = set(given) - known
        if unknown:
            raise InvalidError(
                f"{path}: unknown: {', '.join(sorted(unknown))}; known: {', '.join(sorted(known))}"
            )
        return NodeConfig(**given)
    except (OSError, ValueError, TypeError) as exc:
        raise InvalidError(f"{path} is not a node's configuration: {exc}") from exc


def main(arguments: list[str] | None = None) -> int:
    """Prepare this machine as a node."""
    parser = argparse.ArgumentParser(prog="python -m jobs.node", description=main.__doc__)
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    verb = verbs.add_parser("prepare", help="make ready for sandboxes; again renews what changed")
    verb.add_argument("--data", type=Path, required=True, help="the data directory")
    verb.add_argument("--config", type=Path, required=True, help="JSON: name, key, subnet, …")
    chosen = parser.parse_args(arguments)
    try:
        prepare(chosen.data.resolve(), read_config(chosen.config), _say)
    except YurtError as error:
        _say(str(error))
        return 1
    return 0


def _say(text: str) -> None:
    sys.stderr.write(f"yurt: {text}\n")


if __name__ == "__main__":
    sys.exit(main())
