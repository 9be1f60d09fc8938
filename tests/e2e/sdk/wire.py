"""Prints what an SDK puts on the wire: one line for each request, with its answer and time.

Runs in the SDK's own environment. It wraps the three HTTP clients that the SDKs use; whichever is
not installed is not wrapped. Credentials are not shown.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import re
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

SHOWN = 160
SMALL_BYTES = 65536
_START = time.monotonic()
_SECRET = re.compile(r'("token"\s*:\s*")[^"]+|(DAYTONA_SANDBOX_AUTH_KEY=)[^&\s]+')


def say(text: str) -> None:
    """Print one line with the seconds since the start."""
    print(f"{time.monotonic() - _START:8.3f} {text}", flush=True)


def trim(value: object) -> str:
    """Shorten anything to one line without secrets."""
    if value is None:
        return ""
    if isinstance(value, (bytes, bytearray)):
        text = bytes(value[: 4 * SHOWN]).decode("utf-8", "replace")
    else:
        text = str(value)
    text = _SECRET.sub(lambda match: f"{match[1] or match[2]}...", " ".join(text.split()))
    text = "".join(c if c.isprintable() else "." for c in text)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}... ({len(text)} characters)"


def line(method: str, url: object, sent: object, answer: str, started: float) -> None:
    """Print a request and its answer."""
    path = re.sub(r"^(https?|wss?)://", "", str(url))
    spent = (time.monotonic() - started) * 1000
    body = f" {trim(sent)}" if sent else ""
    say(f"    {method} {trim(path)}{body} -> {answer} [{spent:.0f} ms]")


def install() -> None:
    """Wrap every HTTP client that is installed here."""
    for name, wrap in (("urllib3", _urllib3), ("httpx", _httpx), ("aiohttp", _aiohttp)):
        if importlib.util.find_spec(name) is not None:
            wrap()


def _answer(status: object, kind: str, length: str | None, body: Callable[[], object]) -> str:
    """Describe an answer; only small ones are read here, so that streams stay streams."""
    if kind.startswith(("application/json", "text/")) and length and int(length) <= SMALL_BYTES:
        return f"{status} {trim(body())}"
    return f"{status} {kind} {length or ''}".rstrip()


def _urllib3() -> None:
    pool: Any = importlib.import_module("urllib3.connectionpool").HTTPConnectionPool
    original = pool.urlopen

    @functools.wraps(original)
    def urlopen(self: Any, method: str, url: str, body: Any = None, *args: Any, **more: Any) -> Any:
        started = time.monotonic()
        try:
            response = original(self, method, url, body, *args, **more)
        except Exception as error:
            line(method, f"{self.host}:{self.port}{url}", body, repr(error), started)
            raise
        kind, length = (response.headers.get(h) for h in ("Content-Type", "Content-Length"))
        answer = _answer(response.status, kind or "", length, lambda: response.data)
        line(method, f"{self.host}:{self.port}{url}", body, answer, started)
        return response

    pool.urlopen = urlopen


def _httpx_body(request: Any) -> str:
    kind = request.headers.get("Content-Type", "")
    if kind.startswith("multipart"):
        return f"(multipart, {request.headers.get('Content-Length', 'chunked')} bytes)"
    return trim(getattr(request, "_content", b""))


def _httpx_answer(response: Any) -> str:
    headers = response.headers
    kind, length = headers.get("Content-Type", ""), headers.get("Content-Length")
    if not response.is_stream_consumed:
        return f"{response.status_code} {kind}"
    return _answer(response.status_code, kind, length, lambda: response.content)


def _httpx() -> None:
    httpx: Any = importlib.import_module("httpx")
    send, send_async = httpx.Client.send, httpx.AsyncClient.send

    def report(request: Any, response: Any, started: float) -> None:
        line(request.method, request.url, _httpx_body(request), _httpx_answer(response), started)

    @functools.wraps(send)
    def sync(self: Any, request: Any, **more: Any) -> Any:
        started = time.monotonic()
        response = send(self, request, **more)
        report(request, response, started)
        return response

    @functools.wraps(send_async)
    async def asynchronous(self: Any, request: Any, **more: Any) -> Any:
        started = time.monotonic()
        response = await send_async(self, request, **more)
        report(request, response, started)
        return response

    httpx.Client.send = sync
    httpx.AsyncClient.send = asynchronous


def _aiohttp() -> None:
    session: Any = importlib.import_module("aiohttp").ClientSession
    original = session._request

    @functools.wraps(original)
    async def request(self: Any, method: str, url: Any, **more: Any) -> Any:
        started = time.monotonic()
        sent = more.get("json") or more.get("data")
        if sent is not None and not isinstance(sent, (str, bytes, dict, list)):
            sent = f"({type(sent).__name__})"
        try:
            response = await original(self, method, url, **more)
        except Exception as error:
            line(method, url, sent, repr(error), started)
            raise
        kind, length = (response.headers.get(h) for h in ("Content-Type", "Content-Length"))
        small = length is not None and int(length) <= SMALL_BYTES
        # aiohttp keeps what was read, so the SDK reads the same bytes again.
        body = await response.read() if small and response.status != 101 else b""
        answer = _answer(response.status, kind or "", length, lambda: body)
        line(method, url, sent, answer, started)
        return response

    session._request = request
