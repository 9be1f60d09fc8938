"""Every error that the service raises on purpose: one root, and what each means to a caller.

Knows nothing of HTTP beyond the number and the code that the wire shows.
"""

from __future__ import annotations

from typing import ClassVar


class YurtError(Exception):
    """Anything that this service raises on purpose; its text is for the caller to read."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "INTERNAL_SERVER_ERROR"
    retryable: ClassVar[bool] = False

    @property
    def message(self) -> str:
        """The text for the caller."""
        return str(self)


class InvalidError(YurtError):
    """A request that cannot be carried out as it is written."""

    status = 400
    code = "BAD_REQUEST"


class UnauthenticatedError(YurtError):
    """No valid credential."""

    status = 401
    code = "UNAUTHORIZED"


class ForbiddenError(YurtError):
    """A valid credential that does not allow this."""

    status = 403
    code = "FORBIDDEN"


class NotFoundError(YurtError):
    """There is no such thing, or none that the caller may know of."""

    status = 404
    code = "NOT_FOUND"


class ConflictError(YurtError):
    """Somebody else's change came first, or the name is taken."""

    status = 409
    code = "CONFLICT"


class TooLargeError(YurtError):
    """The request is larger than this service takes."""

    status = 413
    code = "PAYLOAD_TOO_LARGE"


class MisdirectedError(YurtError):
    """The request names a host that this server does not answer for."""

    status = 421
    code = "MISDIRECTED_REQUEST"


class UnsupportedError(YurtError):
    """A request that is understood, for something that this version does not do."""

    status = 422
    code = "UNPROCESSABLE_ENTITY"


class NotServedError(YurtError):
    """A call of the wire that is known, with something in it that no version does yet."""

    status = 501
    code = "NOT_IMPLEMENTED"


class UnavailableError(YurtError):
    """Something that we depend on cannot be asked now."""

    status = 503
    code = "SERVICE_UNAVAILABLE"
    retryable = True


class WorkError(UnavailableError):
    """A piece of work on a node was begun and failed; ``reason`` is the verb's own text."""

    def __init__(self, verb: str, reason: str, node: str = "") -> None:
        where = f" on {node}" if node else ""
        super().__init__(f"{verb}{where} failed: {reason}")
        self.reason = reason


class NoCapacityError(UnavailableError):
    """No node has room."""

    code = "NO_CAPACITY"


class TimedOutError(YurtError):
    """Something did not happen in time."""

    status = 504
    code = "GATEWAY_TIMEOUT"
    retryable = True
