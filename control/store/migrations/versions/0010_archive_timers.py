"""When stopped sandboxes are archived counts among the times to look at them."""

from __future__ import annotations

from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

_ENDS = "COALESCE(stopped_at, changed_at) + auto_archive_minutes * 60000"


def upgrade() -> None:
    """Make what is stopped due when it is to be archived, unless it is so before."""
    op.execute(
        f"UPDATE sandboxes SET due_at = {_ENDS}"
        f" WHERE state = 'stopped' AND (due_at IS NULL OR due_at > {_ENDS})"
    )
