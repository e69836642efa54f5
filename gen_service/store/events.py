"""The events of jobs that are kept, in the order they happened."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, bindparam, insert, select

from gen_service.store.jobs import lock_job
from gen_service.store.rows import EventRow
from gen_service.store.tables import EVENTS, columns
from gen_service.store.transactions import Transactions

_SINCE = (
    select(*columns(EVENTS, EventRow))
    .where(EVENTS.c.job_id == bindparam("job"), EVENTS.c.id > bindparam("after"))
    .order_by(EVENTS.c.id)
    .limit(bindparam("limit"))
)
_APPEND = insert(EVENTS).returning(*columns(EVENTS, EventRow))


class Events:
    """All events of all jobs."""

    def __init__(self, transactions: Transactions) -> None:
        self._transactions = transactions

    async def append(self, job_id: str, type: str, at: float, data: dict[str, Any]) -> EventRow:
        """Keep an event.

        The job is locked, so that of two of its events the one with the lower id is seen no later than the other:
        who reads on from the last id misses none.

        Raises:
            NotFound: there is no such job.
        """
        event = {"job_id": job_id, "type": type, "at": at, "data": data}

        def append(connection: Connection) -> EventRow:
            lock_job(connection, job_id)
            return EventRow(*connection.execute(_APPEND, event).one())

        return await self._transactions.write(append)

    async def since(self, job_id: str, after_id: int, limit: int) -> list[EventRow]:
        """The events of a job after the event `after_id` (0: from the first), at most `limit`."""
        asked = {"job": job_id, "after": after_id, "limit": limit}
        return await self._transactions.read(
            lambda connection: [EventRow(*line) for line in connection.execute(_SINCE, asked)]
        )
