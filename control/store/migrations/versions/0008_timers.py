"""When the timers of a sandbox have to be looked at."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column with its index, and what it would have been."""
    op.add_column("sandboxes", sa.Column("due_at", sa.BigInteger(), nullable=True))
    op.execute("UPDATE sandboxes SET due_at = last_activity_at WHERE state = 'started'")
    op.execute(
        "UPDATE sandboxes SET due_at = changed_at + auto_delete_minutes * 60000"
        " WHERE state = 'stopped' AND auto_delete_minutes >= 0"
    )
    op.create_index(op.f("ix_sandboxes_due_at"), "sandboxes", ["due_at"], unique=False)
