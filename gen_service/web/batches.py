"""Batches, as OpenAI has them. A batch is a job; it is under /api/v1/jobs too."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Header, Query

from gen_service.controller.batch_view import batch_object
from gen_service.controller.controller import Controller
from gen_service.errors import NotFound
from gen_service.store.rows import JobRow
from gen_service.web.auth import Reader, Submitter
from gen_service.web.jobs import IdempotencyKey, JobId
from gen_service.web.problems import documented
from gen_service.web.route import ServiceRoute
from gen_service.web.state import ControllerDep
from gen_service.wire.openai import Batch, BatchList, BatchRequest

router = APIRouter(prefix="/v1/batches", route_class=ServiceRoute, tags=["batches"])


@router.post("", responses=documented(400, 401, 403, 404, 409, 413, 415, 429, 503, openai=True))
async def create_batch(
    request: BatchRequest,
    caller: Submitter,
    controller: ControllerDep,
    idempotency_key: IdempotencyKey = None,
    retry_count: Annotated[
        str | None,
        Header(
            alias="x-stainless-retry-count",
            max_length=20,
            description="Sent by OpenAI's clients. Above 0, the batch that the same request made lately is given.",
        ),
    ] = None,
) -> Batch:
    """Ask for a batch of an uploaded file. Its lines are validated next, and a file with a wrong one makes it fail."""
    is_retry = retry_count is not None and retry_count.isdecimal() and int(retry_count) > 0
    row, _ = await controller.create_batch(caller.tenant, request, idempotency_key, is_retry)
    return _view(controller, row)


@router.get("", responses=documented(400, 401, 403, 404, 429, openai=True))
async def list_batches(
    caller: Reader,
    controller: ControllerDep,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    after: Annotated[str | None, Query(max_length=100, description="`last_id` of the page before.")] = None,
) -> BatchList:
    """Batches, newest first."""
    before = None
    if after is not None:
        last = await _batch(controller, after, caller.reach)
        before = last.created_at, last.id
    rows = await controller.store.jobs.page(caller.reach, kind="batch", before=before, limit=limit + 1)
    data = [_view(controller, row) for row in rows[:limit]]
    return BatchList(
        data=data,
        first_id=data[0].id if data else None,
        last_id=data[-1].id if data else None,
        has_more=len(rows) > limit,
    )


@router.get("/{batch_id}", responses=documented(400, 401, 403, 404, 429, openai=True))
async def show_batch(batch_id: JobId, caller: Reader, controller: ControllerDep) -> Batch:
    """One batch, with live counts while it runs."""
    return _view(controller, await _batch(controller, batch_id, caller.reach))


@router.post("/{batch_id}/cancel", responses=documented(400, 401, 403, 404, 409, 429, 503, openai=True))
async def cancel_batch(batch_id: JobId, caller: Submitter, controller: ControllerDep) -> Batch:
    """End a batch: requests under way have the service's grace, and what is done is in its files."""
    row = await _batch(controller, batch_id, caller.reach)
    return _view(controller, await controller.cancel(caller.reach, row.id))


async def _batch(controller: Controller, batch_id: str, tenant: str | None) -> JobRow:
    row = await controller.store.jobs.get(batch_id, tenant)
    if row.kind != "batch":
        raise NotFound(f"there is no batch {batch_id!r}", field="batch_id")
    return row


def _view(controller: Controller, row: JobRow) -> Batch:
    return batch_object(row, controller.view(row).counts)
