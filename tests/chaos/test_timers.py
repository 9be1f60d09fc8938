"""Timers of one minute, on real sandboxes: who is used goes on, who is not is stopped."""

from __future__ import annotations

import concurrent.futures
import contextlib
import threading
from typing import TYPE_CHECKING

import httpx
import pytest

if TYPE_CHECKING:
    from tests.support.api import Api

pytestmark = pytest.mark.chaos

# A byte every two seconds, for as long as somebody listens.
STREAM = """
import http.server, time
class Stream(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        while True:
            self.wfile.write(b"x")
            time.sleep(2)
http.server.ThreadingHTTPServer(("127.0.0.1", 8000), Stream).serve_forever()
"""
REACHED = """python3 -c 'import socket; socket.create_connection(("127.0.0.1", 8000))' """
LATE_SECONDS = 90  # a feed, and the minute in which processor time is counted


def test_who_is_used_goes_on_and_who_is_not_is_stopped(api: Api) -> None:
    with contextlib.ExitStack() as stack:
        forgotten, busy, watched = (
            stack.enter_context(api.sandbox(autoStopInterval=1)) for _ in range(3)
        )
        forgotten.background("sleep 100000")
        busy.background("while :; do :; done")
        watched.upload(STREAM.encode(), "/tmp/stream.py")
        watched.background("python3 /tmp/stream.py")
        watched.check(f"until {REACHED}; do sleep 0.1; done")
        url, headers = watched.preview(8000)
        reader = httpx.Client(trust_env=False, timeout=60)
        stack.callback(reader.close)
        answer = stack.enter_context(reader.stream("GET", url, headers=headers))
        heard = threading.Thread(target=_listen, args=(answer,), daemon=True)
        heard.start()
        stopped = forgotten.wait_for("stopped", seconds=60 + LATE_SECONDS)
        assert stopped["errorReason"] is None
        assert stopped["lastActivityAt"] < stopped["updatedAt"]
        for used in (busy, watched):
            assert used.record()["state"] == "started"
        assert heard.is_alive()
        with concurrent.futures.ThreadPoolExecutor(50) as many:
            begun = many.map(lambda _: forgotten.check("cut -d' ' -f22 /proc/1/stat"), range(50))
            assert len(set(begun)) == 1
        assert forgotten.check("ls /run/yurt") == ""


def _listen(answer: httpx.Response) -> None:
    with contextlib.suppress(httpx.HTTPError):
        for _ in answer.iter_raw():
            pass
