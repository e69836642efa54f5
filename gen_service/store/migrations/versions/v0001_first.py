"""The first tables: jobs, files, keys, tenants, events, outbox, folder."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision: str | None = None

TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
WHOLE = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Make the tables."""
    _make_jobs()
    _make_files()
    _make_keys()
    _make_tenants()
    _make_events()
    _make_outbox()
    op.create_table("folder", sa.Column("id", TEXT, primary_key=True))


def _make_jobs() -> None:
    op.create_table(
        "jobs",
        sa.Column("id", TEXT, primary_key=True),
        sa.Column("tenant", TEXT, nullable=False),
        sa.Column("kind", TEXT, nullable=False),
        sa.Column("state", TEXT, nullable=False),
        sa.Column("reason", TEXT),
        sa.Column("name", TEXT),
        sa.Column("model", TEXT),
        sa.Column("request", sa.JSON(), nullable=False),
        sa.Column("spec", sa.JSON(), nullable=False),
        sa.Column("request_hash", TEXT, nullable=False),
        sa.Column("idempotency_key", TEXT),
        sa.Column("priority", WHOLE, nullable=False),
        sa.Column("weight", sa.Double(), nullable=False),
        sa.Column("max_in_flight", WHOLE),
        sa.Column("metadata", sa.JSON(), nullable=False),
        sa.Column("prompts", WHOLE),
        sa.Column("samples", WHOLE),
        sa.Column("counts", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("expires_at", sa.Double()),
        sa.Column("times", sa.JSON(), nullable=False),
        sa.Column("batch", sa.JSON()),
        sa.Column("webhook", sa.JSON()),
        sa.UniqueConstraint("tenant", "idempotency_key", name="uq_jobs_tenant_idempotency_key"),
    )
    op.create_index("ix_jobs_created_at_id", "jobs", ["created_at", "id"])
    op.create_index("ix_jobs_state", "jobs", ["state"])
    op.create_index("ix_jobs_tenant_created_at_id", "jobs", ["tenant", "created_at", "id"])
    op.create_index("ix_jobs_tenant_name", "jobs", ["tenant", "name"])
    op.create_index("ix_jobs_tenant_request_hash", "jobs", ["tenant", "request_hash"])


def _make_files() -> None:
    op.create_table(
        "files",
        sa.Column("id", TEXT, primary_key=True),
        sa.Column("tenant", TEXT, nullable=False),
        sa.Column("purpose", TEXT, nullable=False),
        sa.Column("filename", TEXT, nullable=False),
        sa.Column("bytes", WHOLE, nullable=False),
        sa.Column("lines", WHOLE),
        sa.Column("created_at", sa.Double(), nullable=False),
    )
    op.create_index("ix_files_tenant_id", "files", ["tenant", "id"])


def _make_keys() -> None:
    op.create_table(
        "keys",
        sa.Column("id", TEXT, primary_key=True),
        sa.Column("tenant", TEXT, nullable=False),
        sa.Column("name", TEXT, nullable=False),
        sa.Column("scopes", sa.JSON(), nullable=False),
        sa.Column("digest", TEXT, nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("revoked_at", sa.Double()),
    )
    op.create_index("ix_keys_tenant", "keys", ["tenant"])


def _make_tenants() -> None:
    op.create_table(
        "tenants",
        sa.Column("name", TEXT, primary_key=True),
        sa.Column("weight", sa.Double(), nullable=False),
        sa.Column("quotas", sa.JSON(), nullable=False),
    )


def _make_events() -> None:
    op.create_table(
        "events",
        sa.Column("id", WHOLE, primary_key=True, autoincrement=True),
        sa.Column("job_id", TEXT, nullable=False),
        sa.Column("type", TEXT, nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.Column("data", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_events_job_id", ondelete="CASCADE"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_events_job_id_id", "events", ["job_id", "id"])


def _make_outbox() -> None:
    op.create_table(
        "outbox",
        sa.Column("id", TEXT, primary_key=True),
        sa.Column("job_id", TEXT, nullable=False),
        sa.Column("url", TEXT, nullable=False),
        sa.Column("secret", TEXT),
        sa.Column("body", sa.JSON(), nullable=False),
        sa.Column("attempts", WHOLE, nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("next_at", sa.Double()),
        sa.Column("delivered_at", sa.Double()),
        sa.Column("error", TEXT),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_outbox_job_id", ondelete="CASCADE"),
    )
    op.create_index("ix_outbox_job_id", "outbox", ["job_id"])
    op.create_index("ix_outbox_next_at", "outbox", ["next_at"])
