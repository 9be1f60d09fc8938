"""Which generation of client asks: the wire differs in a few places by the SDK's version."""

from __future__ import annotations

import re

TYPE_CHECKING = False
if TYPE_CHECKING:
    from yurt_agent.http import Request

_VERSION = re.compile(r"v?(\d+)\.(\d+)\.(\d+)")
_SUBPROTOCOL = "X-Daytona-SDK-Version~"
NEWEST = (9999, 0, 0)


def client_version(request: Request) -> tuple[int, int, int] | None:
    """Return the SDK's version, None if it names none; a development build counts as newest.

    Browsers cannot set headers on WebSockets and offer the version as a subprotocol.
    """
    text = request.headers.get("x-daytona-sdk-version", "")
    for offered in request.headers.get("sec-websocket-protocol", "").split(","):
        if offered.strip().startswith(_SUBPROTOCOL):
            text = text or offered.strip().removeprefix(_SUBPROTOCOL)
    found = _VERSION.match(text)
    if found is None:
        return None
    version = (int(found[1]), int(found[2]), int(found[3]))
    return NEWEST if version == (0, 0, 0) else version


def is_older(request: Request, major: int, minor: int) -> bool:
    """Tell whether the client names a version below ``major.minor``."""
    version = client_version(request)
    return version is not None and version < (major, minor, 0)


def decodes_names_twice(request: Request) -> bool:
    """Tell whether the client loses letters beyond ASCII in the file names of a multipart answer.

    Python SDKs of these versions decode the header, have the parser encode it as Latin-1, and
    decode that as UTF-8. Newer ones read ``filename*``, and so did the parser of their time.
    """
    version = client_version(request)
    speaks_python = "python" in request.headers.get("x-daytona-source", "")
    return speaks_python and version is not None and (0, 150, 0) <= version < (0, 197, 0)
