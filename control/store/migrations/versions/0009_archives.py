"""Archives: where a sandbox's files are while they are on no node."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column; nothing is archived yet."""
    op.add_column("sandboxes", sa.Column("archive", sa.Text(), nullable=True))
