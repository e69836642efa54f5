"""Jobs as the database keeps them. A job and what is told of it change in one transaction."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, TypedDict, Unpack

from sqlalchemy import ColumnElement, delete, func, select, tuple_
from sqlalchemy.ext.asyncio import AsyncSession

from gen_service.errors import Conflict, NotFound
from gen_service.service_settings import QuotaSettings
from gen_service.store.ids import new_id
from gen_service.store.quotas import check_job, effective_quotas
from gen_service.store.rows import JobRow, Usage
from gen_service.store.sessions import Sessions
from gen_service.store.tables import StoredDelivery, StoredEvent, StoredJob, row_of, stored
from gen_service.store.tenants import measured_usage, stored_tenant
from gen_service.wire.jobs import JobKind
from gen_service.wire.states import ACTIVE, FINAL, STATES, JobEvent, JobState, after


class JobChanges(TypedDict, total=False):
    """What may change with a state: each replaces the whole field of the row, None leaves it."""

    batch: dict[str, Any] | None
    counts: dict[str, Any] | None
    prompts: int | None
    samples: int | None
    model: str | None
    spec: dict[str, Any] | None


class Jobs:
    """All jobs of all tenants."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions

    async def create(self, row: JobRow, quotas: QuotaSettings) -> tuple[JobRow, bool]:
        """Store a new job with its first event, once per idempotency key, within the tenant's quotas.

        Returns:
            The stored job, and whether it is new: False is the job that the same request made before.

        Raises:
            Conflict: the idempotency key came with another request before.
            TooManyRequests: a quota is used up.
        """
        async with self._sessions.writing(row.tenant) as session:
            existing = await _same_key(session, row)
            if existing is not None:
                return existing, False
            tenant = await stored_tenant(session, row.tenant)
            usage = await measured_usage(session, row.tenant)
            check_job(usage, effective_quotas(quotas, tenant), row.prompts or 0)
            row = replace(row, times=row.times or {row.state: row.created_at})
            session.add(stored(StoredJob, row))
            await session.flush()
            session.add(_state_event(row.id, row.created_at, None, row.state, row.reason))
        return row, True

    async def get(self, job_id: str, tenant: str | None) -> JobRow:
        """The job; `tenant` None is any tenant's.

        Raises:
            NotFound: there is none of that id, or it is another tenant's.
        """
        async with self._sessions.reading() as session:
            line = await session.get(StoredJob, job_id)
        if line is None or tenant not in (None, line.tenant):
            raise _no_job(job_id)
        return row_of(JobRow, line)

    async def find_replay(self, tenant: str, kind: JobKind, request_hash: str, since: float) -> JobRow | None:
        """The newest job that the same request made after `since`."""
        query = (
            select(StoredJob)
            .where(StoredJob.tenant == tenant, StoredJob.kind == kind, StoredJob.request_hash == request_hash)
            .where(StoredJob.created_at > since)
            .order_by(StoredJob.created_at.desc(), StoredJob.id.desc())
            .limit(1)
        )
        async with self._sessions.reading() as session:
            line = await session.scalar(query)
        return None if line is None else row_of(JobRow, line)

    async def page(
        self,
        tenant: str | None,
        *,
        kind: JobKind | None = None,
        states: Collection[JobState] = (),
        name: str | None = None,
        before: tuple[float, str] | None = None,
        limit: int,
    ) -> list[JobRow]:
        """The newest jobs first, by (created_at, id), from after the pair `before`; no `states` are all of them."""
        wanted: list[ColumnElement[bool]] = []
        if tenant is not None:
            wanted.append(StoredJob.tenant == tenant)
        if kind is not None:
            wanted.append(StoredJob.kind == kind)
        if states:
            wanted.append(StoredJob.state.in_(states))
        if name is not None:
            wanted.append(StoredJob.name == name)
        if before is not None:
            wanted.append(tuple_(StoredJob.created_at, StoredJob.id) < before)
        query = select(StoredJob).where(*wanted).order_by(StoredJob.created_at.desc(), StoredJob.id.desc()).limit(limit)
        async with self._sessions.reading() as session:
            return [row_of(JobRow, line) for line in await session.scalars(query)]

    async def move(
        self, job_id: str, event: JobEvent, now: float, *, reason: str | None = None, **changes: Unpack[JobChanges]
    ) -> JobRow:
        """Bring a job into the state that `event` leads to.

        In the same transaction its `changes` are stored, the time of the state (its first) and `reason` (of the last
        move alone), a `state` event is kept, and in a final state the webhook's delivery.

        Raises:
            Conflict: the event cannot happen in the state that the job is in.
            NotFound: there is no such job.
        """
        async with self._sessions.writing() as session:
            job = await locked_job(session, job_id)
            before, state = job.state, after(job.state, event)
            if state is None:
                raise Conflict(f"job {job_id} is {before}: {event!r} cannot happen", code="wrong_state")
            _change(job, **changes)
            job.state, job.reason, job.times = state, reason, job.times | {state: job.times.get(state, now)}
            session.add(_state_event(job_id, now, before, state, reason))
            if state in FINAL and job.webhook is not None:
                session.add(_delivery(job, job.webhook, now))
            return row_of(JobRow, job)

    async def update(
        self,
        job_id: str,
        *,
        counts: dict[str, Any] | None = None,
        prompts: int | None = None,
        samples: int | None = None,
        batch: dict[str, Any] | None = None,
    ) -> None:
        """Replace the fields that are not None.

        Raises:
            NotFound: there is no such job.
        """
        async with self._sessions.writing() as session:
            job = await locked_job(session, job_id)
            _change(job, counts=counts, prompts=prompts, samples=samples, batch=batch)

    async def unfinished(self) -> list[JobRow]:
        """The jobs that are not in a final state, oldest first."""
        query = select(StoredJob).where(StoredJob.state.in_(ACTIVE)).order_by(StoredJob.created_at, StoredJob.id)
        async with self._sessions.reading() as session:
            return [row_of(JobRow, line) for line in await session.scalars(query)]

    async def count_by_state(self) -> dict[JobState, int]:
        """How many jobs are in each state, of all tenants; every state is there."""
        async with self._sessions.reading() as session:
            found = await session.execute(select(StoredJob.state, func.count()).group_by(StoredJob.state))
            return dict.fromkeys(STATES, 0) | dict(found.all())

    async def usage(self, tenant: str) -> Usage:
        """What the tenant has now."""
        async with self._sessions.reading() as session:
            return await measured_usage(session, tenant)

    async def delete(self, job_id: str) -> None:
        """Remove a job that ended, with its events and deliveries.

        Raises:
            Conflict: it has not ended.
            NotFound: there is no such job.
        """
        async with self._sessions.writing() as session:
            job = await locked_job(session, job_id)
            if job.state not in FINAL:
                raise Conflict(f"job {job_id} is {job.state}: cancel it before deleting it", code="wrong_state")
            await session.execute(delete(StoredJob).where(StoredJob.id == job_id))


