"""Organisations: whose keys and snapshots there are, and names that are unique in each."""

from __future__ import annotations

import time

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_DEFAULT = "default"  # whose everything was until now


def upgrade() -> None:
    """Make organisations with the one there was, and hand it everything."""
    made = op.create_table(
        "organizations",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("max_sandboxes", sa.Integer(), nullable=True),
        sa.Column("max_cpu", sa.Integer(), nullable=True),
        sa.Column("max_memory_gib", sa.Integer(), nullable=True),
        sa.Column("max_disk_gib", sa.Integer(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_organizations")),
        sa.UniqueConstraint("name", name=op.f("uq_organizations_name")),
    )
    now = time.time_ns() // 1_000_000
    op.bulk_insert(made, [{"id": _DEFAULT, "name": _DEFAULT, "created_at": now}])
    _keys()
    _snapshots()
    _sandboxes()


def _column() -> sa.Column[str]:
    return sa.Column(
        "organization_id", sa.String(length=64), nullable=False, server_default=_DEFAULT
    )


def _keys() -> None:
    with op.batch_alter_table("api_keys") as batch:
        batch.add_column(_column())
        batch.drop_constraint(op.f("pk_api_keys"), type_="primary")
        batch.create_primary_key(op.f("pk_api_keys"), ["organization_id", "name"])


def _snapshots() -> None:
    with op.batch_alter_table("snapshots") as batch:
        batch.add_column(_column())
        batch.add_column(
            sa.Column("general", sa.Boolean(), nullable=False, server_default=sa.false())
        )
        batch.drop_constraint(op.f("uq_snapshots_name"), type_="unique")
        batch.create_unique_constraint(
            op.f("uq_snapshots_organization_id"), ["organization_id", "name"]
        )
    op.execute("UPDATE snapshots SET general = true WHERE name = 'default'")


def _sandboxes() -> None:
    # SQLite makes the table anew, and with the old rows their labels go.
    is_made_anew = op.get_bind().dialect.name == "sqlite"
    if is_made_anew:
        op.execute("CREATE TEMPORARY TABLE kept_labels AS SELECT * FROM labels")
    with op.batch_alter_table("sandboxes") as batch:
        batch.drop_constraint(op.f("uq_sandboxes_name"), type_="unique")
        batch.create_unique_constraint(
            op.f("uq_sandboxes_organization_id"), ["organization_id", "name"]
        )
    if is_made_anew:
        op.execute("DELETE FROM labels")
        op.execute("INSERT INTO labels SELECT * FROM kept_labels")
        op.execute("DROP TABLE kept_labels")
