"""A page and the WebSocket that it opens, from one small program: runs inside a sandbox.

    python3 page.py PORT TEXT [ADDRESS]

``GET /`` is HTML whose script opens ``/socket`` and writes what arrives there into ``#said``;
``/socket`` says TEXT once and then echoes. Only the standard library, so it runs in any image.
"""

from __future__ import annotations

import base64
import hashlib
import http.server
import struct
import sys

PAGE = b"""<!doctype html><title>yurt</title><h1 id="said">waiting</h1><pre id="log"></pre>
<script>
  const scheme = location.protocol === "https:" ? "wss:" : "ws:";
  const socket = new WebSocket(scheme + "//" + location.host + "/socket" + location.search);
  socket.onmessage = (event) => {
    if (document.getElementById("said").textContent === "waiting") {
      document.getElementById("said").textContent = event.data;
      socket.send("back: " + event.data);
    } else {
      document.getElementById("log").textContent += event.data + "\\n";
    }
  };
  socket.onerror = () => { document.getElementById("said").textContent = "socket failed"; };
</script>"""
ACCEPT_SUFFIX = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 section 1.3
TEXT, CLOSE = 0x1, 0x8


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers the page, its socket, and nothing else."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # head and body are two writes
    text = ""

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == "/socket" and self.headers.get("Sec-WebSocket-Key"):
            self.serve_socket()
        elif path == "/":
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Length", str(len(PAGE)))
            self.end_headers()
            self.wfile.write(PAGE)
        else:
            self.send_error(404)

    def serve_socket(self) -> None:
        """Say the text, then echo every text message until the peer closes."""
        key = self.headers["Sec-WebSocket-Key"].encode()
        accept = base64.b64encode(hashlib.sha1(key + ACCEPT_SUFFIX).digest()).decode()
        self.send_response(101)
        self.send_header("Upgrade", "websocket")
        self.send_header("Connection", "Upgrade")
        self.send_header("Sec-WebSocket-Accept", accept)
        self.end_headers()
        self.close_connection = True
        self.send(TEXT, self.text.encode())
        while (message := self.receive()) is not None:
            self.send(TEXT, message)

    def send(self, opcode: int, payload: bytes) -> None:
        length = len(payload)
        if length < 126:
            head = struct.pack("!BB", 0x80 | opcode, length)
        else:
            head = struct.pack("!BBH", 0x80 | opcode, 126, length)
        self.wfile.write(head + payload)
        self.wfile.flush()

    def receive(self) -> bytes | None:
        """Return the next text message, or None at the end. Messages are one short frame here."""
        head = self.rfile.read(2)
        if len(head) < 2:
            return None
        opcode, length = head[0] & 0x0F, head[1] & 0x7F
        if length == 126:
            (length,) = struct.unpack("!H", self.rfile.read(2))
        mask = self.rfile.read(4)
        payload = bytes(b ^ mask[i % 4] for i, b in enumerate(self.rfile.read(length)))
        if opcode == CLOSE:
            self.send(CLOSE, payload)
            return None
        return payload


def main() -> None:
    port, Handler.text = int(sys.argv[1]), sys.argv[2]
    address = sys.argv[3] if len(sys.argv) > 3 else "127.0.0.1"
    http.server.ThreadingHTTPServer((address, port), Handler).serve_forever()


if __name__ == "__main__":
    main()
