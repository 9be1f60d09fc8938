"""Volumes, and which sandboxes have them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make volumes and mounts; sandboxes that exist have none."""
    op.add_column("sandboxes", sa.Column("volumes", sa.Text(), nullable=False, server_default="[]"))
    op.create_table(
        "volumes",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("organization_id", sa.String(length=64), nullable=False),
        sa.Column("size_gib", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(length=32), nullable=False),
        sa.Column("error_reason", sa.Text(), nullable=True),
        sa.Column("node", sa.String(length=255), nullable=False),
        sa.Column("is_made", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("updated_at", sa.BigInteger(), nullable=False),
        sa.Column("last_used_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_volumes")),
        sa.UniqueConstraint("organization_id", "name", name=op.f("uq_volumes_organization_id")),
    )
    op.create_index(op.f("ix_volumes_state"), "volumes", ["state"], unique=False)
    op.create_table(
        "mounts",
        sa.Column("sandbox_id", sa.String(length=26), nullable=False),
        sa.Column("volume_id", sa.String(length=36), nullable=False),
        sa.ForeignKeyConstraint(
            ["sandbox_id"], ["sandboxes.id"], name=op.f("fk_mounts_sandbox_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("sandbox_id", "volume_id", name=op.f("pk_mounts")),
    )
    op.create_index(op.f("ix_mounts_volume_id"), "mounts", ["volume_id"], unique=False)