async def locked_job(session: AsyncSession, job_id: str) -> StoredJob:
    """The job, which nobody else changes until this transaction ends.

    Raises:
        NotFound: there is none of that id.
    """
    job = await session.get(StoredJob, job_id, with_for_update=True)
    if job is None:
        raise _no_job(job_id)
    return job


async def _same_key(session: AsyncSession, row: JobRow) -> JobRow | None:
    if row.idempotency_key is None:
        return None
    line = await session.scalar(
        select(StoredJob).where(StoredJob.tenant == row.tenant, StoredJob.idempotency_key == row.idempotency_key)
    )
    if line is not None and line.request_hash != row.request_hash:
        words = f"the idempotency key {row.idempotency_key!r} came with another request before, which made {line.id}"
        raise Conflict(words, field="Idempotency-Key", code="idempotency_key_reused")
    return None if line is None else row_of(JobRow, line)


def _change(job: StoredJob, **changes: Unpack[JobChanges]) -> None:
    for field, value in changes.items():
        if value is not None:
            setattr(job, field, value)


def _state_event(job_id: str, at: float, before: JobState | None, to: JobState, reason: str | None) -> StoredEvent:
    return StoredEvent(job_id=job_id, type="state", at=at, data={"from": before, "to": to, "reason": reason})


def _delivery(job: StoredJob, webhook: dict[str, Any], now: float) -> StoredDelivery:
    body = {
        "type": f"job.{job.state}",
        "timestamp": datetime.fromtimestamp(now, UTC).isoformat(),
        "data": {"job_id": job.id, "state": job.state, "reason": job.reason, "counts": job.counts},
    }
    url, secret = webhook["url"], webhook.get("secret")
    return StoredDelivery(
        id=new_id("msg_"), job_id=job.id, url=url, secret=secret, body=body, attempts=0, created_at=now, next_at=now
    )


def _no_job(job_id: str) -> NotFound:
    return NotFound(f"there is no job {job_id!r}", field="job_id")
