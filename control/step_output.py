"""Hear what the program says that a sandbox of ours runs, and how it ended: by its gate."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import httpx

from control.errors import UnavailableError
from control.gates import client, host

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from control.model import Sandbox
    from jobs.scheduler import Allocation

_SESSION = "/process/session/entrypoint"
# The generation of clients that is answered with plain text.
_VERSION = {"X-Daytona-SDK-Version": "0.21.0"}
_TIMEOUT = httpx.Timeout(10.0, connect=2.0, read=None)
_OK = 200


class StepOutput:
    """The entrypoints of sandboxes, as the toolbox tells of them."""

    def __init__(self, domain: str) -> None:
        """Prepare; ``domain`` is one that the gates know."""
        self._domain = domain
        self._client = client(_TIMEOUT)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()

    async def follow(self, sandbox: Sandbox, allocation: Allocation) -> AsyncIterator[bytes]:
        """Yield what it has said from its beginning, and what it says until its end.

        Raises:
            UnavailableError: the sandbox does not answer.
        """
        request = self._request(sandbox, allocation, f"{_SESSION}/logs?follow=true")
        try:
            answer = await self._client.send(request, stream=True)
            try:
                _require_ok(answer)
                async for piece in answer.aiter_bytes():
                    yield piece
            finally:
                await answer.aclose()
        except httpx.HTTPError as error:
            raise UnavailableError(f"sandbox {sandbox.id} does not answer: {error}") from error

    async def exit_code(self, sandbox: Sandbox, allocation: Allocation) -> int | None:
        """Return how it ended; None while it runs.

        Raises:
            UnavailableError: the sandbox does not answer.
        """
        request = self._request(sandbox, allocation, f"{_SESSION}/command/entrypoint_command")
        try:
            answer = await self._client.send(request)
        except httpx.HTTPError as error:
            raise UnavailableError(f"sandbox {sandbox.id} does not answer: {error}") from error
        _require_ok(answer)
        told: dict[str, Any] = answer.json()
        code: int | None = told.get("exitCode")
        return code

    def _request(self, sandbox: Sandbox, allocation: Allocation, target: str) -> httpx.Request:
        return self._client.build_request(
            "GET",
            f"http://{host(allocation.address)}:{allocation.port}{target}",
            headers={
                **_VERSION,
                "Host": f"2280-{sandbox.id}.{self._domain}",
                "X-Daytona-Preview-Token": sandbox.secrets.preview_token,
            },
        )


def _require_ok(answer: httpx.Response) -> None:
    if answer.status_code != _OK:
        raise UnavailableError(f"the sandbox answered {answer.status_code}")
