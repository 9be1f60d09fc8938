"""What a request is for: the agent, a port inside the sandbox, or the gate itself.

A name is ours in exactly one spelling; anything near it is refused before any look at credentials,
so that a request on a stale route never reaches another sandbox than it names.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from jobs.runner.gate_http import RefusedError

AGENT_PORT = 2280
GUARDED_PORTS = frozenset((AGENT_PORT, 22222, 33333))
"""Ports that a public sandbox does not open: agent, web terminal, recordings."""

TOOLBOX, PREVIEW, MESSAGE, HEALTH = "toolbox", "preview", "message", "health"
_PORT_LIMIT = 65535


class Route(NamedTuple):
    """Where a request goes; ``signature`` is the last part of a signed preview's label."""

    kind: str
    target: bytes
    port: int = AGENT_PORT
    prefix: bytes = b""
    signature: bytes = b""


class Router:
    """Reads hosts and paths that name one sandbox.

    Args:
        sandbox_id: the one that is ours.
        domain: preview domains, separated by commas.
    """

    def __init__(self, sandbox_id: str, domain: str) -> None:
        name = re.escape(sandbox_id.encode())
        domains = b"|".join(re.escape(one.strip().lower().encode()) for one in domain.split(","))
        self._preview = re.compile(
            rb"([1-9][0-9]{0,4})-%b(?:-([a-z2-7]{23}))?\.(?:%b)(?::[0-9]{1,5})?" % (name, domains)
        )
        # Any sandbox's id, whatever is wrong with the rest of the host.
        self._names_a_sandbox = re.compile(rb"-[a-z2-7]{26}")
        self._toolbox = re.compile(
            rb"(/toolbox/%b|/api/toolbox/%b/toolbox)([/?].*)?" % (name, name)
        )

    def find(self, host: bytes, target: bytes) -> Route:
        """Return where a request for ``target`` at ``host`` goes.

        Raises:
            RefusedError: 421, it is not for this sandbox.
        """
        host = host.lower()
        preview = self._preview.fullmatch(host)
        if preview:
            port = int(preview[1])
            if port <= _PORT_LIMIT:
                return Route(PREVIEW, target, port, signature=preview[2] or b"")
        elif not self._names_a_sandbox.search(host):
            toolbox = self._toolbox.fullmatch(target)
            if toolbox:
                rest = toolbox[2] or b""
                return Route(TOOLBOX, rest if rest[:1] == b"/" else b"/" + rest, prefix=toolbox[1])
            if target == b"/_yurt/message":
                return Route(MESSAGE, target)
            if target == b"/_yurt/health":
                return Route(HEALTH, target)
        raise RefusedError(421, "this address does not belong to the sandbox that it led to")
