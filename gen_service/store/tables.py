"""The tables. Columns are named as the fields of the rows they hold (`rows.py`)."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    Dialect,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
)
from sqlalchemy.types import TypeDecorator, TypeEngine

from gen_service.store.rows import Delivery, EventRow, FileRow, JobRow, KeyRow, TenantRow


class Words(TypeDecorator[str]):
    """Text in byte order on every database, so that ids sort as Python sorts them.

    PostgreSQL takes neither NUL nor lone surrogates; a client may send both, so they are replaced.
    """

    impl = Text
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """PostgreSQL's order is otherwise that of the database's language."""
        return Text(collation="C") if dialect.name == "postgresql" else Text()

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        """What can be stored of `value`."""
        return None if value is None else value.replace("\x00", "\ufffd").encode("utf-8", "replace").decode()


# SQLite numbers rows by itself only in a column of exactly INTEGER, which has 64 bits there.
WHOLE = BigInteger().with_variant(Integer(), "sqlite")
# JSON and not JSONB: a client's text may hold \u0000, which JSONB refuses.
DOCUMENT = JSON(none_as_null=True)


METADATA = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    }
)

# JobRow.
JOBS = Table(
    "jobs",
    METADATA,
    Column("id", Words(), primary_key=True),
    Column("tenant", Words(), nullable=False),
    Column("kind", Words(), nullable=False),
    Column("state", Words(), nullable=False),
    Column("reason", Words()),
    Column("name", Words()),
    Column("model", Words()),
    Column("request", DOCUMENT, nullable=False),
    Column("spec", DOCUMENT, nullable=False),
    Column("request_hash", Words(), nullable=False),
    Column("idempotency_key", Words()),
    Column("priority", WHOLE, nullable=False),
    Column("weight", Double(), nullable=False),
    Column("max_in_flight", WHOLE),
    Column("metadata", DOCUMENT, nullable=False),
    Column("prompts", WHOLE),
    Column("samples", WHOLE),
    Column("counts", DOCUMENT, nullable=False),
    Column("created_at", Double(), nullable=False),
    Column("expires_at", Double()),
    Column("times", DOCUMENT, nullable=False),
    Column("batch", DOCUMENT),
    Column("webhook", DOCUMENT),
    UniqueConstraint("tenant", "idempotency_key"),
    Index(None, "tenant", "created_at", "id"),
    Index(None, "tenant", "name"),
    Index(None, "tenant", "request_hash"),
    Index(None, "created_at", "id"),
    Index(None, "state"),
)

# FileRow.
FILES = Table(
    "files",
    METADATA,
    Column("id", Words(), primary_key=True),
    Column("tenant", Words(), nullable=False),
    Column("purpose", Words(), nullable=False),
    Column("filename", Words(), nullable=False),
    Column("bytes", WHOLE, nullable=False),
    Column("lines", WHOLE),
    Column("created_at", Double(), nullable=False),
    Index(None, "tenant", "id"),
)

# KeyRow, and the SHA-256 of its secret, in hexadecimal.
KEYS = Table(
    "keys",
    METADATA,
    Column("id", Words(), primary_key=True),
    Column("tenant", Words(), nullable=False),
    Column("name", Words(), nullable=False),
    Column("scopes", DOCUMENT, nullable=False),
    Column("digest", Words(), nullable=False),
    Column("created_at", Double(), nullable=False),
    Column("revoked_at", Double()),
    Index(None, "tenant"),
)

# TenantRow.
TENANTS = Table(
    "tenants",
    METADATA,
    Column("name", Words(), primary_key=True),
    Column("weight", Double(), nullable=False),
    Column("quotas", DOCUMENT, nullable=False),
)

# EventRow. An id is never used again, even after its row was deleted.
EVENTS = Table(
    "events",
    METADATA,
    Column("id", WHOLE, primary_key=True, autoincrement=True),
    Column("job_id", Words(), ForeignKey("jobs.id", ondelete="CASCADE"), nullable=False),
    Column("type", Words(), nullable=False),
    Column("at", Double(), nullable=False),
    Column("data", DOCUMENT, nullable=False),
    Index(None, "job_id", "id"),
    sqlite_autoincrement=True,
)

# Delivery, and what became of it: it is due at `next_at`, never where that is null.
OUTBOX = Table(
    "outbox",
    METADATA,
    Column("id", Words(), primary_key=True),
    Column("job_id", Words(), ForeignKey("jobs.id", ondelete="CASCADE"), nullable=False),
    Column("url", Words(), nullable=False),
    Column("secret", Words()),
    Column("body", DOCUMENT, nullable=False),
    Column("attempts", WHOLE, nullable=False),
    Column("created_at", Double(), nullable=False),
    Column("next_at", Double()),
    Column("delivered_at", Double()),
    Column("error", Words()),
    Index(None, "next_at"),
    Index(None, "job_id"),
)

# One row: the data folder that the jobs' files lie in.
FOLDER = Table("folder", METADATA, Column("id", Words(), primary_key=True))

Row = JobRow | FileRow | KeyRow | TenantRow | EventRow | Delivery


def columns(table: Table, kind: type[Row]) -> list[Column[Any]]:
    """The columns of `table` that the fields of `kind` are read from, in their order."""
    return [table.c[field.name] for field in fields(kind)]


def values(row: Row) -> dict[str, Any]:
    """The columns' values that hold `row`."""
    return {field.name: getattr(row, field.name) for field in fields(row)}
