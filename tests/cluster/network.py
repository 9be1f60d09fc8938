"""The cluster's network: one bridge, a way out of it, and a port of loopback that leads into it.

Everything has a number in its name, so that several clusters fit on one machine.
"""

from __future__ import annotations

import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path

from jobs.runner.network import has_link
from tests.cluster.errors import ClusterError
from traefik.process import is_free

_CONF = Path("/proc/sys/net/ipv4/conf")
_NUMBERS = 16
_FIRST_PORT = 19878


@dataclass(frozen=True, slots=True)
class Network:
    """The network number ``number``: 10.9.<number>.0/24, with this machine at its first address."""

    number: int

    @property
    def bridge(self) -> str:
        return f"yc{self.number}"

    @property
    def subnet(self) -> str:
        return f"10.9.{self.number}.0/24"

    @property
    def gateway(self) -> str:
        return self.address(1)

    @property
    def table(self) -> str:
        return f"yurt_cluster_{self.number}"

    @property
    def port(self) -> int:
        """The port of loopback that leads to the control host's port of the same number."""
        return _FIRST_PORT + self.number

    def address(self, last: int) -> str:
        return f"10.9.{self.number}.{last}"

    def link(self, host: str) -> str:
        """Name this machine's end of the link to a host."""
        return f"{self.bridge}-{host}"

    def exists(self) -> bool:
        return has_link(self.bridge)

    def make(self, entrance: str) -> None:
        """Make rules and forwarding; the bridge is there from ``reserve``.

        What this machine sends to the port ``port`` of 127.0.0.1 goes to the host ``entrance``:
        previews have names below ``localhost``, and those are always this machine's.
        """
        for name in ("forwarding", "route_localnet"):
            (_CONF / self.bridge / name).write_text("1")
        for name in uplinks():
            (_CONF / name / "forwarding").write_text("1")
        table, bridge = self.table, self.bridge
        _run(
            ["nft", "-f", "-"],
            f"""
            table ip {table} {{
              chain sent {{
                type nat hook output priority -100;
                ip daddr 127.0.0.1 tcp dport {self.port} dnat to {entrance}:{self.port}
              }}
              chain translated {{
                type nat hook postrouting priority 100;
                ip saddr {self.subnet} oifname != "{bridge}" masquerade
                ip saddr 127.0.0.0/8 oifname "{bridge}" snat to {self.gateway}
              }}
              chain received {{
                type filter hook input priority 0;
                iifname "{bridge}" ip daddr 127.0.0.0/8 ct state new drop
              }}
            }}
            """,
        )

    def plug(self, host: str, pid: int, address: str) -> None:
        """Link the network namespace of process ``pid`` to the bridge."""
        link = self.link(host)
        _run(
            ["ip", "-batch", "-"],
            f"link add {link} type veth peer name eth0 netns {pid}\n"
            f"link set {link} master {self.bridge} up\n",
        )
        _run(
            ["nsenter", f"--target={pid}", "--net", "ip", "-batch", "-"],
            "link set lo up\n"
            f"addr add {address}/24 dev eth0\n"
            "link set eth0 up\n"
            f"route add default via {self.gateway}\n",
        )

    def unplug(self, host: str) -> None:
        """Take a host's link away, both ends at once; without one there is nothing to do."""
        if has_link(self.link(host)):
            _run(["ip", "link", "del", self.link(host)])

    def remove(self) -> None:
        """Take bridge and rules away; what is not there is fine."""
        if self.exists():
            _run(["ip", "link", "del", self.bridge])
        # Added first, because deleting what is missing would fail.
        _run(["nft", "-f", "-"], f"table ip {self.table}\ndelete table ip {self.table}\n")


def reserve() -> Network:
    """Take the lowest network that nobody uses, by making its bridge.

    Raises:
        ClusterError: all are taken.
    """
    routes = _run(["ip", "-4", "route", "show", "table", "all"])
    for number in range(_NUMBERS):
        network = Network(number)
        routed = f" 10.9.{number}." in routes or f"\n10.9.{number}." in routes
        if routed or network.exists() or not is_free(network.port):
            continue
        _run(
            ["ip", "-batch", "-"],
            f"link add {network.bridge} type bridge\n"
            f"addr add {network.gateway}/24 dev {network.bridge}\n"
            f"link set {network.bridge} up\n",
        )
        return network
    raise ClusterError(f"all networks from 10.9.0.0/24 to 10.9.{_NUMBERS - 1}.0/24 are taken")


def uplinks() -> list[str]:
    """Name the interfaces of this machine's default routes."""
    lines = _run(["ip", "-4", "route", "show", "default"]).splitlines()
    words = [line.split() for line in lines]
    return [line[line.index("dev") + 1] for line in words]


def forwarding() -> dict[str, str]:
    """Read, for each uplink, whether it forwards."""
    return {name: (_CONF / name / "forwarding").read_text().strip() for name in uplinks()}


def restore_forwarding(before: dict[str, str]) -> None:
    """Write back what ``forwarding`` read, unless sandboxes here or another cluster need it now."""
    used = any(name.startswith("yv") for _, name in socket.if_nameindex())
    if used or any(Network(number).exists() for number in range(_NUMBERS)):
        return
    for name, value in before.items():
        (_CONF / name / "forwarding").write_text(value)


def _run(command: list[str], text: str | None = None) -> str:
    ran = subprocess.run(command, input=text, text=True, capture_output=True, check=False)
    if ran.returncode:
        raise ClusterError(f"`{' '.join(command)}` failed: {ran.stderr.strip()}\n{text or ''}")
    return ran.stdout
