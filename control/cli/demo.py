"""The first sandbox: created, used and deleted again, as a user's would be, by the wire API."""

from __future__ import annotations

import secrets
import ssl
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import httpx
from typing_extensions import override

from control.cli.supervisor import local_address
from control.errors import UnavailableError
from control.vault import load_keys
from yurt.client import Client, YurtClientError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from control.cli.output import Output
    from control.settings import Settings
    from yurt.client import Sandbox

_PORT = 8000
_PAGE_SECONDS = 15.0
_SERVE = "python3 -m http.server --bind 127.0.0.1 --directory /tmp/yurt-demo"


def demonstrate(settings: Settings, output: Output) -> dict[str, float]:
    """Show that it works; return how long each part took, in seconds.

    Raises:
        UnavailableError: it does not; with the part that failed and why.
    """
    times = _Times(output)
    here = _Here(settings)
    with Client(settings.api_url, load_keys(settings.data).api_key, here) as client:
        try:
            with times.part("create a sandbox"):
                sandbox = client.create(labels={"yurt": "demonstration"})
            try:
                _use(client, sandbox, times)
            except YurtClientError:
                with suppress(YurtClientError):  # what failed first is what is told
                    client.delete(sandbox.id)
                raise
            with times.part("delete it"):
                client.delete(sandbox.id)
        except YurtClientError as exc:
            message = f"the server is up, but it could not {times.current}: {exc}"
            raise UnavailableError(message) from exc
    return times.seconds


def _use(client: Client, sandbox: Sandbox, times: _Times) -> None:
    with times.part("run code in it"):
        finished = client.execute(sandbox, "python3 -c 'print(6 * 7)'")
    if finished.output.strip() != "42":
        message = f"6 * 7 was answered with {finished.output!r}"
        raise YurtClientError(message)
    greeting = f"hello {secrets.token_hex(4)}"
    with times.part("fetch a page from it"):
        client.execute(
            sandbox, f"mkdir -p /tmp/yurt-demo && echo '{greeting}' >/tmp/yurt-demo/index.html"
        )
        client.start_in_background(sandbox, f"{_SERVE} {_PORT}")
        url, token = client.preview(sandbox, _PORT)
        _fetch(client, url, token, greeting)


def _fetch(client: Client, url: str, token: str, greeting: str) -> None:
    """Wait until the page is served and read it."""
    deadline = time.monotonic() + _PAGE_SECONDS
    while True:
        page = client.fetch_preview(url, token)
        if page.is_success and greeting in page.text:
            return
        if time.monotonic() > deadline:
            message = f"{url} was answered with {page.status_code} {page.text[:200]!r}"
            raise YurtClientError(message)
        time.sleep(0.02)


class _Here(httpx.BaseTransport):
    """Leads every request to this server, whatever its URL says.

    Names and port may be those of a proxy before it, or unknown to programs here. Its certificate
    is believed, and no proxy that is set here is asked.
    """

    def __init__(self, settings: Settings) -> None:
        context = ssl.create_default_context()
        if settings.tls_cert:
            context.load_verify_locations(settings.tls_cert)
        self._transport = httpx.HTTPTransport(verify=context)
        self._scheme = "https" if settings.tls_cert else "http"
        self._address, self._port = local_address(settings), settings.port

    @override
    def handle_request(self, request: httpx.Request) -> httpx.Response:
        request.extensions = {**request.extensions, "sni_hostname": request.url.host}
        request.url = request.url.copy_with(
            scheme=self._scheme, host=self._address, port=self._port
        )
        return self._transport.handle_request(request)

    @override
    def close(self) -> None:
        self._transport.close()


class _Times:
    """Prints and keeps how long each part took."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self.current = ""
        self.seconds: dict[str, float] = {}

    @contextmanager
    def part(self, what: str) -> Iterator[None]:
        self.current = what
        begin = time.perf_counter()
        yield
        self.seconds[what] = time.perf_counter() - begin
        self._output.say(f"  {what}: {self.seconds[what] * 1000:.0f} ms")
