"""The events of jobs that are kept, in the order they happened."""

from __future__ import annotations

from typing import Any

from sqlalchemy import select

from gen_service.store.jobs import locked_job
from gen_service.store.rows import EventRow
from gen_service.store.sessions import Sessions
from gen_service.store.tables import StoredEvent, row_of


class Events:
    """All events of all jobs."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions

    async def append(self, job_id: str, type: str, at: float, data: dict[str, Any]) -> EventRow:
        """Keep an event.

        The job is locked, so that of two of its events the one with the lower id is seen no later than the other:
        who reads on from the last id misses none.

        Raises:
            NotFound: there is no such job.
        """
        async with self._sessions.writing() as session:
            await locked_job(session, job_id)
            event = StoredEvent(job_id=job_id, type=type, at=at, data=data)
            session.add(event)
            await session.flush()
            return row_of(EventRow, event)

    async def since(self, job_id: str, after_id: int, limit: int) -> list[EventRow]:
        """The events of a job after the event `after_id` (0: from the first), at most `limit`."""
        query = (
            select(StoredEvent)
            .where(StoredEvent.job_id == job_id, StoredEvent.id > after_id)
            .order_by(StoredEvent.id)
            .limit(limit)
        )
        async with self._sessions.reading() as session:
            return [row_of(EventRow, line) for line in await session.scalars(query)]
