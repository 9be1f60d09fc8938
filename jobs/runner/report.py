"""Reports from a runner to control, sent by a thread of their own.

Control may be away for hours while the sandbox works: the thread retries, the holder never waits.
A report is a sealed HTTP/1.1 request; the answer to ``assign`` carries the assignment.
"""

from __future__ import annotations

import _socket
import _thread
import os
import time

from jobs.runner import channel, message, plain

_TIMEOUT_SECONDS = 10.0
_RETRY_SECONDS = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0)
_FENCED = (404, 409)
RENEW = "renew"
"""The report that asks for a newer assignment. Tried once, so that it is never in another's way:
the next one asks the same."""

_OK = 200
_ANSWER_LIMIT = 4 << 20


class Answer:
    """What control said to one report.

    ``fenced`` means that this runner must end, and ``heard`` that control itself said this.
    """

    def __init__(
        self, phase: str, body: dict[str, object], *, fenced: bool = False, heard: bool = True
    ) -> None:
        self.phase = phase
        self.body = body
        self.fenced = fenced
        self.heard = heard


class Reporter:
    """Sends reports one after the other and leaves the answers in ``answers``.

    ``ready_fd`` becomes readable when an answer is there.
    """

    def __init__(self, url: str, key: bytes, head: message.Head) -> None:
        self._url, self._key, self._head = url, key, head
        self._queue: list[dict[str, object]] = []
        self._wake = _thread.allocate_lock()
        self._wake.acquire()
        self._drained = _thread.allocate_lock()
        self._drained.acquire()
        self.answers: list[Answer] = []
        self.ready_fd, self._ready = os.pipe()
        _thread.start_new_thread(self._run, ())

    def send(self, phase: str, **facts: object) -> None:
        """Queue a report; it is sent as soon as control takes it."""
        self._queue.append({"phase": phase, **facts})
        if self._wake.locked():
            self._wake.release()

    def drain(self, wait_seconds: float) -> None:
        """Wait until everything queued is sent, at most ``wait_seconds``."""
        deadline = time.monotonic() + wait_seconds
        while self._queue and (left := deadline - time.monotonic()) > 0:
            self._drained.acquire(timeout=left)  # the first time perhaps for an older queue

    def _run(self) -> None:
        while True:
            self._wake.acquire()
            while self._queue:
                report = self._queue[0]
                self.answers.append(self._deliver(report))
                os.write(self._ready, b"a")
                self._queue.pop(0)
            if self._drained.locked():
                self._drained.release()

    def _deliver(self, report: dict[str, object]) -> Answer:
        phase = str(report["phase"])
        tries = 0
        while True:
            self._head.sequence += 1
            body = plain.dumps(report).encode()
            try:
                status, fields, answer = _post(
                    self._url, message.seal(self._key, message.UP, self._head, body), body
                )
                if status in _FENCED and phase != RENEW:
                    return Answer(phase, {}, fenced=True)
                if status == _OK:
                    self._check(fields, answer)
                    return Answer(phase, plain.loads(answer))
            except (OSError, ValueError, message.BadMessage):
                pass  # control is away, restarting, or not itself: ask again
            if phase == RENEW:
                return Answer(phase, {}, heard=False)
            time.sleep(_RETRY_SECONDS[min(tries, len(_RETRY_SECONDS) - 1)])
            tries += 1

    def _check(self, fields: dict[str, str], answer: bytes) -> None:
        head = message.unseal(self._key, message.UP_ANSWER, fields, answer)
        if head.fields() != self._head.fields():
            raise message.BadMessage("the answer is to another report")


def ask(url: str, key: bytes, head: message.Head, report: dict[str, Any]) -> dict[str, Any]:
    """Send one report, once, and return the answer.

    Raises:
        OSError: control cannot be reached, or has no use for it.
    """
    body = plain.dumps(report).encode()
    try:
        status, fields, answer = _post(url, message.seal(key, message.UP, head, body), body)
        if status != _OK:
            raise OSError(f"control has no use for it any more (status {status})")
        answered = message.unseal(key, message.UP_ANSWER, fields, answer)
    except (ValueError, message.BadMessage) as error:
        raise OSError(f"control does not answer as it should: {error}") from error
    if answered.fields() != head.fields():
        raise OSError("control answered another report")
    said: dict[str, Any] = plain.loads(answer)
    return said


def _post(url: str, fields: dict[str, str], body: bytes) -> tuple[int, dict[str, str], bytes]:
    """POST ``body`` to ``/internal/report`` at a ``unix:`` or ``http:`` URL."""
    link, host = _connect(url)
    try:
        link.settimeout(_TIMEOUT_SECONDS)
        head = [
            "POST /internal/report HTTP/1.1",
            f"host: {host}",
            "content-type: application/json",
            f"content-length: {len(body)}",
            "connection: close",
            *(f"{name}: {value}" for name, value in fields.items()),
        ]
        link.sendall("\r\n".join(head).encode() + b"\r\n\r\n" + body)
        received = b""
        while len(received) < _ANSWER_LIMIT and (chunk := link.recv(65536)):
            received += chunk
    finally:
        link.close()
    return _parse(received)


def _connect(url: str) -> tuple[_socket.socket, str]:
    scheme, _, rest = url.partition(":")
    if scheme == "unix":
        return channel.connect_unix(rest), "localhost"
    if scheme != "http":
        raise ValueError(f"control cannot be reached at {url!r}: unknown scheme")
    host = rest.strip("/")
    name, _, port = host.partition(":")
    link = _socket.socket(_socket.AF_INET, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
    link.settimeout(_TIMEOUT_SECONDS)
    try:
        link.connect((name, int(port or 80)))
    except OSError:
        link.close()
        raise
    return link, host


def _parse(received: bytes) -> tuple[int, dict[str, str], bytes]:
    head, separator, body = received.partition(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    parts = lines[0].split(" ", 2)
    if not separator or len(parts) < 2:
        raise ValueError("control closed the connection before its answer was whole")
    fields = {}
    for line in lines[1:]:
        name, _, value = line.partition(":")
        fields[name.strip().lower()] = value.strip()
    if int(fields.get("content-length", "-1")) != len(body):
        raise ValueError("control closed the connection in the middle of its answer")
    return int(parts[1]), fields, body


TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any
