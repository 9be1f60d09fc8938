"""The gate: the one port of a sandbox, and the only part of a runner that reads strangers' bytes.

It authorises each request by itself, checks that it is meant for its sandbox, and passes it to the
agent or to a port inside. It runs as a process of its own that gives up everything but its
sockets before it reads a byte: no files, no new sockets, no programs, no other user's rights.
"""

from __future__ import annotations

import resource
import signal
import sys

_FILES = 4 * 4096
"""File descriptors: two for each visitor, as many again in reserve."""


def main(
    listener_fd: int, channel_fd: int, *, sandbox_id: str, domain: str, uid: int, empty_fd: int
) -> None:
    """Serve until the holder is gone.

    Args:
        listener_fd: a listening TCP socket.
        channel_fd: the packet socket to the holder.
        sandbox_id: the sandbox that is ours.
        domain: preview domains, separated by commas.
        uid: the user to become; also the group.
        empty_fd: an empty directory, which becomes the root.
    """
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_NOFILE, (_FILES, _FILES))
    # Without this asyncio loads OpenSSL, which the gate does not need: 4 MB and 15 ms.
    sys.modules.setdefault("ssl", None)  # type: ignore[arg-type]
    import socket

    from jobs.runner import gate_confine, gate_service

    gate_service.serve(
        socket.socket(fileno=listener_fd),
        socket.socket(fileno=channel_fd),
        lambda: gate_confine.confine(uid, empty_fd),
        sandbox_id=sandbox_id,
        domain=domain,
    )
