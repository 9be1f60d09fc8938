"""The tables. Times are milliseconds since 1970, UTC; ``Text`` columns of lists hold JSON."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    false,
)

from control.model import ORGANIZATION

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_name)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)


def _sorted(length: int) -> String:
    """Describe a text that lists are sorted by: byte by byte, whatever the database's language."""
    return String(length).with_variant(String(length, collation="C"), "postgresql")


# In PostgreSQL, a trigger of the migrations tells every change of these rows (changes.py).
sandboxes = Table(
    "sandboxes",
    metadata,
    Column("id", _sorted(26), primary_key=True),
    Column("name", _sorted(255), nullable=False),
    Column("organization_id", String(64), nullable=False),
    Column("snapshot", _sorted(255), nullable=False),
    Column("image_id", String(64), nullable=False),
    Column("user", String(255), nullable=False),
    Column("entrypoint", Text, nullable=False),
    Column("workdir", Text, nullable=False),
    Column("labels", Text, nullable=False),
    Column("public", Boolean, nullable=False),
    Column("private_ports", Text, nullable=False),
    Column("network_block_all", Boolean, nullable=False),
    Column("network_allow", Text, nullable=False),
    Column("volumes", Text, nullable=False, server_default="[]"),
    Column("target", _sorted(64), nullable=False),
    Column("cpu", Integer, nullable=False),
    Column("memory_gib", Integer, nullable=False),
    Column("disk_gib", Integer, nullable=False),
    Column("auto_stop_minutes", Integer, nullable=False),
    Column("auto_archive_minutes", Integer, nullable=False),
    Column("auto_delete_minutes", Integer, nullable=False),
    Column("ttl_minutes", Integer, nullable=False, server_default="0"),
    Column("state", _sorted(32), nullable=False, index=True),
    Column("desired_state", String(32), nullable=False),
    Column("error_reason", Text),
    Column("recoverable", Boolean, nullable=False),
    Column("node", String(255), nullable=False, server_default=""),
    Column("stopped_by", String(16)),
    Column("stopped_at", BigInteger),
    Column("destroy_at", BigInteger),
    Column("due_at", BigInteger, index=True),
    Column("generation", Integer, nullable=False),
    Column("incarnation", String(32)),
    Column("up_sequence", BigInteger, nullable=False),
    Column("down_sequence", BigInteger, nullable=False),
    Column("pushed_version", Integer, nullable=False),
    Column("exit_reason", Text),
    Column("exit_reached", String(64), nullable=False, server_default=""),
    Column("assignment_version", Integer, nullable=False),
    Column("created_at", BigInteger, nullable=False, index=True),
    Column("updated_at", BigInteger, nullable=False),
    Column("changed_at", BigInteger, nullable=False),
    Column("last_activity_at", BigInteger, nullable=False, index=True),
    Column("sealed", LargeBinary, nullable=False),
    Column("archive", Text),
    Column("build", Text),
    Column("snapshotting", String(36), nullable=False, server_default="", index=True),
    Column("hidden", Boolean, nullable=False, server_default=false()),
    UniqueConstraint("organization_id", "name"),
)

# What labels are searched by; the record's own column is what they are read from.
labels = Table(
    "labels",
    metadata,
    Column(
        "sandbox_id", String(26), ForeignKey("sandboxes.id", ondelete="CASCADE"), primary_key=True
    ),
    Column("key", Text, primary_key=True),
    Column("value", Text, nullable=False),
)
Index("ix_labels_key_value", labels.c.key, labels.c.value)

volumes = Table(
    "volumes",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("name", String(255), nullable=False),
    Column("organization_id", String(64), nullable=False),
    Column("size_gib", Integer, nullable=False),
    Column("state", String(32), nullable=False, index=True),
    Column("error_reason", Text),
    Column("node", String(255), nullable=False),
    Column("is_made", Boolean, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("updated_at", BigInteger, nullable=False),
    Column("last_used_at", BigInteger),
    UniqueConstraint("organization_id", "name"),
)

# Who uses a volume; the record's own column is what they are read from.
mounts = Table(
    "mounts",
    metadata,
    Column(
        "sandbox_id", String(26), ForeignKey("sandboxes.id", ondelete="CASCADE"), primary_key=True
    ),
    Column("volume_id", String(36), primary_key=True, index=True),
)

snapshots = Table(
    "snapshots",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("name", String(255), nullable=False),
    Column("organization_id", String(64), nullable=False, server_default=ORGANIZATION),
    Column("general", Boolean, nullable=False, server_default=false()),
    Column("image_id", String(64), nullable=False),
    Column("user", String(255), nullable=False),
    Column("entrypoint", Text, nullable=False),
    Column("private_ports", Text, nullable=False),
    Column("cpu", Integer, nullable=False),
    Column("memory_gib", Integer, nullable=False),
    Column("disk_gib", Integer, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("image_name", Text, nullable=False, server_default=""),
    Column("source_sandbox_id", String(26)),
    Column("build", Text),
    Column("hidden", Boolean, nullable=False, server_default=false()),
    Column("state", String(32), nullable=False),
    Column("error_reason", Text),
    Column("created_at", BigInteger, nullable=False),
    Column("updated_at", BigInteger, nullable=False),
    Column("last_used_at", BigInteger),
    UniqueConstraint("organization_id", "name"),
)

build_logs = Table(
    "build_logs",
    metadata,
    Column(
        "snapshot_id", String(36), ForeignKey("snapshots.id", ondelete="CASCADE"), primary_key=True
    ),
    Column("number", Integer, primary_key=True),
    Column("text", Text, nullable=False),
)

organizations = Table(
    "organizations",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("name", String(255), nullable=False, unique=True),
    Column("created_at", BigInteger, nullable=False),
    Column("max_sandboxes", Integer),
    Column("max_cpu", Integer),
    Column("max_memory_gib", Integer),
    Column("max_disk_gib", Integer),
)

repeats = Table(
    "repeats",
    metadata,
    Column("organization_id", String(64), primary_key=True),
    Column("key", String(255), primary_key=True),
    Column("request", String(64), nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("status", Integer),
    Column("sealed", LargeBinary),
)

audit_log = Table(
    "audit_log",
    metadata,
    Column("id", String(26), primary_key=True),
    Column("organization_id", String(64), nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("actor", String(255), nullable=False),
    Column("actor_prefix", String(16), nullable=False),
    Column("action", String(64), nullable=False),
    Column("target_type", String(64), nullable=False),
    Column("target_id", String(255), nullable=False),
    Column("status", Integer, nullable=False),
    Column("source", String(255), nullable=False),
)
Index("ix_audit_log_organization_id", audit_log.c.organization_id, audit_log.c.id)

api_keys = Table(
    "api_keys",
    metadata,
    Column("organization_id", String(64), primary_key=True, server_default=ORGANIZATION),
    Column("name", String(255), primary_key=True),
    Column("prefix", String(16), nullable=False, unique=True),
    Column("hash", String(64), nullable=False),
    Column("permissions", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger),
    Column("last_used_at", BigInteger),
)

nodes = Table(
    "nodes",
    metadata,
    Column("name", String(255), primary_key=True),
    Column("sealed", LargeBinary, nullable=False),
    Column("joined_at", BigInteger, nullable=False),
)

leases = Table(
    "leases",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("holder", String(255), nullable=False),
    Column("expires_at", BigInteger, nullable=False),
)
