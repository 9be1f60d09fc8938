"""What control says to runners: sealed messages, through the gate of the sandbox."""

from __future__ import annotations

import json
import ssl
import time
from typing import TYPE_CHECKING, Any, Protocol, Self

import httpx

from control.errors import UnavailableError
from jobs.runner.message import DOWN, DOWN_ANSWER, BadMessage, Head, seal, unseal

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from control.model import Run
    from control.naming import SandboxId
    from jobs.scheduler import Allocation

_TIMEOUT = httpx.Timeout(5.0, connect=2.0)
_OK = 200
_DARK_SECONDS = 5.0


class Gates(Protocol):
    """The way to the runners."""

    async def send(
        self, allocation: Allocation, run: Run, order: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Send an order to a runner and return its answer.

        ``run.down_sequence`` numbers the message; a runner takes each number once, and only
        rising ones.

        Raises:
            UnavailableError: it did not answer, or did not take the order.
        """
        ...


class HttpGates:
    """``Gates`` over HTTP; use as an asynchronous context manager."""

    def __init__(self, key_of: Callable[[str], Awaitable[bytes | None]]) -> None:
        """Prepare; ``key_of`` gives the key of a node by its name, None if it is not known."""
        self._key_of = key_of
        self._dark: dict[str, float] = {}
        self._client = client(_TIMEOUT)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()

    async def send(
        self, allocation: Allocation, run: Run, order: Mapping[str, Any]
    ) -> dict[str, Any]:
        """See ``Gates.send``."""
        sandbox_id: SandboxId | str = allocation.sandbox_id
        if run.incarnation is None:
            raise UnavailableError(f"no runner has reported for {sandbox_id}")
        head = Head(allocation.node, sandbox_id, run.generation, run.incarnation, run.down_sequence)
        key = await self._key_of(allocation.node)
        if key is None:
            raise UnavailableError(f"node {allocation.node} has not joined: its key is not known")
        body = json.dumps(order).encode()
        try:
            answer = await self._post(allocation, body, seal(key, DOWN, head, body))
            if answer.status_code != _OK:
                raise UnavailableError(
                    f"the runner of {sandbox_id} refused {order['op']}: {answer.status_code}"
                )
            answered = unseal(key, DOWN_ANSWER, answer.headers, answer.content)
        except (httpx.HTTPError, BadMessage) as error:
            raise UnavailableError(f"the runner of {sandbox_id} does not answer") from error
        if answered.fields() != head.fields():
            raise UnavailableError(f"the runner of {sandbox_id} answered another message")
        said: dict[str, Any] = json.loads(answer.content)
        return said

    async def _post(
        self, allocation: Allocation, body: bytes, fields: dict[str, str]
    ) -> httpx.Response:
        """Post to a gate, unless its whole machine lately did not even refuse a connection.

        Of many sandboxes on a machine that is gone, only one at a time waits for it.
        """
        address, now = allocation.address, time.monotonic()
        if now < self._dark.get(address, 0.0):
            raise UnavailableError(f"nothing at {address} answers")
        if address in self._dark:
            self._dark[address] = now + _DARK_SECONDS
        url = f"http://{host(address)}:{allocation.port}/_yurt/message"
        try:
            answer = await self._client.post(url, content=body, headers=fields)
        except httpx.ConnectTimeout:
            self._dark[address] = time.monotonic() + _DARK_SECONDS
            raise
        except httpx.HTTPError:
            self._dark.pop(address, None)
            raise
        self._dark.pop(address, None)
        return answer


def client(timeout: httpx.Timeout) -> httpx.AsyncClient:
    """Make a client of gates, to be closed; messages to one are rare, so no connection is kept."""
    return httpx.AsyncClient(
        timeout=timeout,
        trust_env=False,
        verify=no_tls(),
        limits=httpx.Limits(max_keepalive_connections=0),
    )


def no_tls() -> ssl.SSLContext:
    """Return a context that trusts nobody: gates speak HTTP, and to load CAs takes 30 ms."""
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def host(address: str) -> str:
    """Write an IP address as the host of a URL."""
    return f"[{address}]" if ":" in address else address
