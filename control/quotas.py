"""How much an organisation may use, and whether something more fits. Pure.

Counted is what sandboxes may use by their limits. What raises that is refused where it does not
fit: a create, a start, a resize; a deletion never is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from control.errors import InvalidError
from control.model import DISKLESS_STATES, RESTING_STATES, State, Usage

if TYPE_CHECKING:
    from control.model import Organization, Sandbox


def demand(sandbox: Sandbox) -> Usage:
    """Return what a sandbox counts for."""
    runs = sandbox.state not in RESTING_STATES
    resources = sandbox.resources
    return Usage(
        sandboxes=int(sandbox.state is not State.DESTROYED),
        cpu=resources.cpu * runs,
        memory_gib=resources.memory_gib * runs,
        disk_gib=resources.disk_gib * (sandbox.state not in DISKLESS_STATES),
    )


def rises(old: Sandbox, new: Sandbox) -> bool:
    """Tell whether a change of a sandbox makes it count for more of anything."""
    before, after = demand(old), demand(new)
    return any(
        more > known
        for known, more in (
            (before.cpu, after.cpu),
            (before.memory_gib, after.memory_gib),
            (before.disk_gib, after.disk_gib),
        )
    )


def limits(organization: Organization) -> bool:
    """Tell whether an organisation has any limit."""
    most = organization.max_sandboxes, organization.max_cpu, organization.max_memory_gib
    return any(limit is not None for limit in (*most, organization.max_disk_gib))


def require_room(organization: Organization, used: Usage, more: Usage) -> None:
    """Require that an organisation may use ``more`` besides what is ``used``.

    Raises:
        InvalidError: it may not; the text names the limit and the use.
    """
    for what, unit, most, there, wanted in (
        ("Sandbox count", "", organization.max_sandboxes, used.sandboxes, more.sandboxes),
        ("CPU", "", organization.max_cpu, used.cpu, more.cpu),
        ("Memory", " GiB", organization.max_memory_gib, used.memory_gib, more.memory_gib),
        ("Disk", " GiB", organization.max_disk_gib, used.disk_gib, more.disk_gib),
    ):
        if most is not None and wanted > 0 and there + wanted > most:
            raise InvalidError(
                f"Total {what} limit exceeded. Maximum allowed: {most}{unit}. "
                f"In use: {there}{unit}, asked for: {wanted}{unit}."
            )
