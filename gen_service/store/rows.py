"""What the database holds, as frozen values. Small rows only: traces and prompts lie in files.

Times are seconds since the epoch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gen_service.wire.jobs import JobKind
from gen_service.wire.states import JobState


@dataclass(frozen=True, slots=True)
class JobRow:
    """A job.

    Attributes:
        request: the accepted request (a JobRequest or a BatchRequest) as JSON, secrets left out.
        spec: the job spec made of it, as JSON, without servers and keys.
        request_hash: of the request, to tell a replay from another request under the same idempotency key.
        prompts: how many prompts it has, or None while that is not known; counts against the tenant's quota.
        samples: how many samples it will make in all, or None.
        counts: as of the last look: a JobCounts as JSON.
        times: when it came into each state it has been in (the first time of each).
        batch: of a batch: `output_file_id`, `error_file_id`, `errors`.
        webhook: `url` and `secret`, or None.
    """

    id: str
    tenant: str
    kind: JobKind
    state: JobState
    reason: str | None
    name: str | None
    model: str | None
    request: dict[str, Any]
    spec: dict[str, Any]
    request_hash: str
    idempotency_key: str | None
    priority: int
    weight: float
    max_in_flight: int | None
    metadata: dict[str, str]
    prompts: int | None
    samples: int | None
    counts: dict[str, Any]
    created_at: float
    expires_at: float | None
    times: dict[str, float]
    batch: dict[str, Any] | None
    webhook: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class FileRow:
    """A stored file. `lines` is None where they were not counted; the bytes lie under the uploads folder by `id`."""

    id: str
    tenant: str
    purpose: str
    filename: str
    bytes: int
    lines: int | None
    created_at: float


@dataclass(frozen=True, slots=True)
class KeyRow:
    """An API key, without its secret."""

    id: str
    tenant: str
    name: str
    scopes: frozenset[str]
    created_at: float
    revoked_at: float | None


@dataclass(frozen=True, slots=True)
class TenantRow:
    """A tenant: its weight in the fleet, and its own quotas over the service's (a QuotaSettings as JSON, in part)."""

    name: str
    weight: float
    quotas: dict[str, Any]


@dataclass(frozen=True, slots=True)
class EventRow:
    """A kept event of a job; `id` rises over all jobs."""

    id: int
    job_id: str
    type: str
    at: float
    data: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Usage:
    """What a tenant has now."""

    active_jobs: int
    queued_prompts: int
    stored_bytes: int


@dataclass(frozen=True, slots=True)
class Delivery:
    """A webhook to send."""

    id: str
    job_id: str
    url: str
    secret: str | None
    body: dict[str, Any]
    attempts: int = 0
    created_at: float = 0.0
