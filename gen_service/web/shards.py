"""The published files of a job, as they were written."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Annotated

from fastapi import APIRouter, Path
from starlette.responses import FileResponse, Response, StreamingResponse

from gen_service.controller.specs import folder_of
from gen_service.errors import NotFound
from gen_service.storage.destination import Destination, is_url
from gen_service.storage.manifest import Part
from gen_service.web.auth import Reader
from gen_service.web.jobs import PREFIX, JobId
from gen_service.web.problems import documented
from gen_service.web.results import MEDIA
from gen_service.web.route import ServiceRoute
from gen_service.web.state import ControllerDep, PublishedDep, SettingsDep
from gen_service.wire.jobs import Shard, ShardList

CHUNK_BYTES = 256 * 1024
_BYTES = {MEDIA["parquet"]: {"schema": {"type": "string", "format": "binary"}}}
ShardName = Annotated[str, Path(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,200}$", description="As the list names it.")]

router = APIRouter(prefix=PREFIX, route_class=ServiceRoute, tags=["jobs"])


@router.get("/{job_id}/shards", responses=documented(400, 401, 403, 404, 422, 429))
async def list_shards(
    job_id: JobId, caller: Reader, controller: ControllerDep, settings: SettingsDep, published: PublishedDep
) -> ShardList:
    """The files published so far, in order."""
    row = await controller.store.jobs.get(job_id, caller.reach)
    found = await published.of(folder_of(row, settings))
    return ShardList(data=[_shard(job_id, part) for part in found.parts])


@router.get(
    "/{job_id}/shards/{name}",
    response_class=Response,
    responses=documented(400, 401, 403, 404, 422, 429)
    | {status: {"content": _BYTES} for status in (200, 206)}
    | {416: {"description": "There are no such bytes.", "content": {"text/plain": {"schema": {"type": "string"}}}}},
)
async def download(
    job_id: JobId,
    name: ShardName,
    caller: Reader,
    controller: ControllerDep,
    settings: SettingsDep,
    published: PublishedDep,
) -> Response:
    """One file. Repr-Digest has its sha256; a Range is served where it lies on a local disk."""
    row = await controller.store.jobs.get(job_id, caller.reach)
    found = await published.of(folder_of(row, settings))
    # Only what a manifest names is ever opened.
    part = next((part for part in found.parts if _name(part) == name), None)
    if part is None:
        raise NotFound(f"the job {job_id} has published no file {name!r}", field="name")
    digest = base64.b64encode(bytes.fromhex(part.sha256)).decode()
    headers = {"Repr-Digest": f"sha-256=:{digest}:"}
    place = found.destination.locate(part.file)
    if not is_url(place):
        return FileResponse(place, headers=headers, media_type=MEDIA["parquet"], filename=name)
    headers |= {"Content-Length": str(part.bytes), "Content-Disposition": f'attachment; filename="{name}"'}
    return StreamingResponse(_chunks(found.destination, part), headers=headers, media_type=MEDIA["parquet"])


def _chunks(destination: Destination, part: Part) -> Iterator[bytes]:
    with destination.open(part.file) as file:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk


def _shard(job_id: str, part: Part) -> Shard:
    name = _name(part)
    return Shard(
        name=name,
        rows=part.rows,
        bytes=part.bytes,
        sha256=part.sha256,
        verdicts=part.verdicts,
        url=f"{PREFIX}/{job_id}/shards/{name}",
    )


def _name(part: Part) -> str:
    return part.file.rpartition("/")[2]
