"""The audit log: each change by the API leaves a line that says who, what, and how it ended."""

from __future__ import annotations

import logging
from datetime import timedelta
from http import HTTPMethod
from typing import TYPE_CHECKING

from control.errors import UnavailableError
from control.model import AuditLine
from control.naming import new_sandbox_id

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from control.model import ApiKey
    from control.store import TrailStore

logger = logging.getLogger(__name__)

_TEXT = 255
_WORD = 64
# Clients say so all the time, and it changes nothing.
_NO_DEEDS = frozenset({"last-activity"})


class Trail:
    """Writes lines; reading goes to the store."""

    def __init__(self, store: TrailStore, days: int, now: Callable[[], datetime]) -> None:
        self._store, self._now = store, now
        self._kept = timedelta(days=days)

    async def note(
        self, key: ApiKey, method: str, path: str, status: int, *, made: str, source: str
    ) -> None:
        """Note a call that was answered.

        Without the database the log of the process has to do: the call is done already.

        Args:
            key: whose it was.
            method: as asked.
            path: as asked, from ``/api`` on.
            status: of the answer.
            made: the id of what it made, empty if it made nothing.
            source: what client it was, by its own word.
        """
        action, kind, target = deed(method, path)
        if action in _NO_DEEDS:
            return
        line = AuditLine(
            id=new_sandbox_id(),
            organization_id=key.organization_id,
            created_at=self._now(),
            actor=key.name,
            actor_prefix=key.prefix,
            action=action[:_WORD],
            target_type=kind[:_WORD],
            target_id=(target or made)[:_TEXT],
            status=status,
            source=source[:_TEXT],
        )
        try:
            await self._store.add(line)
        except UnavailableError as error:
            logger.warning("the audit log cannot be written", exc_info=error)

    async def forget(self) -> None:
        """Remove lines that are too old."""
        await self._store.forget(self._now() - self._kept)


def deed(method: str, path: str) -> tuple[str, str, str]:
    """Read a call as an action, the kind of its target, and the target's id or name.

    The last word of a path is the action; ``/sandbox/x/public/true`` is ``public`` of ``x``.
    """
    kind, *rest = path.removeprefix("/api/").split("/")
    target = rest[0] if rest else ""
    if len(rest) > 1:
        return rest[1] if method == HTTPMethod.POST else f"{method.lower()} {rest[1]}", kind, target
    named = {"POST": "create", "DELETE": "delete", "PUT": "update", "PATCH": "update"}
    return named.get(method, method.lower()), kind, target
