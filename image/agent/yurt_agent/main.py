"""The agent's life: listen, take the assignment, become the sandbox's user, serve, stop.

The runner speaks to it over three pipes. Standard input brings one JSON object a line; standard
output takes single bytes: ``L`` listening, ``R`` ready, ``U`` the image has no such user; standard
error is the log.

Until ``R`` somebody waits for the sandbox to start, so what serves, three quarters of all that is
loaded, is loaded after it: the first request waits in the listener, and mostly comes later still.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import _socket
import json
import os
import sys

from yurt_agent import later, rights, user

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import NoReturn

PORT = 2280
BACKLOG = 1024

ORDERS, EVENTS = 0, 1
READ_BYTES = 1 << 16


def _listen(port: int) -> int:
    listener = _socket.socket(_socket.AF_INET, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
    listener.setsockopt(_socket.SOL_SOCKET, _socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    listener.listen(BACKLOG)
    return listener.detach()


def _take_assignment() -> tuple[Mapping[str, object], bytes]:
    """Wait for the runner's first order; return it, and what was read beyond.

    Ends the process if it is to stop.
    """
    text = b""
    while b"\n" not in text:
        data = os.read(ORDERS, READ_BYTES)
        if not data:
            os._exit(0)
        text += data
    line, _, rest = text.partition(b"\n")
    order: Mapping[str, object] = json.loads(line)
    if order["op"] != "assign":
        os._exit(0)
    return order, rest


def _become(order: Mapping[str, object]) -> user.Identity:
    """Give up all rights but those of the assignment's user."""
    wanted = user.Accounts.load().user(str(order["user"]))
    # Nothing of our own environment: it is that of the bundle's interpreter.
    built = user.environment(wanted, _strings(order["env"]))
    directory = user.working_directory(str(order["workdir"]), wanted.home)
    rights.keep()
    user.set_limits()
    user.become(wanted)
    return user.Identity(wanted, built, directory)


def _strings(value: object) -> dict[str, str]:
    assert isinstance(value, dict)
    return {str(name): str(item) for name, item in value.items()}


def _wait_for_the_end() -> NoReturn:
    """Obey the next order, which can only be to stop."""
    os.read(ORDERS, READ_BYTES)
    os._exit(0)


def main() -> NoReturn:
    """Run the agent; the only argument is the port, for tests."""
    for number in (_signal.SIGHUP, _signal.SIGINT, _signal.SIGQUIT):
        _signal.signal(number, _signal.SIG_DFL)  # ignored ones would stay so in all that we start
    _signal.signal(_signal.SIGTERM, lambda *_: os._exit(0))
    listener = _listen(int(sys.argv[1]) if len(sys.argv) > 1 else PORT)
    os.write(EVENTS, b"L")
    order, more = _take_assignment()
    try:
        identity = _become(order)
    except user.UnknownUserError as error:
        sys.stderr.write(f"{error}\n")
        sys.stderr.flush()
        os.write(EVENTS, b"U")
        _wait_for_the_end()
    os.write(EVENTS, b"R")

    later.defer(later.FOR_DEBUGGING)
    from yurt_agent import service

    service.run(listener, order, identity, more)
