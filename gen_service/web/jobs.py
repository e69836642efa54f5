"""Jobs as resources: asked for, listed, looked at, paused, resumed, cancelled, deleted."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Header, Path, Query, Response

from gen_service.web.auth import Reader, Submitter
from gen_service.web.cursors import decode_list_cursor, encode_cursor
from gen_service.web.problems import documented
from gen_service.web.route import ServiceRoute
from gen_service.web.state import ControllerDep
from gen_service.wire.jobs import JOB_NAME, JobKind, JobList, JobRequest, JobView
from gen_service.wire.states import JobState

PREFIX = "/api/v1/jobs"
JobId = Annotated[str, Path(pattern=r"^[A-Za-z0-9_-]{1,80}$", description="As the job's `id` says.")]
IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        pattern=r"^[!-~]{1,255}$",
        description="The same key with the same request gives the same job again, not another.",
    ),
]

router = APIRouter(prefix=PREFIX, route_class=ServiceRoute, tags=["jobs"])


@router.post(
    "",
    status_code=202,
    response_model=JobView,
    responses={
        200: {"model": JobView, "description": "The job that this Idempotency-Key made before."},
        202: {"headers": {"Location": {"description": "Of the job.", "schema": {"type": "string"}}}},
        **documented(400, 401, 403, 404, 409, 413, 415, 422, 429, 503),
    },
)
async def submit(
    request: JobRequest,
    caller: Submitter,
    controller: ControllerDep,
    response: Response,
    idempotency_key: IdempotencyKey = None,
) -> JobView:
    """Ask for a job. It is stored when this answers, and starts when its turn comes."""
    row, created = await controller.submit(caller.tenant, request, idempotency_key)
    response.status_code = 202 if created else 200
    response.headers["Location"] = f"{PREFIX}/{row.id}"
    return controller.view(row)


@router.get("", responses=documented(400, 401, 403, 422, 429))
async def list_jobs(
    caller: Reader,
    controller: ControllerDep,
    state: Annotated[list[JobState] | None, Query(max_length=20, description="Repeat for more.")] = None,
    kind: Annotated[JobKind | None, Query()] = None,
    name: Annotated[str | None, Query(pattern=JOB_NAME)] = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    cursor: Annotated[str | None, Query(max_length=500, description="`next_cursor` of the page before.")] = None,
) -> JobList:
    """Jobs, newest first."""
    before = None if cursor is None else decode_list_cursor(cursor)
    rows = await controller.store.jobs.page(
        caller.reach, kind=kind, states=tuple(state or ()), name=name, before=before, limit=limit + 1
    )
    page = rows[:limit]
    more = encode_cursor(page[-1].created_at, page[-1].id) if len(rows) > limit else None
    return JobList(data=[controller.view(row) for row in page], next_cursor=more)


@router.get("/{job_id}", responses=documented(400, 401, 403, 404, 422, 429))
async def show(job_id: JobId, caller: Reader, controller: ControllerDep) -> JobView:
    """One job, with live numbers while it runs."""
    return controller.view(await controller.store.jobs.get(job_id, caller.reach))


_CHANGES = documented(400, 401, 403, 404, 409, 422, 429, 503)


@router.post("/{job_id}/pause", responses=_CHANGES)
async def pause(job_id: JobId, caller: Submitter, controller: ControllerDep) -> JobView:
    """Let a job rest: what it has finished is readable, and `resume` goes on from there."""
    return controller.view(await controller.pause(caller.reach, job_id))


@router.post("/{job_id}/resume", responses=_CHANGES)
async def resume(job_id: JobId, caller: Submitter, controller: ControllerDep) -> JobView:
    """Let a paused job go on when its turn comes."""
    return controller.view(await controller.resume(caller.reach, job_id))


@router.post("/{job_id}/cancel", responses=_CHANGES)
async def cancel(job_id: JobId, caller: Submitter, controller: ControllerDep) -> JobView:
    """End a job for good: what runs has the service's grace, what is finished stays readable."""
    return controller.view(await controller.cancel(caller.reach, job_id))


@router.delete("/{job_id}", status_code=204, responses=_CHANGES)
async def delete(job_id: JobId, caller: Submitter, controller: ControllerDep) -> None:
    """Remove an ended job with its traces that lie with the service."""
    await controller.delete(caller.reach, job_id)
