"""What runners report, and what they are answered."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from control import lifecycle
from control.errors import InvalidError
from control.naming import SandboxId
from jobs.runner.message import FOR_THE_START

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from datetime import datetime

    from control.archives import Archives
    from control.model import Sandbox
    from control.records import Records
    from jobs.runner.message import Head
    from jobs.scheduler import Allocation

logger = logging.getLogger(__name__)


class Reports:
    """Takes reports whose seal was checked already."""

    def __init__(
        self,
        records: Records,
        archives: Archives,
        placed: Callable[[SandboxId], Awaitable[Allocation | None]],
        assignment: Callable[[Sandbox], Awaitable[Mapping[str, Any]]],
        wake: Callable[[SandboxId], None],
        now: Callable[[], datetime],
    ) -> None:
        """Prepare.

        Args:
            records: what is changed.
            archives: tells where an archive goes.
            placed: asks the scheduler where a sandbox is.
            assignment: builds a sandbox's assignment with the keys of now.
            wake: has a sandbox looked at.
            now: tells the time.
        """
        self._archives = archives
        self._records, self._placed, self._assignment = records, placed, assignment
        self._wake, self._now = wake, now

    async def take(self, head: Head, report: Mapping[str, Any]) -> Mapping[str, Any]:
        """Note a report and return the answer; the first one is answered by the assignment.

        Raises:
            NotFoundError: there is no such sandbox: the runner must end.
            ConflictError: this start of it is over: the runner must end.
            ForbiddenError: the report was seen before, or is not from where the sandbox is.
            UnavailableError: nobody can tell now where it is; the runner asks again.
            InvalidError: it is none.
        """
        sandbox_id, now = SandboxId(head.sandbox), self._now()
        match report:
            case {"phase": "assign"}:
                where = await self._placed(sandbox_id)
                changed = await self._change(
                    sandbox_id, lambda s: lifecycle.claim(s, head, where, now)
                )
                self._wake(sandbox_id)  # its route can be made
                return await self._assignment(changed)
            case {"phase": "archive"}:
                return await self._to_pack(sandbox_id, head)
            case {"phase": "waiting", "message": str(text)}:
                where = await self._placed(sandbox_id)
                await self._change(
                    sandbox_id, lambda s: lifecycle.waiting(s, head, where, text, now)
                )
                self._wake(sandbox_id)
                logger.info("a start waits", extra={"sandbox_id": sandbox_id, "detail": text[:500]})
                return {}
            case {"phase": "renew", "version": int(version)}:
                return await self._renewed(sandbox_id, head, version)
            case {"phase": "ready"}:
                await self._change(sandbox_id, lambda s: lifecycle.ready(s, head, now))
            case {"phase": "notice", "message": str(text)}:
                await self._change(sandbox_id, lambda s: lifecycle.notice(s, head, text, now))
            case {"phase": "exit"}:
                # Nobody is woken: it has ended when the scheduler says so, in a moment.
                reason, reached = (str(report.get(name, "")) for name in ("reason", "reached"))
                await self._change(
                    sandbox_id, lambda s: lifecycle.exiting(s, head, reason, reached)
                )
                return {}
            case _:
                raise InvalidError("not a report")
        self._wake(sandbox_id)
        told = {name: report[name] for name in ("phase", "boot_ms") if name in report}
        logger.info("reported", extra={"sandbox_id": sandbox_id, **told})
        return {}

    async def _renewed(self, sandbox_id: SandboxId, head: Head, version: int) -> Mapping[str, Any]:
        """Return a newer assignment, if there is one, to a runner that has ``version``.

        Nothing is written: each runner asks twice a minute. To ask twice gets nobody anything.
        """
        sandbox = await self._records.get(sandbox_id)
        if sandbox is None:
            raise lifecycle.not_found(sandbox_id)
        lifecycle.own(sandbox, head)
        if version >= sandbox.assignment_version:
            return {}
        whole = await self._assignment(sandbox)
        return {name: whole[name] for name in whole.keys() - FOR_THE_START}

    async def _to_pack(self, sandbox_id: SandboxId, head: Head) -> Mapping[str, Any]:
        sandbox = await self._records.get(sandbox_id)
        if sandbox is None:
            raise lifecycle.not_found(sandbox_id)
        lifecycle.require_packing(sandbox, head)
        return self._archives.access(sandbox)

    async def _change(self, sandbox_id: SandboxId, mutate: Callable[[Sandbox], Sandbox]) -> Sandbox:
        return await self._records.change(sandbox_id, mutate)
