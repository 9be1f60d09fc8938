"""The root file system and the namespaces that own it.

The image's layers and the disk are id-mapped mounts; the overlay over them is mounted from inside
the sandbox's user namespace, because its uid 0 has no meaning in the host's. Both live on a tmpfs
in the runner's own mount namespace: the child that mounts the overlay has no right to enter the
data directory.
"""

from __future__ import annotations

import _socket
import fcntl
import os
import struct

from jobs.runner import channel, linux

UIDS = 65536
_APPEND_LAYERS_SINCE = (6, 8)
_SIOCADDRT = 0x890B
_SIOCSIFFLAGS = 0x8914
_SIOCSIFADDR = 0x8916
_SIOCSIFNETMASK = 0x891C
_IFF_UP = 1
_RTF_UP_GATEWAY = 0x1 | 0x2


class Owner:
    """A process that makes and then owns a sandbox's user and network namespace.

    It is forked from the runner while that has one thread, and ends when its work is done: the
    namespaces live on by the fds in ``user_fd`` and ``network_fd``.
    """

    def __init__(self, base: int) -> None:
        """Fork the process and map ids 0 to 65535 inside to host ids from ``base``."""
        self._link, theirs = channel.pair()
        self.pid = os.fork()
        if self.pid == 0:
            self._link.close()
            _in_child(theirs, base)
        theirs.close()
        self._wait_for_child()
        for kind in ("uid_map", "gid_map"):
            with open(f"/proc/{self.pid}/{kind}", "w") as mapping:
                mapping.write(f"0 {base} {UIDS}")
        self.user_fd = os.open(f"/proc/{self.pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
        self._link.send(b"m")
        self._wait_for_child()  # the network namespace now exists; a veth can be moved into it
        self.network_fd = os.open(f"/proc/{self.pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)

    def _wait_for_child(self) -> None:
        answer = self._link.recv(512)
        if answer != b"ok":
            raise OSError(f"making namespaces failed: {answer.decode(errors='replace')}")

    def mount_root(self, layers: list[str], disk: str, scratch: str) -> None:
        """Mount the sandbox's root at ``<scratch>/root``.

        Args:
            layers: layer directories on the host, top first.
            disk: where the disk is mounted, with ``upper`` and ``work`` in it.
            scratch: an empty tmpfs that everyone may enter.
        """
        read_only = linux.MOUNT_ATTR_RDONLY | linux.MOUNT_ATTR_NODEV
        for number, layer in enumerate(layers):
            target = f"{scratch}/{number}"
            os.mkdir(target)
            clone = linux.clone_mount(layer, attributes=read_only, userns_fd=self.user_fd)
            linux.attach_mount(clone, target)
        for name in ("disk", "root"):
            os.mkdir(f"{scratch}/{name}")
        linux.attach_mount(linux.clone_mount(disk, userns_fd=self.user_fd), f"{scratch}/disk")
        self._link.send(f"{scratch} {len(layers)}".encode())
        message, root = channel.receive_fd(self._link)
        if message != b"ok":
            raise OSError(f"mounting the root failed: {message.decode(errors='replace')}")
        linux.attach_mount(root, f"{scratch}/root")

    def configure_network(self, address: str, gateway: str) -> None:
        """Bring up ``lo`` and ``eth0`` inside, and end the process."""
        self._link.send(f"{address} {gateway}".encode())
        self._wait_for_child()
        self._link.close()
        os.waitpid(self.pid, 0)


def _in_child(link: _socket.socket, base: int) -> NoReturn:
    try:
        linux.prctl(linux.PR_SET_PDEATHSIG, linux.SIGKILL)
        linux.become(base)
        linux.unshare(linux.CLONE_NEWUSER)
        link.send(b"ok")
        link.recv(1)
        os.setresgid(0, 0, 0)
        os.setresuid(0, 0, 0)
        linux.unshare(linux.CLONE_NEWNET)
        link.send(b"ok")
        scratch, count = link.recv(512).decode().split()
        linux.unshare(linux.CLONE_NEWNS)  # now: a copy of the parent's mounts, with the layers
        root = linux.overlay(
            [f"{scratch}/{number}" for number in range(int(count))],
            f"{scratch}/disk/upper",
            f"{scratch}/disk/work",
            append_layers=linux.kernel_release() >= _APPEND_LAYERS_SINCE,
        )
        channel.send_fd(link, b"ok", root)
        address, gateway = link.recv(512).decode().split()
        _bring_up("lo", "127.0.0.1", "255.0.0.0")
        _bring_up("eth0", address, "255.255.255.254")
        _default_route(gateway)
        link.send(b"ok")
    except Exception as error:  # noqa: BLE001 - the whole text goes to the parent, which raises it
        link.send(str(error).encode()[:500])
    finally:
        os._exit(0)  # never back into the parent's code, also when the parent is gone


def _address(host: str) -> bytes:
    """Pack a ``struct sockaddr_in``."""
    return struct.pack("=HH4s8x", _socket.AF_INET, 0, _socket.inet_aton(host))


def _bring_up(interface: str, address: str, mask: str) -> None:
    name = interface.encode()
    _ioctl(_SIOCSIFADDR, struct.pack("=16s16s", name, _address(address)))
    _ioctl(_SIOCSIFNETMASK, struct.pack("=16s16s", name, _address(mask)))
    _ioctl(_SIOCSIFFLAGS, struct.pack("=16sH14x", name, _IFF_UP))


def _default_route(gateway: str) -> None:
    """Add the default route by ``struct rtentry`` (linux/route.h), as route(8) does."""
    anywhere = _address("0.0.0.0")
    route = struct.pack(
        "@L16s16s16sHhLPhPLLH",
        0, anywhere, _address(gateway), anywhere, _RTF_UP_GATEWAY, 0, 0, 0, 0, 0, 0, 0, 0,
    )  # fmt: skip
    _ioctl(_SIOCADDRT, route)


def _ioctl(request: int, argument: bytes) -> None:
    control = _socket.socket(_socket.AF_INET, _socket.SOCK_DGRAM)
    try:
        fcntl.ioctl(control.fileno(), request, argument)
    finally:
        control.close()


TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn
