"""Images that are built, or made of sandboxes."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add what is built, what it says meanwhile, and who waits for it."""
    for table in ("sandboxes", "snapshots"):
        op.add_column(table, sa.Column("build", sa.Text(), nullable=True))
        hidden: sa.Column[bool] = sa.Column(
            "hidden", sa.Boolean(), nullable=False, server_default=sa.false()
        )
        op.add_column(table, hidden)
    op.add_column(
        "sandboxes",
        sa.Column("snapshotting", sa.String(length=36), nullable=False, server_default=""),
    )
    op.create_index(op.f("ix_sandboxes_snapshotting"), "sandboxes", ["snapshotting"], unique=False)
    op.create_table(
        "build_logs",
        sa.Column("snapshot_id", sa.String(length=36), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["snapshot_id"],
            ["snapshots.id"],
            name=op.f("fk_build_logs_snapshot_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("snapshot_id", "number", name=op.f("pk_build_logs")),
    )
