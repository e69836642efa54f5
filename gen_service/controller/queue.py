"""Which queued job starts next. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Queued:
    """A job that waits for its turn.

    Attributes:
        tenant_weight: the tenant's share beside other tenants.
        since: when it was created; seconds on any clock, the same for all.
    """

    job_id: str
    tenant: str
    tenant_weight: float
    priority: int
    since: float


def next_job(queued: Iterable[Queued], running: Mapping[str, int]) -> Queued | None:
    """The job whose turn it is, or None when none waits.

    The whole rule: a higher priority goes first; then the tenant with the fewest running jobs for its weight; then
    the job that waits longest. So a tenant that queues a thousand jobs keeps no other from its next start, and within
    a tenant and a priority jobs start in the order in which they came.

    Args:
        running: how many jobs of each tenant run now.
    """

    def turn(job: Queued) -> tuple[int, float, float, str]:
        return -job.priority, running.get(job.tenant, 0) / job.tenant_weight, job.since, job.job_id

    return min(queued, key=turn, default=None)
