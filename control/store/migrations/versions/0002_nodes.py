"""Nodes: where disks are, how runs ended, and who leads."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


_FUNCTION = """
CREATE FUNCTION yurt_sandbox_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  PERFORM pg_notify('yurt_sandboxes', COALESCE(NEW.id, OLD.id));
  RETURN NULL;
END $$
"""
_TRIGGER = """
CREATE TRIGGER yurt_sandbox_changed AFTER INSERT OR UPDATE OR DELETE ON sandboxes
FOR EACH ROW EXECUTE FUNCTION yurt_sandbox_changed()
"""


def upgrade() -> None:
    """Add the columns to sandboxes; make nodes and leases; tell changes where that can be done."""
    for column in (
        sa.Column("node", sa.String(length=255), nullable=False, server_default=""),
        sa.Column("exit_reason", sa.Text(), nullable=True),
        sa.Column("exit_reached", sa.String(length=64), nullable=False, server_default=""),
    ):
        op.add_column("sandboxes", column)
    op.execute("UPDATE sandboxes SET node = 'local'")  # the only one that there was
    op.create_table(
        "nodes",
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("sealed", sa.LargeBinary(), nullable=False),
        sa.Column("joined_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_nodes")),
    )
    op.create_table(
        "leases",
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("holder", sa.String(length=255), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_leases")),
    )
    if op.get_bind().dialect.name == "postgresql":
        op.execute(_FUNCTION)
        op.execute(_TRIGGER)
