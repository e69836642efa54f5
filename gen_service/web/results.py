"""The rows of a job as they are published, also while it runs: pages of JSON, lines of JSON, or one Parquet file."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Annotated, Literal
from urllib.parse import urlencode

from fastapi import APIRouter, Query
from starlette.concurrency import run_in_threadpool
from starlette.responses import StreamingResponse

from gen_service.controller.specs import folder_of
from gen_service.errors import InvalidRequest
from gen_service.storage.schema import SCHEMA
from gen_service.web.auth import Reader
from gen_service.web.cursors import decode_row_cursor, encode_cursor
from gen_service.web.jobs import PREFIX, JobId
from gen_service.web.problems import documented
from gen_service.web.published import page
from gen_service.web.route import ServiceRoute
from gen_service.web.row_formats import as_lines, as_page, as_parquet, batches_of
from gen_service.web.state import ControllerDep, PublishedDep, SettingsDep
from gen_service.wire.jobs import ResultPage
from gen_service.wire.states import FINAL

Format = Literal["json", "ndjson", "parquet"]
MEDIA: dict[Format, str] = {
    "json": "application/json",
    "ndjson": "application/x-ndjson",
    "parquet": "application/vnd.apache.parquet",
}
# A page of JSON is held whole by whoever reads it; the others are read as they come.
PAGE_ROWS = 100
_CURSOR_HEADER = {"X-Next-Cursor": {"description": "Leads on from here.", "schema": {"type": "string"}}}

router = APIRouter(prefix=PREFIX, route_class=ServiceRoute, tags=["jobs"])


@router.get(
    "/{job_id}/results",
    response_class=StreamingResponse,
    responses=documented(400, 401, 403, 404, 422, 429)
    | {
        200: {
            "model": ResultPage,
            "headers": _CURSOR_HEADER,
            "content": {MEDIA["ndjson"]: {}, MEDIA["parquet"]: {"schema": {"type": "string", "format": "binary"}}},
        }
    },
)
async def results(
    job_id: JobId,
    caller: Reader,
    controller: ControllerDep,
    settings: SettingsDep,
    published: PublishedDep,
    format: Annotated[Format, Query()] = "json",
    cursor: Annotated[str | None, Query(max_length=500, description="X-Next-Cursor of the answer before.")] = None,
    limit: Annotated[
        int | None, Query(ge=1, le=1_000_000, description=f"Most rows [{PAGE_ROWS} of json, else all there are].")
    ] = None,
    columns: Annotated[list[str] | None, Query(max_length=100, description="Repeat, or separate by commas.")] = None,
) -> StreamingResponse:
    """Rows in the order of publishing. A cursor stays good: asked again later, it gives what came after."""
    row = await controller.store.jobs.get(job_id, caller.reach)
    start = (0, 0) if cursor is None else decode_row_cursor(cursor)
    names = _names(columns)
    found = await published.of(folder_of(row, settings))
    slices, end = page(found.parts, start, limit if limit is not None or format != "json" else PAGE_ROWS)
    after = encode_cursor(*end)
    batches = batches_of(found.destination, slices, names)
    match format:
        case "json":
            is_all = row.state in FINAL and end == (len(found.parts), 0)
            pieces = as_page(batches, None if is_all else after)
        case "ndjson":
            pieces = as_lines(batches)
        case "parquet":
            pieces = as_parquet(batches, names)
    headers = {"X-Next-Cursor": after, "Link": _link(job_id, format, after, limit, columns)}
    if format == "parquet":
        headers["Content-Disposition"] = f'attachment; filename="{job_id}.parquet"'
    return StreamingResponse(await _begun(pieces), headers=headers, media_type=MEDIA[format])


async def _begun(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """With the first piece made, so that a file that is not there is an error and not a torn answer."""
    first = await run_in_threadpool(next, pieces, b"")
    return chain([first], pieces)


def _names(columns: list[str] | None) -> list[str]:
    """The columns asked for, each once."""
    if columns is None:
        return list(SCHEMA.names)
    names = list(dict.fromkeys(name for given in columns for name in given.split(",")))
    for name in names:
        if name not in SCHEMA.names:
            expected = ", ".join(SCHEMA.names)
            raise InvalidRequest(f"columns: got {name[:100]!r}; expected some of {expected}", field="columns")
    return names


def _link(job_id: str, format: Format, after: str, limit: int | None, columns: list[str] | None) -> str:
    given = {"format": format, "limit": limit, "columns": columns, "cursor": after}
    query = urlencode({name: value for name, value in given.items() if value is not None}, doseq=True)
    return f'<{PREFIX}/{job_id}/results?{query}>; rel="next"'
