"""Which name servers sandboxes are given."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from control.settings import Settings

# The second is where systemd-resolved keeps the servers that its own stub asks.
_FILES = (Path("/etc/resolv.conf"), Path("/run/systemd/resolve/resolv.conf"))
_MOST = 3


def name_servers(settings: Settings, files: tuple[Path, ...] = _FILES) -> list[str]:
    """Return those that were set, else the host's.

    A server on the host's loopback cannot be reached from a sandbox, so it does not count.
    """
    if settings.name_servers:
        return list(settings.name_servers)
    for file in files:
        found = list(dict.fromkeys(_usable(file)))
        if found:
            return found[:_MOST]
    return []


def _usable(file: Path) -> Iterator[str]:
    try:
        lines = file.read_text(errors="replace").splitlines()
    except OSError:
        return
    for line in lines:
        words = line.split()
        if len(words) < 2 or words[0] != "nameserver":
            continue
        try:
            address = ipaddress.IPv4Address(words[1])
        except ValueError:
            continue
        if not address.is_loopback:
            yield str(address)
