"""The network of one sandbox: its slot, its link to the host, and what it may reach.

A slot is a small number that a running sandbox owns on its host, whichever data directory it
belongs to. From it follow the interface ``yv<slot>``, a /31 of the subnet, and 65,536 host ids.
What is the same for all is in one static nftables table, whichever installation made it; a sandbox
adds elements and one chain of its own. A link without elements passes nothing, which is how every
sandbox is born.
"""

from __future__ import annotations

import _socket
import os

from jobs.runner import locks, spawn

SLOTS_DIRECTORY = "/run/yurt/slots"
SLOTS = 4096
_FIRST_SANDBOX_UID = 0x10000000
_FIRST_GATE_UID = 0x0F000000

# The metadata service of Azure, on a public address: never reached, also if it is allowed by name.
_AZURE = "168.63.129.16"
# Never reached from a sandbox unless it is allowed by name (IANA special-purpose registries:
# this host, private, shared, loopback, link-local with cloud metadata, multicast and reserved).
_NEVER = (
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    f"{_AZURE}/32",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "224.0.0.0/3",
)

_RULES = """
table inet yurt {
  set sandboxes { typeof iifname . ip saddr; }
  set never { type ipv4_addr; flags interval; auto-merge; }
  map policies { type ifname : verdict; }
  chain forwarded { type filter hook forward priority 0; policy accept; }
  chain from_sandbox { }
  chain received { type filter hook input priority 0; policy accept; }
  chain sent { type filter hook output priority 0; policy accept; }
  chain translated { type nat hook postrouting priority 100; policy accept; }
}
flush chain inet yurt forwarded
flush chain inet yurt from_sandbox
flush chain inet yurt received
flush chain inet yurt sent
flush chain inet yurt translated
flush set inet yurt never
table inet yurt {
  chain forwarded {
    oifname "yv*" ct state established,related accept
    oifname "yv*" drop
    iifname "yv*" jump from_sandbox
  }
  chain from_sandbox {
    meta nfproto ipv6 drop
    iifname . ip saddr != @sandboxes drop
    ip daddr 169.254.0.0/16 drop
    iifname vmap @policies
    ip daddr @never drop
    accept
  }
  chain received {
    iifname "yv*" drop
  }
  chain sent {
    meta skuid GATES ct state new drop
  }
  chain translated {
    iifname "yv*" masquerade
  }
}
"""


class Slot:
    """A slot that this process holds until it ends; without a subnet it has no addresses yet."""

    def __init__(self, number: int, lock_fd: int, subnet: str = "") -> None:
        self.number = number
        self.lock_fd = lock_fd
        self.interface = f"yv{number}"
        self.uid_base = _FIRST_SANDBOX_UID + 65536 * number
        self.gate_uid = _FIRST_GATE_UID + number
        self.gateway, self.address = slot_addresses(subnet, number) if subnet else ("", "")

    def settle(self, subnet: str) -> None:
        """Take the slot's addresses from a subnet, and note it for whoever sweeps after a kill.

        Raises:
            OSError: the subnet has no room for this slot.
        """
        self.gateway, self.address = slot_addresses(subnet, self.number)
        os.pwrite(self.lock_fd, subnet.encode(), 0)


def slot_addresses(subnet: str, number: int) -> tuple[str, str]:
    """Return the host's and the sandbox's address of a slot, its /31 of the subnet."""
    first, _, bits = subnet.partition("/")
    a, b, c, d = (int(part) for part in first.split("."))
    start = (a << 24 | b << 16 | c << 8 | d) + 2 * number
    if 2 * number + 2 > 1 << (32 - int(bits)):
        raise OSError(f"the sandbox subnet {subnet} has no room for sandbox number {number}")
    host, inside = (
        ".".join(str(value >> shift & 255) for shift in (24, 16, 8, 0))
        for value in (start, start + 1)
    )
    return host, inside


def take_slot() -> Slot:
    """Take the lowest free slot of this host.

    Raises:
        OSError: all are taken.
    """
    os.makedirs(SLOTS_DIRECTORY, mode=0o700, exist_ok=True)
    for number in range(SLOTS):
        fd = lock_slot(number)
        if fd is None:
            continue
        if has_link(f"yv{number}"):
            os.close(fd)  # the link of a sandbox that has just died; the kernel removes it soon
            continue
        os.ftruncate(fd, 0)
        return Slot(number, fd)
    raise OSError(f"all {SLOTS} sandbox slots of this host are taken")


def has_link(name: str) -> bool:
    """Tell whether this network namespace has a link; ``/sys`` may show those of another one."""
    try:
        _socket.if_nametoindex(name)
    except OSError:
        return False
    return True


def lock_slot(number: int) -> int | None:
    """Lock a slot's file and return its fd, or None if a sandbox has it."""
    return locks.take(f"{SLOTS_DIRECTORY}/{number}")


