"""Files, as OpenAI has them: batches' input and output, and prompts of our own jobs."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import FileResponse

from gen_service.errors import Conflict, NotFound
from gen_service.store.rows import FileRow, JobRow
from gen_service.web.auth import Reader, Submitter
from gen_service.web.problems import documented
from gen_service.web.route import ServiceRoute
from gen_service.web.state import ControllerDep, SettingsDep
from gen_service.web.uploads import store_upload
from gen_service.wire.openai import FileDeleted, FileList, FileObject, FilePurpose

FileId = Annotated[str, Path(pattern=r"^[A-Za-z0-9_-]{1,80}$", description="As the file's `id` says.")]
# The body is read as it streams in, past the framework: it cannot know its shape.
_FORM: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file", "purpose"],
                    "additionalProperties": False,
                    "properties": {
                        "file": {
                            "type": "string",
                            "format": "binary",
                            "description": "JSONL for `batch`; JSONL, CSV or Parquet for `prompts`, told apart by the "
                            "end of the name. Not compressed.",
                        },
                        "purpose": {"type": "string", "enum": ["batch", "prompts"]},
                    },
                }
            }
        },
    }
}
_BYTES: dict[int | str, dict[str, Any]] = {
    200: {"content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}}
}

router = APIRouter(prefix="/v1/files", route_class=ServiceRoute, tags=["files"])


@router.post("", responses=documented(400, 401, 403, 413, 415, 429, 503, openai=True), openapi_extra=_FORM)
async def upload_file(
    request: Request, caller: Submitter, controller: ControllerDep, settings: SettingsDep
) -> FileObject:
    """Store a file. It is durable when this answers."""
    on_end = controller.metrics.observe_upload
    return _view(await store_upload(request, caller.tenant, controller.store, settings, on_end))


@router.get("", responses=documented(400, 401, 403, 429, openai=True))
async def list_files(
    caller: Reader,
    controller: ControllerDep,
    purpose: Annotated[FilePurpose | None, Query()] = None,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 10_000,
    after: Annotated[str | None, Query(max_length=100, description="`last_id` of the page before.")] = None,
    order: Annotated[Literal["asc", "desc"], Query(description="By the time they were made.")] = "desc",
) -> FileList:
    """Files, newest first."""
    rows, has_more = await controller.store.files.page(
        caller.reach, purpose=purpose, after=after, limit=limit, order=order
    )
    data = [_view(row) for row in rows]
    first, last = (data[0].id, data[-1].id) if data else (None, None)
    return FileList(data=data, first_id=first, last_id=last, has_more=has_more)


@router.get("/{file_id}", responses=documented(400, 401, 403, 404, 429, openai=True))
async def show_file(file_id: FileId, caller: Reader, controller: ControllerDep) -> FileObject:
    """What is known of a file."""
    return _view(await controller.store.files.get(file_id, caller.reach))


@router.get(
    "/{file_id}/content",
    response_class=FileResponse,
    responses={**_BYTES, **documented(400, 401, 403, 404, 429, openai=True)},
)
async def download_file(
    file_id: FileId, caller: Reader, controller: ControllerDep, settings: SettingsDep
) -> FileResponse:
    """The file as it was sent or written, as a download whatever it holds."""
    row = await controller.store.files.get(file_id, caller.reach)
    path = settings.data.uploads / row.id
    if not await asyncio.to_thread(path.is_file):
        raise NotFound(f"the content of file {file_id!r} is gone", field="file_id")
    return FileResponse(path, media_type="application/octet-stream", filename=row.filename)


@router.delete("/{file_id}", responses=documented(400, 401, 403, 404, 409, 429, openai=True))
async def delete_file(
    file_id: FileId, caller: Submitter, controller: ControllerDep, settings: SettingsDep
) -> FileDeleted:
    """Remove a file that no unfinished job reads."""
    row = await controller.store.files.get(file_id, caller.reach)
    for job in await controller.store.jobs.unfinished():
        if _input_of(job) == row.id:
            raise Conflict(f"job {job.id}, which is {job.state}, reads file {row.id}", field="file_id", code="in_use")
    await controller.store.files.delete(row.id, caller.reach)
    path = settings.data.uploads / row.id
    await asyncio.to_thread(path.unlink, missing_ok=True)
    return FileDeleted(id=row.id)


def _input_of(job: JobRow) -> str | None:
    source: dict[str, Any] = job.request if job.kind == "batch" else job.request["prompts"]
    return source.get("input_file_id" if job.kind == "batch" else "file_id")


def _view(row: FileRow) -> FileObject:
    return FileObject.model_validate(
        {
            "id": row.id,
            "bytes": row.bytes,
            "created_at": int(row.created_at),
            "filename": row.filename,
            "purpose": row.purpose,
        }
    )
