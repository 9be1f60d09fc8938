"""What runners report, and what they are answered."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from control import lifecycle
from control.errors import InvalidError
from control.naming import SandboxId

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime

    from control.model import Sandbox
    from control.records import Records
    from jobs.runner.message import Head

logger = logging.getLogger(__name__)


class Reports:
    """Takes reports whose seal was checked already."""

    def __init__(
        self,
        records: Records,
        assignment: Callable[[Sandbox], Mapping[str, Any]],
        wake: Callable[[SandboxId], None],
        now: Callable[[], datetime],
    ) -> None:
        self._records, self._assignment, self._wake, self._now = records, assignment, wake, now

    async def take(self, head: Head, report: Mapping[str, Any]) -> Mapping[str, Any]:
        """Note a report and return the answer; the first one is answered by the assignment.

        Raises:
            NotFoundError: there is no such sandbox: the runner must end.
            ConflictError: this start of it is over: the runner must end.
            ForbiddenError: the report was seen before.
            InvalidError: it is none.
        """
        sandbox_id, now = SandboxId(head.sandbox), self._now()
        match report:
            case {"phase": "assign"}:
                changed = await self._change(sandbox_id, lambda s: lifecycle.claim(s, head, now))
                return self._assignment(changed)
            case {"phase": "ready"}:
                await self._change(sandbox_id, lambda s: lifecycle.ready(s, head, now))
            case {"phase": "notice", "message": str(text)}:
                await self._change(sandbox_id, lambda s: lifecycle.notice(s, head, text, now))
            case {"phase": "exit"}:
                # Nobody is woken: it has ended when the scheduler says so, in a moment.
                await self._change(sandbox_id, lambda s: lifecycle.exiting(s, head))
                return {}
            case _:
                raise InvalidError("not a report")
        self._wake(sandbox_id)
        logger.info("reported", extra={"sandbox_id": sandbox_id, "phase": report["phase"]})
        return {}

    async def _change(self, sandbox_id: SandboxId, mutate: Callable[[Sandbox], Sandbox]) -> Sandbox:
        return await self._records.change(sandbox_id, mutate)
