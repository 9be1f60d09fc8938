"""Sends without end to everywhere, from the first moment on: the entrypoint of a sandbox.

Every packet holds ``$MARK`` backwards: forwards it was in the request that made the sandbox.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from pathlib import Path

MARK = os.environ["MARK"][::-1].encode()
OUTSIDE = "203.0.113.77"
# Twelve bytes of a DNS query's head, one label with the mark, type A.
QUERY = b"\x00\x01\x01\x00\x00\x01" + bytes(6) + bytes([len(MARK)]) + MARK + b"\x00\x00\x01\x00\x01"


def resolvers() -> list[str]:
    lines = [line.split() for line in Path("/etc/resolv.conf").read_text().splitlines()]
    return [words[1] for words in lines if words[:1] == ["nameserver"]]


def main() -> None:
    targets = [(OUTSIDE, 7777, MARK), ("255.255.255.255", 7777, MARK), ("224.0.0.251", 5353, MARK)]
    targets += [(resolver, 53, QUERY) for resolver in resolvers()]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
        datagrams.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        while True:
            for host, number, content in targets:
                with contextlib.suppress(OSError):
                    datagrams.sendto(content, (host, number))
            with socket.socket() as stream, contextlib.suppress(OSError):
                stream.settimeout(0.02)
                stream.connect((OUTSIDE, 8099))
                stream.sendall(MARK)
            time.sleep(0.001)


if __name__ == "__main__":
    main()
