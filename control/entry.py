"""Who may enter a sandbox that does not run: what its gate would say, by the gate's own rules."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from control.asgi import raw_path
from control.errors import InvalidError, UnauthenticatedError
from jobs.runner.gate_auth import Admission, Policy
from jobs.runner.gate_body import FramingError
from jobs.runner.gate_http import RefusedError, RequestHead
from jobs.runner.gate_route import Router

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from datetime import datetime

    from control.asgi import Scope
    from control.model import Sandbox


def read_head(scope: Scope) -> RequestHead:
    """Read a request as a gate does.

    Raises:
        InvalidError: a gate would refuse it as ambiguous.
    """
    query: bytes = scope["query_string"]
    target = raw_path(scope) + (b"?" + query if query else b"")
    lines = [b"%b %b HTTP/1.1" % (scope.get("method", "GET").encode(), target)]
    lines += [b"%b: %b" % field for field in scope["headers"]]
    try:
        return RequestHead(b"\r\n".join([*lines, b"", b""]))
    except FramingError as error:
        raise InvalidError(f"malformed or ambiguous request: {error}") from error


class Door:
    """Decides about requests.

    Args:
        assignment: writes what the gate of a sandbox is told.
        domains: the preview domains.
        now: tells the time.
    """

    def __init__(
        self,
        assignment: Callable[[Sandbox], Awaitable[Mapping[str, Any]]],
        domains: tuple[str, ...],
        now: Callable[[], datetime],
    ) -> None:
        self._assignment, self._domains, self._now = assignment, ",".join(domains), now

    async def admit(self, head: RequestHead, sandbox: Sandbox) -> Admission:
        """Decide about a request for a sandbox.

        Raises:
            UnauthenticatedError: it may not enter.
        """
        assignment = await self._assignment(sandbox)
        try:
            route = Router(sandbox.id, self._domains).find(head.host, head.target)
            return Policy(sandbox.id, assignment).admit(head, route, self._now().timestamp())
        except RefusedError as refused:
            raise UnauthenticatedError(refused.message) from refused
