"""A gate as it runs in production, between a holder and a sandbox that are only played.

The gate is a process of its own, confined, under ``python -I -S``. The "sandbox" is a network
namespace with nothing but a loopback, in which tests listen as the agent or as an app would.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import queue
import select
import socket
import struct
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import httptools

from jobs.installed import interpreter
from jobs.runner import linux
from jobs.runner.channel import PACKET_LIMIT, send_fd

if TYPE_CHECKING:
    from collections.abc import Callable

SANDBOX = "abcdefghijklmnopqrstuvwxyz"
OTHER = "zyxwvutsrqponmlkjihgfedcba"
KEY = "yurt_a-key-of-a-user"
TOKEN = "tokentokentokentokentokentoken12"
SIGNING_KEY = bytes(range(32))
FILE_KEY = "a-key-for-files"
SECRET = "5ec2e7" * 5
GATE_UID = 64999
_ROOT = Path(__file__).parents[2]
_SIOCSIFFLAGS, _IFF_UP = 0x8914, 1
_START = """
import sys
sys.path[:0] = {path!r}
sys.modules["ssl"] = None
from jobs.runner import gate, gate_service, gate_upstream, gate_visitor
{settings}
gate.main(
    {listener}, {channel}, sandbox_id={sandbox!r}, domain="localhost", uid={uid}, empty_fd={empty}
)
"""


class Inside:
    """The network of a sandbox: a thread in a namespace of its own that makes sockets there."""

    def __init__(self) -> None:
        self._wanted: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        self._made: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def _work(self) -> None:
        linux.unshare(linux.CLONE_NEWNET)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
            fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", _IFF_UP))
        while (make := self._wanted.get()) is not None:
            self._made.put(make())

    def _run(self, make: Callable[[], Any]) -> Any:
        with self._lock:
            self._wanted.put(make)
            return self._made.get()

    def make(self, family: int) -> socket.socket:
        made = self._run(lambda: socket.socket(family, socket.SOCK_STREAM))
        assert isinstance(made, socket.socket)
        return made

    def listen(self, port: int, host: str = "127.0.0.1") -> socket.socket:
        listener = self.make(socket.AF_INET6 if ":" in host else socket.AF_INET)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(512)
        return listener

    def close(self) -> None:
        self._wanted.put(None)
        self._thread.join()


class App:
    """A server inside that keeps the raw bytes of each request and answers as it is told.

    ``answer`` gets the bytes of one request and returns those of its answer; None closes.
    """

    def __init__(self, listener: socket.socket, answer: Callable[[bytes], bytes | None]) -> None:
        self.requests: list[bytes] = []
        self.connections = 0
        self._listener, self._answer = listener, answer
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            try:
                while request := read_message(connection):
                    self.requests.append(request)
                    answer = self._answer(request)
                    if answer is None:
                        return
                    connection.sendall(answer)
            except OSError:
                return

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


def read_message(connection: socket.socket, *, without_body: bool = False) -> bytes:
    """Read one HTTP message with its body; what there is of it if the other side closes."""
    data = b""
    while not _is_whole(data, without_body):
        chunk = connection.recv(65536)
        if not chunk:
            break
        data += chunk
    return data


def _is_whole(data: bytes, without_body: bool) -> bool:
    head, separator, body = data.partition(b"\r\n\r\n")
    low = head.lower()
    if not separator or without_body:
        return bool(separator)
    if b"transfer-encoding: chunked" in low:
        return body.endswith(b"0\r\n\r\n")
    if b"content-length: " in low:
        return len(body) >= int(low.partition(b"content-length: ")[2].split(b"\r\n")[0])
    return not low.startswith(b"http/") or b" 204 " in low.split(b"\r\n")[0]


def ok(body: bytes = b"hello") -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


_HELLO = ok()


class GateRig:
    """One gate with its holder, its inside, and ways to talk to it."""

    def __init__(self, settings: str = "") -> None:
        """Start a gate; ``settings`` is code that changes its constants before."""
        self.inside = Inside()
        self.reports: list[dict[str, Any]] = []
        self.messages: list[dict[str, Any]] = []
        self._said: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self.dials = 0
        self.fail_dials = False
        self.message_answer: dict[str, Any] = {"status": 200, "headers": {}, "body": "{}"}
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.port = self._listener.getsockname()[1]
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for end in (self._channel, theirs):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, PACKET_LIMIT)
        self.scratch = tempfile.TemporaryDirectory(prefix="gate-")
        self.process = self._start(theirs, settings)
        theirs.close()
        self._holder = threading.Thread(target=self._hold, daemon=True)
        self._holder.start()
        self.assignment: dict[str, Any] = {
            "version": 1,
            "keys": [{"hash": sha256(KEY), "expires_at": None}],
            "preview_token": TOKEN,
            "signing_key": SIGNING_KEY.hex(),
            "file_signing_key": FILE_KEY,
            "revoked_signatures": [],
            "public": False,
            "private_ports": [5901],
        }
        assert status(self.get("/_yurt/health")) == 200  # it is up, and confined

    def _start(self, theirs: socket.socket, settings: str) -> subprocess.Popen[bytes]:
        empty = Path(self.scratch.name) / "empty"
        library = Path(self.scratch.name) / "library"
        empty.mkdir(mode=0o755)
        library.mkdir()
        (library / "jobs").symlink_to(_ROOT / "jobs")
        (library / "httptools").symlink_to(Path(httptools.__file__).parent)
        empty_fd = os.open(empty, os.O_RDONLY)
        self.errors = Path(self.scratch.name) / "errors"
        code = _START.format(
            path=[str(library)],
            listener=self._listener.fileno(),
            channel=theirs.fileno(),
            sandbox=SANDBOX,
            settings=settings,
            uid=GATE_UID,
            empty=empty_fd,
        )
        try:
            with self.errors.open("wb") as errors:
                return subprocess.Popen(
                    [*interpreter(), "-c", code],
                    pass_fds=(self._listener.fileno(), theirs.fileno(), empty_fd),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=errors,
                )
        finally:
            os.close(empty_fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._channel.shutdown(socket.SHUT_RDWR)
        self._holder.join()
        self._channel.close()
        self._listener.close()
        try:
            self.process.wait(10)
        finally:
            self.process.kill()
            self.process.wait()
            self.inside.close()
            errors = self.errors.read_text()
            self.scratch.cleanup()
        assert "gate:" not in errors, errors
        assert "Traceback" not in errors, errors

    # -- the holder --------------------------------------------------------------------------

    def _hold(self) -> None:
        try:
            self._answer_packets()
        except (BrokenPipeError, ConnectionResetError):
            return  # the gate has gone

    def _answer_packets(self) -> None:
        while packet := self._channel.recv(PACKET_LIMIT):
            kind = packet[:1]
            if kind == b"D":
                self._dial(socket.AF_INET6 if packet == b"D6" else socket.AF_INET)
            elif kind == b"Q":
                self.reports.append(json.loads(packet[1:]))
            elif kind == b"M":
                self.messages.append(json.loads(packet[9:]))
                answer = json.dumps(self.message_answer).encode()
                self._channel.send(b"R" + packet[1:9] + answer)
            elif kind == b"Z":
                self._said.put(json.loads(packet[1:]))

    def _dial(self, family: int) -> None:
        self.dials += 1
        if self.fail_dials:
            self._channel.send(b"Eno more")
            return
        with self.inside.make(family) as made:
            send_fd(self._channel, b"S", made.fileno())

    def assign(self, phase: str = "ready", **changes: object) -> None:
        """Give the gate its assignment, or a changed one."""
        self.assignment.update(changes)
        self.assignment["version"] += 1
        order = {"assignment": self.assignment, "secret": SECRET, "phase": phase}
        self._channel.send(b"A" + json.dumps(order).encode())

    def close_admission(self) -> None:
        self._channel.send(b"C")

    def quiesce(self, idle_seconds: float, seconds: float = 10.0) -> dict[str, Any]:
        """Ask the gate to close if it has been idle for so long, and return what it says."""
        order = {"number": 1, "idle_seconds": idle_seconds, "seconds": seconds}
        self._channel.send(b"Z" + json.dumps(order).encode())
        said: dict[str, Any] = self._said.get(timeout=10)
        return said

    def reopen(self) -> None:
        self._channel.send(b"O")

    def touch(self) -> None:
        self._channel.send(b"T")

    # -- visitors ----------------------------------------------------------------------------

    def connect(self, timeout: float = 10.0) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=timeout)

    def raw(self, request: bytes, timeout: float = 10.0) -> bytes:
        """Send bytes and return everything that comes back until the gate closes."""
        with self.connect(timeout) as connection:
            connection.sendall(request)
            return read_all(connection)

    def get(
        self, path: str, host: str = "localhost:9878", *lines: str, method: str = "GET"
    ) -> bytes:
        """Make one request on a connection of its own and return the raw answer."""
        head = [f"{method} {path} HTTP/1.1", f"Host: {host}", "Connection: close", *lines, "", ""]
        return self.raw("\r\n".join(head).encode("latin-1"))

    def toolbox(self, path: str, *lines: str, method: str = "GET") -> bytes:
        bearer = f"Authorization: Bearer {KEY}"
        return self.get(
            f"/toolbox/{SANDBOX}{path}", "localhost:9878", bearer, *lines, method=method
        )

    def preview(self, port: int, path: str = "/", *lines: str, method: str = "GET") -> bytes:
        return self.get(path, f"{port}-{SANDBOX}.localhost:9878", *lines, method=method)

    def app(self, port: int, answer: Callable[[bytes], bytes | None] | bytes = _HELLO) -> App:
        """Listen inside."""
        if isinstance(answer, bytes):
            fixed = answer
            return App(self.inside.listen(port), lambda _: fixed)
        return App(self.inside.listen(port), answer)

    def memory_kib(self) -> int:
        """Return the gate's resident memory."""
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1])
        raise AssertionError("the gate is gone")

    def cpu_seconds(self) -> float:
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def read_all(connection: socket.socket) -> bytes:
    data = b""
    try:
        while chunk := connection.recv(65536):
            data += chunk
    except ConnectionResetError:
        pass
    return data


def status(answer: bytes) -> int:
    """Return the status of a raw answer; 0 if there is none."""
    return int(answer.split(b" ", 2)[1]) if answer.startswith(b"HTTP/1.") else 0


def is_closed(connection: socket.socket, seconds: float) -> bool:
    """Tell whether the other side closes within ``seconds``; what it still sends is dropped."""
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0:
        if select.select([connection], [], [], left)[0]:
            try:
                if not connection.recv(65536):
                    return True
            except ConnectionResetError:
                return True
    return False


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
