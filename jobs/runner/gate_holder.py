"""The gate's line to the holder: sockets to dial with, control's messages and orders.

The gate can make no socket. Each dial uses one that the holder made in the sandbox's network; a
few are asked for ahead, so that a dial does not wait for the holder.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections import deque

_DIAL_SECONDS = 5.0
_ANSWER_SECONDS = 10.0
_PACKET_LIMIT = 1 << 20
_FD_BYTES = 4
MESSAGE_LIMIT = 256 << 10
"""Longest message of control in bytes; its packet is longer, as JSON escapes some characters."""

_STOCK = {socket.AF_INET: 8, socket.AF_INET6: 1}
_ASK = {socket.AF_INET: b"D4", socket.AF_INET6: b"D6"}
_LOOPBACK = ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1"))


class DialError(Exception):
    """Nothing inside could be reached; the text says what was tried."""


class HolderLink:
    """One end of the packet socket to the holder.

    Args:
        channel: a connected ``SOCK_SEQPACKET`` socket.
        on_order: called with the letter and the JSON of each order.
        on_end: called when the holder is gone.
    """

    def __init__(
        self,
        channel: socket.socket,
        on_order: Callable[[bytes, dict[str, Any]], None],
        on_end: Callable[[], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._channel = channel
        self._on_order, self._on_end = on_order, on_end
        self._packet = bytearray(_PACKET_LIMIT)
        self._unsent: deque[bytes] = deque()
        self._stock: dict[int, deque[socket.socket]] = {family: deque() for family in _STOCK}
        self._asked: deque[int] = deque()
        self._waiting: dict[int, deque[asyncio.Future[socket.socket]]] = {
            family: deque() for family in _STOCK
        }
        self._answers: dict[bytes, asyncio.Future[dict[str, Any]]] = {}
        self._message_number = 0
        channel.setblocking(False)
        self._loop.add_reader(channel.fileno(), self._read)

    # -- packets -----------------------------------------------------------------------------

    def send(self, packet: bytes) -> None:
        """Send a packet, later if the holder is busy."""
        if not self._unsent:
            try:
                self._channel.send(packet)
            except BlockingIOError:
                self._loop.add_writer(self._channel.fileno(), self._send_rest)
            else:
                return
        self._unsent.append(packet)

    def _send_rest(self) -> None:
        while self._unsent:
            try:
                self._channel.send(self._unsent[0])
            except BlockingIOError:
                return
            self._unsent.popleft()
        self._loop.remove_writer(self._channel.fileno())

    def _read(self) -> None:
        flags = socket.MSG_CMSG_CLOEXEC
        try:
            size, extra, _, _ = self._channel.recvmsg_into(
                [self._packet], socket.CMSG_LEN(_FD_BYTES), flags
            )
        except BlockingIOError:
            return
        except OSError:
            size, extra = 0, []
        fds = [int.from_bytes(data[:_FD_BYTES], "little") for _, _, data in extra]
        kind, rest = bytes(self._packet[:1]), bytes(self._packet[1:size])
        if not size:
            self._loop.remove_reader(self._channel.fileno())
            self._on_end()
        elif kind == b"S":
            self._take_socket(socket.socket(fileno=fds[0]))
        elif kind == b"E":
            self._take_failure(rest.decode(errors="replace"))
        elif kind == b"R":
            waiter = self._answers.pop(rest[:8], None)
            if waiter and not waiter.done():
                waiter.set_result(json.loads(rest[8:]))
        else:
            self._on_order(kind, json.loads(rest) if rest else {})

    # -- dialling ----------------------------------------------------------------------------

    def fill_stock(self) -> None:
        """Ask for as many sockets as are to be kept ready."""
        for family, wanted in _STOCK.items():
            missing = wanted - len(self._stock[family]) + len(self._waiting[family])
            for _ in range(missing - self._asked.count(family)):
                self._asked.append(family)
                self.send(_ASK[socket.AddressFamily(family)])

    def _take_socket(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        family = self._asked.popleft()
        while self._waiting[family]:
            waiter = self._waiting[family].popleft()
            if not waiter.done():
                waiter.set_result(sock)
                return
        self._stock[family].append(sock)

    def _take_failure(self, text: str) -> None:
        family = self._asked.popleft()
        while self._waiting[family]:
            waiter = self._waiting[family].popleft()
            if not waiter.done():
                waiter.set_exception(OSError(text))
                return

    async def _socket(self, family: int) -> socket.socket:
        stock = self._stock[family]
        if stock:
            sock = stock.popleft()
            self.fill_stock()
            return sock
        waiter: asyncio.Future[socket.socket] = self._loop.create_future()
        self._waiting[family].append(waiter)
        self.fill_stock()
        try:
            return await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled():
                stock.append(waiter.result())  # it came in the same moment
            raise

    async def dial(self, port: int) -> socket.socket:
        """Return a socket connected to ``port`` inside, on 127.0.0.1 or else on ::1.

        Raises:
            DialError: neither accepts.
        """
        failures: list[OSError] = []
        for family, host in _LOOPBACK:
            try:
                async with asyncio.timeout(_DIAL_SECONDS):
                    return await self._connect(family, (host, port))
            except OSError as error:  # TimeoutError is one
                failures.append(error)
        if all(isinstance(error, ConnectionRefusedError) for error in failures):
            raise DialError(f"nothing listens on port {port} inside the sandbox")
        raise DialError(f"port {port} inside the sandbox does not accept connections")

    async def _connect(self, family: int, address: tuple[str, int]) -> socket.socket:
        sock = await self._socket(family)
        try:
            await self._loop.sock_connect(sock, address)
        except BaseException:
            sock.close()
            raise
        return sock

    # -- control's messages ------------------------------------------------------------------

    async def message(self, fields: dict[str, str], body: str) -> dict[str, Any]:
        """Pass a message of control on and return the holder's answer.

        Raises:
            TimeoutError: the holder did not answer.
        """
        self._message_number += 1
        number = self._message_number.to_bytes(8, "big")
        waiter: asyncio.Future[dict[str, Any]] = self._loop.create_future()
        self._answers[number] = waiter
        self.send(b"M" + number + json.dumps({"headers": fields, "body": body}).encode())
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                return await waiter
        finally:
            self._answers.pop(number, None)


TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any
