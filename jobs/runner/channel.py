"""Unix sockets between the runner's own processes, with file descriptors passed over them.

Built on ``_socket``: importing ``socket`` costs the runner 15 ms.
"""

from __future__ import annotations

import _socket
import os

PACKET_LIMIT = 1 << 20
_FD_BYTES = 4


def pair(*, packets: bool = False) -> tuple[_socket.socket, _socket.socket]:
    """Return two connected sockets, closed on exec."""
    kind = _socket.SOCK_SEQPACKET if packets else _socket.SOCK_STREAM
    ours, theirs = _socket.socketpair(_socket.AF_UNIX, kind)
    if packets:
        for end in (ours, theirs):
            end.setsockopt(_socket.SOL_SOCKET, _socket.SO_SNDBUF, PACKET_LIMIT)
    return ours, theirs


def tell(channel: _socket.socket, packet: bytes, fd: int = -1) -> None:
    """Send a packet, with a file descriptor unless it is -1, to whom may have ended just now.

    That this is so is seen by whoever waits for its end, which must not be ours.
    """
    try:
        if fd < 0:
            channel.send(packet)
        else:
            send_fd(channel, packet, fd)
    except ConnectionError:
        return


def hear(channel: _socket.socket) -> bytes:
    """Return the next packet, empty if the other side has ended, whatever it had not read."""
    try:
        return channel.recv(PACKET_LIMIT)
    except ConnectionError:
        return b""


def send_fd(channel: _socket.socket, message: bytes, fd: int) -> None:
    """Send ``message`` with one file descriptor attached."""
    rights = (_socket.SOL_SOCKET, _socket.SCM_RIGHTS, fd.to_bytes(_FD_BYTES, "little"))
    channel.sendmsg([message], [rights])


def receive_fd(channel: _socket.socket, size: int = 512) -> tuple[bytes, int]:
    """Receive a message; the fd is -1 when none came with it."""
    flags = _socket.MSG_CMSG_CLOEXEC
    message, extra, _, _ = channel.recvmsg(size, _socket.CMSG_LEN(_FD_BYTES), flags)
    for _level, _kind, data in extra:
        return message, int.from_bytes(data[:_FD_BYTES], "little")
    return message, -1


def connect_unix(path: str) -> _socket.socket:
    """Connect to a unix socket whose path may be longer than the 108 bytes that an address holds.

    Raises:
        OSError: nothing listens there.
    """
    directory, name = os.path.split(path)
    fd = os.open(directory or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    link = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
    try:
        link.connect(f"/proc/self/fd/{fd}/{name}")
    except OSError:
        link.close()
        raise
    finally:
        os.close(fd)
    return link
