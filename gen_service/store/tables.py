"""The tables, as SQLAlchemy maps them. Columns are named as the fields of the rows they hold (`rows.py`)."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, ClassVar, TypeVar

from sqlalchemy import JSON, BigInteger, Dialect, Double, ForeignKey, Index, Integer, MetaData, Text, UniqueConstraint
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import TypeDecorator, TypeEngine

from gen_service.store.rows import Delivery, EventRow, FileRow, JobRow, KeyRow, TenantRow
from gen_service.wire.jobs import JobKind
from gen_service.wire.states import JobState


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


class Tables(DeclarativeBase):
    """All tables."""

    metadata = MetaData(
        naming_convention={
            "pk": "pk_%(table_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        }
    )
    type_annotation_map: ClassVar[dict[Any, Any]] = {
        str: Words(),
        int: WHOLE,
        float: Double(),
        dict[str, Any]: DOCUMENT,
        dict[str, str]: DOCUMENT,
        dict[str, float]: DOCUMENT,
        list[str]: DOCUMENT,
    }


class StoredJob(Tables):
    """A JobRow."""

    __tablename__ = "jobs"
    __table_args__ = (
        UniqueConstraint("tenant", "idempotency_key"),
        Index(None, "tenant", "created_at", "id"),
        Index(None, "tenant", "name"),
        Index(None, "tenant", "request_hash"),
        Index(None, "created_at", "id"),
        Index(None, "state"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    tenant: Mapped[str]
    kind: Mapped[JobKind] = mapped_column(Words())
    state: Mapped[JobState] = mapped_column(Words())
    reason: Mapped[str | None]
    name: Mapped[str | None]
    model: Mapped[str | None]
    request: Mapped[dict[str, Any]]
    spec: Mapped[dict[str, Any]]
    request_hash: Mapped[str]
    idempotency_key: Mapped[str | None]
    priority: Mapped[int]
    weight: Mapped[float]
    max_in_flight: Mapped[int | None]
    # `metadata` is SQLAlchemy's own attribute.
    metadata_: Mapped[dict[str, str]] = mapped_column("metadata")
    prompts: Mapped[int | None]
    samples: Mapped[int | None]
    counts: Mapped[dict[str, Any]]
    created_at: Mapped[float]
    expires_at: Mapped[float | None]
    times: Mapped[dict[str, float]]
    batch: Mapped[dict[str, Any] | None]
    webhook: Mapped[dict[str, Any] | None]


class StoredFile(Tables):
    """A FileRow."""

    __tablename__ = "files"
    __table_args__ = (Index(None, "tenant", "id"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    tenant: Mapped[str]
    purpose: Mapped[str]
    filename: Mapped[str]
    bytes: Mapped[int]
    lines: Mapped[int | None]
    created_at: Mapped[float]


class StoredKey(Tables):
    """A KeyRow and the SHA-256 of its secret, in hexadecimal."""

    __tablename__ = "keys"
    __table_args__ = (Index(None, "tenant"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    tenant: Mapped[str]
    name: Mapped[str]
    scopes: Mapped[list[str]]
    digest: Mapped[str]
    created_at: Mapped[float]
    revoked_at: Mapped[float | None]


class StoredTenant(Tables):
    """A TenantRow."""

    __tablename__ = "tenants"

    name: Mapped[str] = mapped_column(primary_key=True)
    weight: Mapped[float]
    quotas: Mapped[dict[str, Any]]


class StoredEvent(Tables):
    """An EventRow. An id is never used again, even after its row was deleted."""

    __tablename__ = "events"
    __table_args__ = (Index(None, "job_id", "id"), {"sqlite_autoincrement": True})

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"))
    type: Mapped[str]
    at: Mapped[float]
    data: Mapped[dict[str, Any]]


class StoredDelivery(Tables):
    """A Delivery, and what became of it: it is due at `next_at`, never where that is null."""

    __tablename__ = "outbox"
    __table_args__ = (Index(None, "next_at"), Index(None, "job_id"))

    id: Mapped[str] = mapped_column(primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"))
    url: Mapped[str]
    secret: Mapped[str | None]
    body: Mapped[dict[str, Any]]
    attempts: Mapped[int]
    created_at: Mapped[float]
    next_at: Mapped[float | None]
    delivered_at: Mapped[float | None]
    error: Mapped[str | None]


Row = TypeVar("Row", JobRow, FileRow, KeyRow, TenantRow, EventRow, Delivery)
Stored = TypeVar("Stored", StoredJob, StoredFile, StoredKey, StoredTenant, StoredEvent, StoredDelivery)


def stored(table: type[Stored], row: JobRow | FileRow | TenantRow | Delivery) -> Stored:
    """A new line of `table` that holds `row`."""
    return table(**{_attribute(field.name): getattr(row, field.name) for field in fields(row)})


def row_of(kind: type[Row], line: Tables) -> Row:
    """The row that a line of a table holds."""
    return kind(**{field.name: getattr(line, _attribute(field.name)) for field in fields(kind)})


def _attribute(field: str) -> str:
    return "metadata_" if field == "metadata" else field
