"""Jobs as the database keeps them. A job and what is told of it change in one transaction."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, TypedDict, Unpack

from sqlalchemy import ColumnElement, Connection, bindparam, delete, func, insert, select, tuple_, update

from gen_service.errors import Conflict, NotFound
from gen_service.service_settings import QuotaSettings
from gen_service.store.ids import new_id
from gen_service.store.quotas import check_job, effective_quotas
from gen_service.store.rows import Delivery, JobRow, Usage
from gen_service.store.tables import EVENTS, JOBS, OUTBOX, columns, values
from gen_service.store.tenants import measured_usage, stored_tenant
from gen_service.store.transactions import Transactions
from gen_service.wire.jobs import JobKind
from gen_service.wire.states import ACTIVE, FINAL, STATES, JobEvent, JobState, after

_JOBS = select(*columns(JOBS, JobRow))
_JOB = _JOBS.where(JOBS.c.id == bindparam("job"))
_LOCKED_JOB = _JOB.with_for_update()
_LOCK = select(JOBS.c.state).where(JOBS.c.id == bindparam("job")).with_for_update()
_CHANGE = update(JOBS).where(JOBS.c.id == bindparam("job"))


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

    def __init__(self, transactions: Transactions) -> None:
        self._transactions = transactions

    async def create(self, row: JobRow, quotas: QuotaSettings) -> tuple[JobRow, bool]:
        """Store a new job with its first event, once per idempotency key, within the tenant's quotas.

        Returns:
            The stored job, and whether it is new: False is the job that the same request made before.

        Raises:
            Conflict: the idempotency key came with another request before.
            TooManyRequests: a quota is used up.
        """

        def create(connection: Connection) -> tuple[JobRow, bool]:
            existing = _same_key(connection, row)
            if existing is not None:
                return existing, False
            tenant = stored_tenant(connection, row.tenant)
            usage = measured_usage(connection, row.tenant)
            check_job(usage, effective_quotas(quotas, tenant), row.prompts or 0)
            made = replace(row, times=row.times or {row.state: row.created_at})
            connection.execute(insert(JOBS), values(made))
            _tell(connection, made, row.created_at, None)
            return made, True

        return await self._transactions.write(create, row.tenant)

    async def get(self, job_id: str, tenant: str | None) -> JobRow:
        """The job; `tenant` None is any tenant's.

        Raises:
            NotFound: there is none of that id, or it is another tenant's.
        """
        line = await self._transactions.read(lambda connection: connection.execute(_JOB, {"job": job_id}).first())
        if line is None or tenant not in (None, line.tenant):
            raise _no_job(job_id)
        return JobRow(*line)

    async def find_replay(self, tenant: str, kind: JobKind, request_hash: str, since: float) -> JobRow | None:
        """The newest job that the same request made after `since`."""
        query = (
            _JOBS.where(JOBS.c.tenant == tenant, JOBS.c.kind == kind, JOBS.c.request_hash == request_hash)
            .where(JOBS.c.created_at > since)
            .order_by(JOBS.c.created_at.desc(), JOBS.c.id.desc())
            .limit(1)
        )
        line = await self._transactions.read(lambda connection: connection.execute(query).first())
        return None if line is None else JobRow(*line)

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
            wanted.append(JOBS.c.tenant == tenant)
        if kind is not None:
            wanted.append(JOBS.c.kind == kind)
        if states:
            wanted.append(JOBS.c.state.in_(states))
        if name is not None:
            wanted.append(JOBS.c.name == name)
        if before is not None:
            wanted.append(tuple_(JOBS.c.created_at, JOBS.c.id) < before)
        query = _JOBS.where(*wanted).order_by(JOBS.c.created_at.desc(), JOBS.c.id.desc()).limit(limit)
        return await self._transactions.read(lambda connection: [JobRow(*line) for line in connection.execute(query)])

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

        def move(connection: Connection) -> JobRow:
            line = connection.execute(_LOCKED_JOB, {"job": job_id}).first()
            if line is None:
                raise _no_job(job_id)
            job = JobRow(*line)
            state = after(job.state, event)
            if state is None:
                raise Conflict(f"job {job_id} is {job.state}: {event!r} cannot happen", code="wrong_state")
            times = job.times | {state: job.times.get(state, now)}
            given: dict[str, Any] = {"state": state, "reason": reason, "times": times, **_given(changes)}
            connection.execute(_CHANGE, {"job": job_id, **given})
            moved = replace(job, **given)
            _tell(connection, moved, now, job.state)
            if state in FINAL and job.webhook is not None:
                connection.execute(insert(OUTBOX), _delivery(moved, job.webhook, now))
            return moved

        return await self._transactions.write(move)

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
        given = _given({"counts": counts, "prompts": prompts, "samples": samples, "batch": batch})

        def change(connection: Connection) -> None:
            lock_job(connection, job_id)
            if given:
                connection.execute(_CHANGE, {"job": job_id, **given})

        await self._transactions.write(change)

    async def unfinished(self) -> list[JobRow]:
        """The jobs that are not in a final state, oldest first."""
        query = _JOBS.where(JOBS.c.state.in_(ACTIVE)).order_by(JOBS.c.created_at, JOBS.c.id)
        return await self._transactions.read(lambda connection: [JobRow(*line) for line in connection.execute(query)])

    async def count_by_state(self) -> dict[JobState, int]:
        """How many jobs are in each state, of all tenants; every state is there."""
        query = select(JOBS.c.state, func.count()).group_by(JOBS.c.state)
        found = await self._transactions.read(lambda connection: connection.execute(query).all())
        return dict.fromkeys(STATES, 0) | dict(found)

    async def usage(self, tenant: str) -> Usage:
        """What the tenant has now."""
        return await self._transactions.read(lambda connection: measured_usage(connection, tenant))

    async def delete(self, job_id: str) -> None:
        """Remove a job that ended, with its events and deliveries.

        Raises:
            Conflict: it has not ended.
            NotFound: there is no such job.
        """

        def remove(connection: Connection) -> None:
            state = lock_job(connection, job_id)
            if state not in FINAL:
                raise Conflict(f"job {job_id} is {state}: cancel it before deleting it", code="wrong_state")
            connection.execute(delete(JOBS).where(JOBS.c.id == job_id))

        await self._transactions.write(remove)


def lock_job(connection: Connection, job_id: str) -> JobState:
    """The state of a job that nobody else changes until this transaction ends.

    Raises:
        NotFound: there is none of that id.
    """
    state: JobState | None = connection.execute(_LOCK, {"job": job_id}).scalar()
    if state is None:
        raise _no_job(job_id)
    return state


def _same_key(connection: Connection, row: JobRow) -> JobRow | None:
    if row.idempotency_key is None:
        return None
    line = connection.execute(
        _JOBS.where(JOBS.c.tenant == row.tenant, JOBS.c.idempotency_key == row.idempotency_key)
    ).first()
    if line is not None and line.request_hash != row.request_hash:
        words = f"the idempotency key {row.idempotency_key!r} came with another request before, which made {line.id}"
        raise Conflict(words, field="Idempotency-Key", code="idempotency_key_reused")
    return None if line is None else JobRow(*line)


def _given(changes: JobChanges) -> dict[str, Any]:
    return {field: value for field, value in changes.items() if value is not None}


def _tell(connection: Connection, job: JobRow, at: float, before: JobState | None) -> None:
    data = {"from": before, "to": job.state, "reason": job.reason}
    connection.execute(insert(EVENTS), {"job_id": job.id, "type": "state", "at": at, "data": data})


def _delivery(job: JobRow, webhook: dict[str, Any], now: float) -> dict[str, Any]:
    body = {
        "type": f"job.{job.state}",
        "timestamp": datetime.fromtimestamp(now, UTC).isoformat(),
        "data": {"job_id": job.id, "state": job.state, "reason": job.reason, "counts": job.counts},
    }
    delivery = Delivery(new_id("msg_"), job.id, webhook["url"], webhook.get("secret"), body, created_at=now)
    return {**values(delivery), "next_at": now}


def _no_job(job_id: str) -> NotFound:
    return NotFound(f"there is no job {job_id!r}", field="job_id")