def node_rules() -> str:
    """Render the host's table; applied again it renews the rules and keeps every sandbox's own."""
    gates = f"{_FIRST_GATE_UID}-{_FIRST_GATE_UID + SLOTS - 1}"  # a gate never calls out by itself
    return (
        _RULES.replace("GATES", gates) + f"add element inet yurt never {{ {', '.join(_NEVER)} }}\n"
    )


def close_rules(slot: Slot) -> str:
    """Render the commands that take away everything a former owner of the slot could reach.

    Each element is added first, because deleting what is missing would fail the transaction.
    """
    pair = f'{{ "{slot.interface}" . {slot.address} }}'
    chain = f"policy{slot.number}"
    jump = f'{{ "{slot.interface}" : jump {chain} }}'
    return (
        f"add element inet yurt sandboxes {pair}\n"
        f"delete element inet yurt sandboxes {pair}\n"
        f"add chain inet yurt {chain}\n"
        f"flush chain inet yurt {chain}\n"
        f"add element inet yurt policies {jump}\n"
        f"delete element inet yurt policies {jump}\n"
    )


def remove_rules(slot: Slot) -> str:
    """Render the commands that leave nothing of the slot in the table."""
    return close_rules(slot) + f"delete chain inet yurt policy{slot.number}\n"


def policy_rules(
    slot: Slot, *, block_all: bool, allow: list[str], resolvers: list[str], never: list[str]
) -> str:
    """Render, as one transaction, the change from whatever held before to this policy.

    Args:
        slot: whose policy.
        block_all: nothing is reached at all.
        allow: IPv4 networks; when not empty, exactly these are reached, private ones included.
        resolvers: IPv4 addresses that may be asked on port 53 even so.
        never: networks that are not reached, besides the private ones (a cluster's own).
    """
    rules = close_rules(slot)
    if block_all:
        return rules
    chain = f"policy{slot.number}"
    verdicts = []
    if resolvers:
        names = "meta l4proto { tcp, udp } th dport 53 accept"
        verdicts.append(f"ip daddr {{ {', '.join(resolvers)} }} {names}")
    if allow:
        verdicts.append(f"ip daddr {_AZURE} drop")
        verdicts.append(f"ip daddr {{ {', '.join(allow)} }} accept")
        verdicts.append("drop")
    elif never:
        verdicts.append(f"ip daddr {{ {', '.join(never)} }} drop")
    return (
        rules
        + "".join(f"add rule inet yurt {chain} {verdict}\n" for verdict in verdicts)
        + f'add element inet yurt policies {{ "{slot.interface}" : jump {chain} }}\n'
        + f'add element inet yurt sandboxes {{ "{slot.interface}" . {slot.address} }}\n'
    )


def begin_rules(rules: str) -> tuple[int, int]:
    """Start applying nftables commands as one transaction; ``finish_rules`` waits for it."""
    return spawn.begin(["nft", "-f", "-"], rules)


def finish_rules(begun: tuple[int, int]) -> None:
    """Wait for ``begin_rules``.

    Raises:
        OSError: nftables refused; nothing of the transaction holds.
    """
    status, text = spawn.finish(begun)
    if status:
        raise OSError(f"nft: {text}")


def finish_closing(begun: tuple[int, int], slot: Slot) -> None:
    """Wait for ``close_rules`` to hold; make the host's table first where somebody removed it.

    Another installation on this host does so when it goes and no sandbox runs.

    Args:
        begun: from ``begin_rules``.
        slot: whose rules.
    """
    status, _ = spawn.finish(begun)
    if status:
        finish_rules(begin_rules(node_rules() + close_rules(slot)))


def release(slot: Slot) -> None:
    """Take the slot's rules out of the table, if it can be done; a sweep does it otherwise."""
    if not slot.address:
        return
    status, _ = spawn.run(["nft", "-f", "-"], remove_rules(slot))
    if status == 0:
        os.ftruncate(slot.lock_fd, 0)


def connect(slot: Slot, owner_pid: int) -> None:
    """Make the link between the host and the namespace of process ``owner_pid``.

    Forwarding is switched on for this link and the host's uplinks only, never for the whole host.
    """
    commands = (
        f"link add {slot.interface} type veth peer name eth0 netns {owner_pid}\n"
        f"addr add {slot.gateway}/31 dev {slot.interface}\n"
        f"link set {slot.interface} up\n"
    )
    status, text = spawn.run(["ip", "-batch", "-"], commands)
    if status:
        raise OSError(f"ip: {text}")
    for interface in (slot.interface, *uplinks()):
        with open(f"/proc/sys/net/ipv4/conf/{interface}/forwarding", "w") as switch:
            switch.write("1")


def uplinks() -> list[str]:
    """Name the interfaces of the host's default routes."""
    with open("/proc/net/route") as table:
        rows = [line.split() for line in table][1:]
    return [row[0] for row in rows if row[1] == "00000000" and row[7] == "00000000"]
