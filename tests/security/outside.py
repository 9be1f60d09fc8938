"""Neighbours of the host that a sandbox must not reach, and one that it may."""

from __future__ import annotations

import contextlib
import functools
import json
import socket
import subprocess
import sys
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.support.netns import Namespace, namespace
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

# Everything but the first is what a sandbox never reaches. The first is of a network for
# documentation (RFC 5737), so it stands for the internet and is nobody's.
PUBLIC = "203.0.113.77"
NEVER = ("169.254.169.254", "10.213.7.7", "172.20.213.7", "192.168.213.7", "100.64.213.7")
PORT = 8099
GREETING = b"HTTP/1.0 200 OK\r\nContent-Length: 7\r\n\r\nreached"

_SERVER = f"""
import socketserver
class Greeter(socketserver.BaseRequestHandler):
    def handle(self):
        self.request.sendall({GREETING!r})
class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
Server(("0.0.0.0", {PORT}), Greeter).serve_forever()
"""

# Prints one hexadecimal line for each packet that arrives, whatever its protocol.
_LISTENER = """
import socket, sys
with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)) as packets:
    packets.bind(("eth0", 0))
    print("listening", flush=True)
    while True:
        data, address = packets.recvfrom(65535)
        if address[2] != socket.PACKET_OUTGOING:
            print(data.hex(), flush=True)
"""


@dataclass(frozen=True, slots=True)
class Outside:
    """A machine beside the host that answers on port 8099 of many addresses."""

    network: Namespace
    packets: list[bytes]


@contextlib.contextmanager
def neighbourhood() -> Iterator[Outside]:
    """Set the machine up beside the host, and take it away."""
    further = [f"{address}/32" for address in NEVER]
    with namespace("203.0.113.78/30", [f"{PUBLIC}/30", *further]) as network:
        greeter = subprocess.Popen(network.command(sys.executable, "-I", "-c", _SERVER))
        listener = subprocess.Popen(
            network.command(sys.executable, "-I", "-c", _LISTENER), stdout=subprocess.PIPE
        )
        packets: list[bytes] = []
        assert listener.stdout is not None
        assert listener.stdout.readline() == b"listening\n"
        reader = threading.Thread(
            target=lambda lines: packets.extend(bytes.fromhex(x.decode()) for x in lines),
            args=(listener.stdout,),
        )
        reader.start()
        for address in (PUBLIC, *NEVER):
            eventually(functools.partial(_answers, address), f"{address} to answer from here")
        yield Outside(network, packets)
        for process in (greeter, listener):
            process.terminate()
            process.wait()
        reader.join()
        listener.stdout.close()


def _answers(address: str) -> bool:
    try:
        with socket.create_connection((address, PORT), timeout=2) as connection:
            return connection.recv(100) == GREETING
    except OSError:
        return False


def host_addresses() -> list[str]:
    """Every IPv4 address of the host except loopback's."""
    listed = subprocess.run(
        ["ip", "-json", "-4", "addr"], capture_output=True, text=True, check=True
    )
    return [
        entry["local"]
        for link in json.loads(listed.stdout)
        for entry in link["addr_info"]
        if link["ifname"] != "lo"
    ]
