"""Every change of a job's state goes through here: stored, logged once, told to who watches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Unpack

import structlog
from tenacity import AsyncRetrying, retry_if_exception_type, wait_random_exponential

from gen_service.controller.watch import Changes
from gen_service.errors import Unavailable
from gen_service.store.jobs import JobChanges, Jobs
from gen_service.store.rows import JobRow
from gen_service.wire.states import FINAL, JobEvent

# A database that is away comes back within minutes; the work that waits for it here is done and durable.
LONGEST_RETRY_S = 10.0
_log = structlog.get_logger(__name__)

patiently = AsyncRetrying(
    retry=retry_if_exception_type(Unavailable), wait=wait_random_exponential(0.1, LONGEST_RETRY_S), reraise=True
)


class Moves:
    """Changes states of jobs.

    Args:
        on_final: told of each job that ended.
        now: seconds since the epoch.
    """

    def __init__(
        self, jobs: Jobs, changes: Changes, on_final: Callable[[JobRow], None], now: Callable[[], float]
    ) -> None:
        self._jobs = jobs
        self._changes = changes
        self._on_final = on_final
        self._now = now

    async def move(
        self, job_id: str, event: JobEvent, *, reason: str | None = None, **changes: Unpack[JobChanges]
    ) -> JobRow:
        """As `Jobs.move`, for who can be told that the database is away."""
        row = await self._jobs.move(job_id, event, self._now(), reason=reason, **changes)
        log = _log.warning if row.state == "failed" else _log.info
        log("job is " + row.state, job_id=job_id, tenant=row.tenant, happened=event, reason=reason)
        if row.state in FINAL:
            self._on_final(row)
        self._changes.tell(job_id)
        return row

    async def move_surely(
        self, job_id: str, event: JobEvent, *, reason: str | None = None, **changes: Unpack[JobChanges]
    ) -> JobRow:
        """As `move`, but waits for a database that is away. A move that happened although the connection broke is
        met again as a Conflict."""
        return await patiently.copy()(self.move, job_id, event, reason=reason, **changes)

    async def row(self, job_id: str) -> JobRow:
        """The job as it is stored; waits for a database that is away.

        Raises:
            NotFound: it was deleted.
        """
        return await patiently.copy()(self._jobs.get, job_id, None)
