"""Who stopped a sandbox, when, and when it is to be destroyed in any case."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns; of older stops, those with a reason were not asked for."""
    for column in (
        sa.Column("ttl_minutes", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("stopped_by", sa.String(length=16), nullable=True),
        sa.Column("stopped_at", sa.BigInteger(), nullable=True),
        sa.Column("destroy_at", sa.BigInteger(), nullable=True),
    ):
        op.add_column("sandboxes", column)
    op.execute("UPDATE sandboxes SET stopped_by = 'api' WHERE state IN ('stopped', 'stopping')")
    op.execute("UPDATE sandboxes SET stopped_at = changed_at WHERE state = 'stopped'")
    op.execute(
        "UPDATE sandboxes SET stopped_by = 'crash'"
        " WHERE state = 'stopped' AND error_reason IS NOT NULL"
    )
