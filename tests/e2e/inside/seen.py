"""A page, and what its server was asked for and sent: runs inside a sandbox.

    python3 seen.py PORT

``GET /seen`` answers with all heads that came before, as a JSON list of objects with ``line`` and
``fields``; everything else is a page, and asked of again and again by itself where it ends in
``/polling``. Only the standard library.
"""

from __future__ import annotations

import http.server
import json
import sys

PAGE = b"<!doctype html><title>inside</title><h1>inside</h1>"
POLLING = PAGE + b"<script>setInterval(() => fetch('/poll').catch(() => 0), 200)</script>"


class Handler(http.server.BaseHTTPRequestHandler):
    """Remembers what it is asked."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    seen: list[dict[str, object]] = []  # noqa: RUF012 - shared by all requests

    def do_GET(self) -> None:
        if self.path == "/seen":
            self.answer(json.dumps(self.seen).encode(), "application/json")
            return
        self.seen.append({"line": self.requestline, "fields": dict(self.headers.items())})
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.answer(POLLING if self.path.endswith("/polling") else PAGE, "text/html")

    def do_POST(self) -> None:
        self.do_GET()

    def answer(self, body: bytes, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def main() -> None:
    address = ("127.0.0.1", int(sys.argv[1]))
    http.server.ThreadingHTTPServer(address, Handler).serve_forever()


if __name__ == "__main__":
    main()
