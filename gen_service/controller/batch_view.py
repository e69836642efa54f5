"""A batch as OpenAI's clients see it, from the job that it is. Pure."""

from __future__ import annotations

from gen_service.store.rows import JobRow
from gen_service.wire.jobs import JobCounts
from gen_service.wire.openai import Batch, BatchError, BatchErrors, BatchStatus, BatchUsage, RequestCounts
from gen_service.wire.states import JobState

STATUS: dict[JobState, BatchStatus] = {
    "validating": "validating",
    "queued": "in_progress",
    "running": "in_progress",
    "paused": "in_progress",
    "cancelling": "cancelling",
    "expiring": "finalizing",
    "finalizing": "finalizing",
    "completed": "completed",
    "failed": "failed",
    "cancelled": "cancelled",
    "expired": "expired",
}


def batch_object(row: JobRow, counts: JobCounts) -> Batch:
    """The batch.

    Args:
        row: of a job of the kind `batch`.
        counts: as they are now.
    """
    batch = row.batch or {}
    return Batch(
        id=row.id,
        endpoint=row.request["endpoint"],
        errors=_errors(row),
        input_file_id=row.request["input_file_id"],
        completion_window=row.request["completion_window"],
        status=STATUS[row.state],
        output_file_id=batch.get("output_file_id"),
        error_file_id=batch.get("error_file_id"),
        created_at=int(row.created_at),
        in_progress_at=_at(row, "queued"),
        expires_at=None if row.expires_at is None else int(row.expires_at),
        finalizing_at=_at(row, "finalizing") or _at(row, "expiring"),
        completed_at=_at(row, "completed"),
        failed_at=_at(row, "failed"),
        expired_at=_at(row, "expired"),
        cancelling_at=_at(row, "cancelling"),
        cancelled_at=_at(row, "cancelled"),
        model=row.model,
        request_counts=_request_counts(row, counts),
        usage=BatchUsage(
            input_tokens=counts.prompt_tokens,
            output_tokens=counts.completion_tokens,
            total_tokens=counts.prompt_tokens + counts.completion_tokens,
        ),
        metadata=row.metadata or None,
    )


def _at(row: JobRow, state: JobState) -> int | None:
    at = row.times.get(state)
    return None if at is None else int(at)


def _errors(row: JobRow) -> BatchErrors | None:
    errors = [BatchError.model_validate(error) for error in (row.batch or {}).get("errors") or ()]
    if not errors and row.state == "failed":
        errors = [BatchError(code="server_error", message=row.reason or "the service could not run this batch")]
    return BatchErrors(data=errors) if errors else None


def _request_counts(row: JobRow, counts: JobCounts) -> RequestCounts:
    """Exact once the files are written. Before that samples are counted, which are as many as the requests unless
    some ask for several choices: then it is their share."""
    if (exact := (row.batch or {}).get("request_counts")) is not None:
        return RequestCounts.model_validate(exact)
    total = row.prompts or 0
    samples = max(row.samples or total, 1)
    return RequestCounts(
        total=total,
        completed=(counts.published - counts.errors) * total // samples,
        failed=min(total, counts.errors * total // samples + counts.rejected_prompts),
    )
