"""A job as the service shows it: from its row, with live numbers while it runs."""

from __future__ import annotations

from datetime import UTC, datetime

from gen_service.controller.run import Run
from gen_service.controller.specs import is_ours
from gen_service.endpoints.fleet import Fleet
from gen_service.store.rows import JobRow
from gen_service.wire.jobs import JobCounts, JobView
from gen_service.wire.states import FINAL

_WISHES = {"pause": "pausing: running samples have their grace", "requeue": "stopping: it goes on when its turn comes"}


def view(row: JobRow, run: Run | None, fleet: Fleet) -> JobView:
    """The job.

    Args:
        run: of a job that runs.
        fleet: the servers.
    """
    ended = next((row.times.get(state) for state in FINAL if state == row.state), None)
    return JobView(
        id=row.id,
        name=row.name,
        tenant=row.tenant,
        kind=row.kind,
        state=row.state,
        reason=row.reason if run is None or row.reason is not None else _WISHES.get(run.wish or ""),
        model=row.model,
        priority=row.priority,
        weight=row.weight,
        created_at=datetime.fromtimestamp(row.created_at, UTC),
        started_at=_time(row.times.get("running")),
        finished_at=_time(ended),
        counts=counts(row, run),
        rates=None if run is None else run.rates(),
        servers=[] if run is None else run.servers(fleet),
        output=None if is_ours(row) else f"{row.spec['output']['path'].rstrip('/')}/{row.id}",
        metadata=row.metadata,
        request=row.request,
    )


def counts(row: JobRow, run: Run | None) -> JobCounts:
    """How much of it is done: as of now while it runs, else as its row says."""
    if run is not None and run.running is not None:
        return run.counts()
    stored = JobCounts.model_validate(row.counts)
    return stored if stored.samples is not None else stored.model_copy(update={"samples": row.samples})


def _time(at: float | None) -> datetime | None:
    return None if at is None else datetime.fromtimestamp(at, UTC)
