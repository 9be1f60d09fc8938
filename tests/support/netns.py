"""A network namespace beside the host: a neighbour to reach, or a machine of its own."""

from __future__ import annotations

import contextlib
import itertools
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_CONF = Path("/proc/sys/net/ipv4/conf")


@dataclass(frozen=True, slots=True)
class Namespace:
    """A namespace ``name`` whose ``eth0`` is joined to ``interface`` here."""

    name: str
    interface: str

    @property
    def path(self) -> Path:
        return Path("/run/netns") / self.name

    def command(self, *arguments: str) -> list[str]:
        """Return the command line that runs a program inside."""
        return ["ip", "netns", "exec", self.name, *arguments]


_NUMBERS = itertools.count()


@contextlib.contextmanager
def namespace(here: str, addresses: Sequence[str]) -> Iterator[Namespace]:
    """Yield a namespace with ``addresses`` inside, reachable through the address ``here``.

    ``here`` has a prefix length, e.g. ``192.0.2.1/30``; the first of ``addresses`` lies in it.
    Forwarding is switched on for its interface only.
    """
    # Host-wide names: the process id keeps several test runs apart, and the number one's own, whose
    # links go some time after their namespaces. An interface's name has 15 characters at most.
    number = next(_NUMBERS)
    made = Namespace(f"yurt-test-{os.getpid()}-{number}", f"yt{os.getpid()}-{number}")
    gateway = here.partition("/")[0]
    _ip(f"netns add {made.name}")
    try:
        _ip(f"link add {made.interface} type veth peer name eth0 netns {made.name}")
        _ip(f"addr add {here} dev {made.interface}")
        _ip(f"link set {made.interface} up")
        _ip(f"-n {made.name} link set lo up")
        _ip(f"-n {made.name} link set eth0 up")
        first, *further = addresses
        _ip(f"-n {made.name} addr add {first} dev eth0")
        for address in further:
            _ip(f"-n {made.name} addr add {address} dev eth0")
            _ip(f"route add {address} via {first.partition('/')[0]} dev {made.interface}")
        _ip(f"-n {made.name} route add default via {gateway}")
        (_CONF / made.interface / "forwarding").write_text("1")
        yield made
    finally:
        # The link and the routes over it go with the namespace.
        _ip(f"netns del {made.name}")


@contextlib.contextmanager
def internet_for(made: Namespace, network: str) -> Iterator[None]:
    """Let ``network`` out of the host by masquerade, as a router would, and undo it."""
    uplinks = [_CONF / name / "forwarding" for name in _uplinks()]
    before = [path.read_text() for path in uplinks]
    table = f"yurt_test_{os.getpid()}"
    rules = f"""
        add table ip {table}
        add chain ip {table} out {{ type nat hook postrouting priority 100; }}
        add rule ip {table} out ip saddr {network} oifname != "{made.interface}" masquerade
    """
    subprocess.run(["nft", "-f", "-"], input=rules, text=True, check=True)
    try:
        for path in uplinks:
            path.write_text("1")
        yield
    finally:
        for path, value in zip(uplinks, before, strict=True):
            path.write_text(value)
        subprocess.run(["nft", "delete", "table", "ip", table], check=True)


def _uplinks() -> list[str]:
    listed = subprocess.run(
        ["ip", "-4", "route", "show", "default"], capture_output=True, text=True, check=True
    )
    lines = [line.split() for line in listed.stdout.splitlines()]
    return [words[words.index("dev") + 1] for words in lines]


def _ip(arguments: str) -> None:
    subprocess.run(["ip", *arguments.split()], check=True)
