"""The sockets of the Nomad double: requests, answers, and the event stream.

An event stream that a token may not read is open and says nothing at all, as Nomad's.
"""

from __future__ import annotations

import json
import socket
import sys
import threading
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import parse_qs, urlsplit

from typing_extensions import override

from tests.support.nomad_api import Answer, NomadApi, Request, text

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.nomad_state import NomadState

Json = dict[str, Any]
_BUSY = "Your IP is issuing too many concurrent connections, please rate limit your calls\n"


class Server(ThreadingHTTPServer):
    """Real sockets on loopback, all of them closed at the end."""

    daemon_threads = True
    request_queue_size = 128
    # Waiting requests end only after the state is told, which close() does before.
    block_on_close = True

    def __init__(self, api: NomadApi, heartbeat_seconds: float) -> None:
        self.api, self.heartbeat_seconds = api, heartbeat_seconds
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        super().__init__(("127.0.0.1", 0), _Handler)
        self._thread = threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    @override
    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            self._open.add(request)
        super().process_request(request, client_address)

    @override
    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._open.discard(request)
        super().shutdown_request(request)

    @override
    def handle_error(self, request: Any, client_address: Any) -> None:
        """Leave alone who hangs up; keep a failure of the double for whoever closes it."""
        failure = sys.exception()
        if isinstance(failure, Exception) and not isinstance(failure, OSError):
            clockwork = self.api.state.clockwork
            clockwork.failure = clockwork.failure or failure

    def close(self) -> None:
        self.shutdown()
        self._thread.join()
        with self._lock:
            for connection in self._open:
                with suppress(OSError):  # its other side may have gone
                    connection.shutdown(socket.SHUT_RDWR)
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Server
    _methods: ClassVar = ("GET", "PUT", "POST", "DELETE")

    def __getattr__(self, name: str) -> Callable[[], None]:
        if name in {f"do_{method}" for method in self._methods}:
            return self._serve
        raise AttributeError(name)

    @override
    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""

    def _serve(self) -> None:
        api, faults = self.server.api, self.server.api.faults
        request = self._request()
        if faults.slow_seconds:
            with api.state.changed:
                api.state.changed.wait_for(lambda: not api.is_open, faults.slow_seconds)
        concerned = faults.concerns(request.method, request.path)
        if faults.status and concerned:
            words = _BUSY if faults.status == 429 else faults.text
            self._send(text(faults.status, words))
        elif request.path == "/v1/event/stream":
            self._stream(request)
        else:
            answer = api.answer(request)
            if faults.loses_answers and concerned:
                self.close_connection = True
                return
            cut = faults.cuts_lists and concerned and isinstance(answer.value, list)
            if cut and "next_token" in request.query:
                self._send(text(500, faults.text))
            else:
                self._send(answer, cut=cut and not answer.next_token)

    def _request(self) -> Request:
        url = urlsplit(self.path)
        query = parse_qs(url.query, keep_blank_values=True)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        bearer = self.headers.get("Authorization", "").removeprefix("Bearer ")
        return Request(
            method=self.command,
            path=url.path,
            query={key: values[0] for key, values in query.items()},
            topics=query.get("topic", ["*"]),
            body=json.loads(body) if body else {},
            token=self.headers.get("X-Nomad-Token", bearer),
        )

    def _send(self, answer: Answer, *, cut: bool = False) -> None:
        body = answer.body()
        self.send_response(answer.status)
        kind = "application/json" if answer.is_json else "text/plain; charset=utf-8"
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        if answer.index is not None:
            self.send_header("X-Nomad-Index", str(answer.index))
        if answer.is_query:
            has_leader = not self.server.api.faults.no_leader
            self.send_header("X-Nomad-KnownLeader", str(has_leader).lower())
            self.send_header("X-Nomad-LastContact", "0" if has_leader else "30000")
        if answer.next_token:
            self.send_header("X-Nomad-NextToken", answer.next_token)
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if cut else body)
        if cut:
            self.close_connection = True

    def _stream(self, request: Request) -> None:
        api = self.server.api
        self.close_connection = True
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Cache-Control", "no-cache")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        streams = api.faults.streams
        sent = _start(api.state, int(request.query.get("index") or 0))
        if api.is_allowed(request):
            self._chunk({})
        while api.is_open and streams == api.faults.streams:
            with api.state.changed:
                fresh = [(i, events) for i, events in api.state.ring if i > sent]
                if not fresh or not api.is_allowed(request):
                    beat = not api.state.changed.wait(self.server.heartbeat_seconds)
                    fresh = []
                else:
                    beat = False
            if beat and api.is_allowed(request):
                self._chunk({})
            for index, events in fresh:
                sent = index
                wanted = [event for event in events if _is_wanted(event, request.topics)]
                if wanted and not api.faults.loses_events:
                    self._chunk({"Index": index, "Events": wanted})
        self.wfile.write(b"0\r\n\r\n")

    def _chunk(self, value: Json) -> None:
        line = json.dumps(value).encode() + b"\n"
        self.wfile.write(b"%x\r\n%b\r\n" % (len(line), line))


def _start(state: NomadState, index: int) -> int:
    """Find what to begin after: the entry asked for, else the nearest that is still there."""
    with state.changed:
        held = [i for i, _ in state.ring]
        if not held:
            return 0
        return min(max(index, held[0]), held[-1]) - 1


def _is_wanted(event: Json, topics: list[str]) -> bool:
    keys = {event["Key"], *(event["FilterKeys"] or ())}
    for topic in topics:
        name, _, key = topic.partition(":")
        if name in {"*", event["Topic"]} and key in {"", "*", *keys}:
            return True
    return False
