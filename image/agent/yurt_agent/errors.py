"""The errors that handlers raise, and the envelope in which a client gets them.

Knows nothing of connections or routes: an error carries a status, a code and a message.
"""

from __future__ import annotations

import errno
import json
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

SOURCE = "DAYTONA_DAEMON"
"""What clients read as the origin of an error; their exception classes are keyed by it."""


class ToolboxError(Exception):
    """Anything a handler tells the client instead of a result."""

    status = 500
    code = "INTERNAL_SERVER_ERROR"

    def __init__(
        self,
        message: str,
        *,
        code: str = "",
        headers: Mapping[str, str] | None = None,
        extra: Mapping[str, object] | None = None,
    ) -> None:
        """Say what went wrong and what to do.

        Args:
            message: goes to the client as it stands.
            code: overrides the class's code.
            headers: sent with the answer, e.g. ``Retry-After``.
            extra: further members of the envelope.
        """
        super().__init__(message)
        self.message = message
        self.code = code or type(self).code
        self.headers = dict(headers or {})
        self.extra = dict(extra or {})


class BadRequestError(ToolboxError):
    """The request asks for something that makes no sense."""

    status = 400
    code = "BAD_REQUEST"


class InvalidBodyError(BadRequestError):
    """The body is not what this route takes."""

    code = "INVALID_REQUEST_BODY"


class InvalidPathError(BadRequestError):
    """No file can have this name, or it is of the wrong kind."""

    code = "INVALID_FILE_PATH"


class UnauthorizedError(ToolboxError):
    """Another server wants to know who asks."""

    status = 401
    code = "UNAUTHORIZED"


class ForbiddenError(ToolboxError):
    """The caller may not do this."""

    status = 403
    code = "FORBIDDEN"


class AccessDeniedError(ForbiddenError):
    """The sandbox's user may not touch this file."""

    code = "FILE_ACCESS_DENIED"


class NotFoundError(ToolboxError):
    """There is no such thing."""

    status = 404
    code = "NOT_FOUND"


class MissingFileError(NotFoundError):
    """There is no such file."""

    code = "FILE_NOT_FOUND"


class RequestTimeoutError(ToolboxError):
    """It took longer than the caller allowed."""

    status = 408
    code = "REQUEST_TIMEOUT"


class ConflictError(ToolboxError):
    """It is there already, or changed meanwhile."""

    status = 409
    code = "CONFLICT"


class GoneError(ToolboxError):
    """It was there and has ended."""

    status = 410
    code = "GONE"


class BodyTooLargeError(ToolboxError):
    """The body is longer than this route takes."""

    status = 413
    code = "BODY_TOO_LARGE"


class RangeError(ToolboxError):
    """The range lies outside the file."""

    status = 416
    code = "RANGE_NOT_SATISFIABLE"


class UnprocessableError(ToolboxError):
    """It was understood and refused."""

    status = 422
    code = "UNPROCESSABLE_ENTITY"


class UpgradeRequiredError(ToolboxError):
    """This route speaks WebSocket only."""

    status = 426
    code = "UPGRADE_REQUIRED"


class HeadTooLargeError(ToolboxError):
    """The request line and headers are longer than we take."""

    status = 431
    code = "HEADERS_TOO_LARGE"


class FileReadError(ToolboxError):
    """The file could not be read or written."""

    code = "FILE_READ_FAILED"


class BadGatewayError(ToolboxError):
    """Another server could not be reached, or broke off."""

    status = 502
    code = "BAD_GATEWAY"


class UnavailableError(ToolboxError):
    """Not now; the same request may succeed later."""

    status = 503
    code = "SERVICE_UNAVAILABLE"


class DiskFullError(ToolboxError):
    """The disk, or the user's share of it, is full."""

    status = 507
    code = "INSUFFICIENT_STORAGE"


_KINDS: dict[int, tuple[type[ToolboxError], str]] = {
    errno.ENOENT: (MissingFileError, "file not found: {}: no such file or directory"),
    errno.EACCES: (AccessDeniedError, "permission denied: {}"),
    errno.EPERM: (AccessDeniedError, "permission denied: {}: operation not permitted"),
    errno.EROFS: (AccessDeniedError, "permission denied: {}: read-only file system"),
    errno.ENOTDIR: (InvalidPathError, "invalid path: {}: not a directory"),
    errno.EISDIR: (InvalidPathError, "invalid path: {}: is a directory"),
    errno.ENAMETOOLONG: (InvalidPathError, "invalid path: {}: name too long"),
    errno.ELOOP: (InvalidPathError, "invalid path: {}: too many symbolic links"),
    errno.EINVAL: (InvalidPathError, "invalid path: {}"),
    errno.ENXIO: (InvalidPathError, "invalid path: {}: not a regular file"),
    errno.EEXIST: (ConflictError, "conflict: {}: exists already"),
    errno.ENOTEMPTY: (ConflictError, "conflict: {}: directory not empty"),
    errno.ETXTBSY: (ConflictError, "conflict: {}: the program is running"),
    errno.EBUSY: (ConflictError, "conflict: {}: in use"),
    errno.ENOSPC: (DiskFullError, "no space left on the sandbox's disk: {}: nothing was changed"),
    errno.EDQUOT: (DiskFullError, "disk quota exceeded: {}: nothing was changed"),
    errno.EFBIG: (DiskFullError, "file too large for the sandbox's disk: {}: nothing was changed"),
}


def from_os_error(error: OSError, path: str) -> ToolboxError:
    """Translate what the kernel said about ``path``, as the client wrote it.

    The wording matters: clients that have nothing but the text look for "not found" and
    "permission denied", and retry on words such as "timeout" or "starting".
    """
    kind, text = _KINDS.get(error.errno or 0, (FileReadError, ""))
    if not text:
        return FileReadError(f"cannot access {path}: {error.strerror or error}")
    return kind(text.format(path))


def timestamp(seconds: float) -> str:
    """Render a time as RFC 3339 in UTC with milliseconds."""
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    return f"{whole}.{int(seconds * 1000) % 1000:03d}Z"


def envelope(error: ToolboxError, *, method: str, path: str) -> bytes:
    """Write the JSON body of an error.

    The shape is that of the newest daemon; older clients read ``message`` only.
    """
    body = {
        "statusCode": error.status,
        "message": error.message,
        "timestamp": timestamp(time.time()),
        "path": path,
        "method": method,
        "code": error.code,
        "source": SOURCE,
        **error.extra,
    }
    return json.dumps(body).encode()
