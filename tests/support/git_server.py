"""A git server over HTTP on loopback: git's own ``http-backend`` behind a user and a password."""

from __future__ import annotations

import base64
import os
import ssl
import subprocess
import threading
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from typing_extensions import override

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator
    from pathlib import Path

USER, PASSWORD = "visitor", "pa55:w/ord@"
IDENTITY = {
    "GIT_AUTHOR_NAME": "Someone",
    "GIT_AUTHOR_EMAIL": "someone@example.org",
    "GIT_COMMITTER_NAME": "Someone",
    "GIT_COMMITTER_EMAIL": "someone@example.org",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_CONFIG_NOSYSTEM": "1",
}


class GitServer(ThreadingHTTPServer):
    """Serves the repositories below ``root``.

    Attributes:
        given: what clients gave as ``Authorization``, in order.
        redirect: where every request is sent instead, if not empty.
        stall: requests wait until this is set.
    """

    daemon_threads = True

    def __init__(self, root: Path, *, locked: bool = True) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.root = root
        self.locked = locked
        self.given: list[str] = []
        self.redirect = ""
        self.asked = threading.Event()
        self.stall = threading.Event()
        self.stall.set()

    @property
    def url(self) -> str:
        scheme = "https" if isinstance(self.socket, ssl.SSLSocket) else "http"
        return f"{scheme}://127.0.0.1:{self.server_address[1]}"

    def lock_with(self, certificate: Path, key: Path) -> None:
        """Speak TLS from now on."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        self.socket = context.wrap_socket(self.socket, server_side=True)

    @override
    def shutdown_request(self, request: socket.socket | tuple[bytes, socket.socket]) -> None:
        """End TLS in order: some clients take anything else for an attack."""
        if isinstance(request, ssl.SSLSocket):
            with suppress(OSError):
                request.unwrap()
        super().shutdown_request(request)


class _Handler(BaseHTTPRequestHandler):
    server: GitServer
    protocol_version = "HTTP/1.0"

    def do_GET(self) -> None:
        self.answer(b"")

    def do_POST(self) -> None:
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
        else:
            body = self.rfile.read(int(self.headers["Content-Length"]))
        self.answer(body)

    def answer(self, body: bytes) -> None:
        server = self.server
        given = self.headers.get("Authorization", "")
        if given:
            server.given.append(given)
        server.asked.set()
        server.stall.wait()
        if server.redirect:
            self.send_response(302)
            self.send_header("Location", server.redirect + self.path)
            self.end_headers()
            return
        if server.locked and given != authorization():
            self.send_response(401)
            self.send_header("WWW-Authenticate", 'Basic realm="tests"')
            self.end_headers()
            return
        path = urlsplit(self.path)
        done = subprocess.run(
            ["git", "http-backend"],
            input=body,
            stdout=subprocess.PIPE,
            check=True,
            env={
                "PATH": os.environ["PATH"],
                "GIT_PROJECT_ROOT": str(server.root),
                "GIT_HTTP_EXPORT_ALL": "1",
                "REQUEST_METHOD": self.command,
                "PATH_INFO": path.path,
                "QUERY_STRING": path.query,
                "CONTENT_TYPE": self.headers.get("Content-Type", ""),
                "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
                "REMOTE_USER": USER,
                "GIT_CONFIG_COUNT": "1",
                "GIT_CONFIG_KEY_0": "safe.directory",
                "GIT_CONFIG_VALUE_0": "*",
            },
        )
        head, _, content = done.stdout.partition(b"\r\n\r\n")
        fields = dict(line.split(": ", 1) for line in head.decode().split("\r\n"))
        self.send_response(int(fields.pop("Status", "200").split()[0]))
        for name, value in fields.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    @override
    def log_message(self, format: str, *arguments: object) -> None:
        """Say nothing."""


def authorization() -> str:
    """Return the header of who knows the password."""
    return "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()


@contextmanager
def git_server(root: Path, *, locked: bool = True) -> Iterator[GitServer]:
    """Serve, and end."""
    server = GitServer(root, locked=locked)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.stall.set()
        server.shutdown()
        server.server_close()
        thread.join()


def git(directory: Path, *words: str) -> str:
    """Run the machine's git, as a person would, and return what it prints."""
    done = subprocess.run(
        ["git", *words],
        cwd=directory,
        env={"PATH": os.environ["PATH"], "HOME": "/nonexistent", **IDENTITY},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


def made_repository(path: Path) -> str:
    """Make a bare repository with two commits on main and a branch; return the first commit."""
    work = path.with_suffix(".work")
    work.mkdir(parents=True)
    git(work, "init", "-q", "-b", "main")
    (work / "read.me").write_text("one\n")
    git(work, "add", ".")
    git(work, "commit", "-q", "-m", "first")
    first = git(work, "rev-parse", "HEAD")
    git(work, "branch", "topic")
    (work / "read.me").write_text("two\n")
    git(work, "commit", "-q", "-a", "-m", "second")
    git(work, "clone", "-q", "--bare", ".", str(path))
    git(path, "config", "http.receivepack", "true")
    # Lets anybody have a single commit, as the well-known servers do.
    git(path, "config", "uploadpack.allowAnySHA1InWant", "true")
    return first
