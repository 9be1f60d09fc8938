"""Errors on the wire: one envelope for all of them."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from http import HTTPStatus
from typing import TYPE_CHECKING

from starlette.exceptions import HTTPException

from control.api.wire import answer, iso
from control.errors import InvalidError, NotFoundError, UnauthenticatedError, YurtError

if TYPE_CHECKING:
    from fastapi import FastAPI, Request
    from starlette.responses import Response

logger = logging.getLogger(__name__)

_RETRY_AFTER_SECONDS = "1"
_OURS = "Something went wrong here, not in your request; the server's log says what"


def envelope(error: YurtError, path: str) -> Response:
    """Write an error as every SDK reads it."""
    status = error.status
    is_ours = status == HTTPStatus.INTERNAL_SERVER_ERROR
    response = answer(
        {
            "path": path,
            "timestamp": iso(datetime.now(UTC)),
            "statusCode": status,
            "error": HTTPStatus(status).phrase,
            "message": _OURS if is_ours else str(error),
            "code": error.code,
            "source": "DAYTONA_API",
        },
        status,
    )
    if isinstance(error, UnauthenticatedError):
        response.headers["WWW-Authenticate"] = "Bearer"
    if error.retryable:
        response.headers["Retry-After"] = _RETRY_AFTER_SECONDS
    return response


def no_route(method: str, path: str) -> NotFoundError:
    """Say that there is no such call, in the wire's words."""
    return NotFoundError(f"Cannot {method} {path}")


def install(app: FastAPI) -> None:
    """Have every error of an application answered by the envelope."""

    # Asynchronous, all of them: a plain function would be run by a thread.
    async def handle(request: Request, error: Exception) -> Response:  # noqa: RUF029
        return envelope(_translated(request, error), request.url.path)

    for kind in (YurtError, HTTPException, Exception):
        app.add_exception_handler(kind, handle)


def _translated(request: Request, error: Exception) -> YurtError:
    """Turn an exception into one of ours; those of the framework are about routes and syntax."""
    if isinstance(error, YurtError):
        if error.status == HTTPStatus.INTERNAL_SERVER_ERROR:
            logger.error("a request failed", exc_info=error)
        return error
    if not isinstance(error, HTTPException):
        return YurtError()
    if error.status_code in {HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED}:
        return no_route(request.method, request.url.path)
    return InvalidError("The request cannot be read")
