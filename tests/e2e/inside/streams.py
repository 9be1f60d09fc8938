"""An application for browsers that depends on what is between them: runs inside a sandbox.

    python3 streams.py PORT

``GET /events`` says a number, and the next one only when ``POST /heard`` told that somebody heard
it; ``GET /large`` is 500 MiB; ``PUT /own`` is for pages of the
origin in its query alone, with credentials, as the answer to its preflight says; any other ``PUT``
says nothing to browsers. ``GET /seen`` answers with the heads that came before, as in ``seen.py``;
all else is a page. Only the standard library.
"""

from __future__ import annotations

import hashlib
import http.server
import json
import random
import sys
import threading
from urllib.parse import parse_qs, urlsplit

PAGE = b"<!doctype html><title>inside</title><h1>inside</h1>"
EVENTS = 5
BLOCK = random.Random(0).randbytes(1 << 20)
BLOCKS = 500


def block(number: int) -> bytes:
    """One part of the large file, unlike all others."""
    return number.to_bytes(8, "big") + BLOCK[8:]


def digest() -> bytes:
    """SHA-256 of the whole of it."""
    digest = hashlib.sha256()
    for number in range(BLOCKS):
        digest.update(block(number))
    return digest.digest()


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers, and remembers what it is asked."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    seen: list[dict[str, object]] = []  # noqa: RUF012 - shared by all requests
    heard = threading.Semaphore(0)

    def do_GET(self) -> None:
        if self.path == "/seen":
            self.answer(json.dumps(self.seen).encode(), "application/json")
            return
        self.remember()
        if self.path == "/events":
            self.serve_events()
        elif self.path == "/large":
            self.serve_large()
        else:
            self.answer(PAGE, "text/html")

    def do_POST(self) -> None:
        self.remember()
        self.heard.release()
        self.answer(b"", "text/plain")

    def do_PUT(self) -> None:
        self.remember()
        self.answer(b"changed", "text/plain", self.own_fields())

    def do_OPTIONS(self) -> None:
        self.remember()
        fields = self.own_fields()
        if not fields:
            self.send_error(405)
            return
        more = {"Access-Control-Allow-Methods": "PUT", "Access-Control-Allow-Headers": "x-own"}
        self.answer(b"", "text/plain", fields | more)

    def own_fields(self) -> dict[str, str]:
        """What this application itself says to pages of other origins."""
        asked = urlsplit(self.path)
        if asked.path != "/own":
            return {}
        (origin,) = parse_qs(asked.query)["origin"]
        return {
            "Access-Control-Allow-Origin": origin,
            "Access-Control-Allow-Credentials": "true",
        }

    def remember(self) -> None:
        self.seen.append({"line": self.requestline, "fields": dict(self.headers.items())})
        self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def serve_events(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        for number in range(EVENTS):
            self.wfile.write(f"data: {number}\n\n".encode())
            self.heard.acquire()
        self.close_connection = True

    def serve_large(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/octet-stream")
        self.send_header("Content-Disposition", 'attachment; filename="large"')
        self.send_header("Content-Length", str(BLOCKS * len(BLOCK)))
        self.end_headers()
        for number in range(BLOCKS):
            self.wfile.write(block(number))

    def answer(self, body: bytes, kind: str, fields: dict[str, str] | None = None) -> None:
        self.send_response(200)
        for name, value in (fields or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def main() -> None:
    address = ("127.0.0.1", int(sys.argv[1]))
    http.server.ThreadingHTTPServer(address, Handler).serve_forever()


if __name__ == "__main__":
    main()
