"""Answers each request with its bytes: runs inside a sandbox.

    python3 echo.py PORT

An answer is a JSON object: ``number``, which counts all requests since the start, and ``request``,
head and body as they came, in base64. Only the standard library, and none of its HTTP.
"""

from __future__ import annotations

import base64
import itertools
import json
import re
import socket
import sys
import threading

LENGTH = re.compile(rb"\r\ncontent-length: ([0-9]+)\r\n", re.IGNORECASE)
CHUNKED = re.compile(rb"\r\ntransfer-encoding: chunked\r\n", re.IGNORECASE)
numbers = itertools.count()


def is_whole(head: bytes, body: bytes) -> bool:
    """Tell whether a body has come as far as its head says; the gate lets nothing unclear pass."""
    if CHUNKED.search(head):
        return body.endswith(b"0\r\n\r\n")
    length = LENGTH.search(head)
    return length is None or len(body) >= int(length[1])


def serve(connection: socket.socket) -> None:
    data = b""
    with connection:
        while more := connection.recv(65536):
            data += more
            head, end, body = data.partition(b"\r\n\r\n")
            if not end or not is_whole(head + b"\r\n", body):
                continue
            said = {"number": next(numbers), "request": base64.b64encode(data).decode()}
            answer, data = json.dumps(said).encode(), b""
            head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
            connection.sendall(b"%bContent-Length: %d\r\n\r\n%b" % (head, len(answer), answer))


def main() -> None:
    with socket.create_server(("127.0.0.1", int(sys.argv[1])), backlog=128) as listener:
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=serve, args=(connection,), daemon=True).start()


if __name__ == "__main__":
    main()
