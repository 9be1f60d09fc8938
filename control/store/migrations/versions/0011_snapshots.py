"""Snapshots of images of other registries, and of sandboxes."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add where a snapshot comes from."""
    for column in (
        sa.Column("image_name", sa.Text(), nullable=False, server_default=""),
        sa.Column("source_sandbox_id", sa.String(length=26), nullable=True),
    ):
        op.add_column("snapshots", column)
