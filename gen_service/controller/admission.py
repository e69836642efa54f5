"""What is looked at before a job is taken: who is refused here learns why at once, and nothing is left behind."""

from __future__ import annotations

import asyncio
import hashlib
import json
import shutil
from dataclasses import dataclass, replace
from typing import Any, Protocol

from pydantic import BaseModel

from gen_service.controller.engine_fields import engine_field
from gen_service.controller.paths import allowed_dataset, allowed_output, allowed_prompt_path
from gen_service.controller.prompt_sources import check_first_row, counted, remove_rows, write_rows
from gen_service.controller.specs import (
    batch_spec,
    inline_path,
    native_spec,
    prompt_section,
    spec_of,
    without_paths,
)
from gen_service.controller.webhook_addresses import check_webhook_url
from gen_service.controller.webhook_signatures import check_webhook_secret
from gen_service.errors import InvalidRequest, NotFound, SpecError, Unavailable
from gen_service.service_settings import ServiceSettings
from gen_service.storage.disk_space import make_folder
from gen_service.store.files import Files
from gen_service.store.ids import new_id
from gen_service.store.rows import FileRow, JobRow
from gen_service.verification import kinds
from gen_service.wire.jobs import JobRequest, PromptSource
from gen_service.wire.openai import BatchRequest

# Servers are probed every second or so, and start in minutes.
NO_SERVER_S = 10.0
NO_SPACE_S = 60.0
WINDOW_S = {"h": 3600.0, "d": 86_400.0}


class Serves(Protocol):
    """What admission needs of the fleet."""

    def models(self) -> dict[str, int | None]:
        """The models that servers offer, with the longest context of each in tokens."""
        ...


class Admission:
    """Makes rows of requests, or says why not.

    Args:
        fleet: says which models there are.
        files: of the store.
    """

    def __init__(self, settings: ServiceSettings, fleet: Serves, files: Files) -> None:
        self._settings = settings
        self._fleet = fleet
        self._files = files

    async def native(self, tenant: str, request: JobRequest, idempotency_key: str | None, now: float) -> JobRow:
        """The row of a job. Rows that the request brings along are on disk when this returns.

        Raises:
            InvalidRequest: a field is wrong; named as the request has it.
            Unavailable: no server answers, or the disk is nearly full.
        """
        job_id = new_id("job-")
        if request.webhook is not None:
            check_webhook_url(request.webhook.url, self._settings.webhooks)
            check_webhook_secret(request.webhook.secret)
        if (name := engine_field(request.sampling.extra)) is not None:
            words = f"sampling.extra: got {name!r}, which only the operator may set; expected fields of sampling"
            raise InvalidRequest(words, field="sampling.extra")
        found = await self._found(tenant, request.prompts)
        output = await self._output(request)
        prompts = prompt_section(job_id, request.prompts, found, self._settings.uploads.max_line_bytes)
        model = self._model(request)
        row = _native_row(
            _Asked(job_id, tenant, idempotency_key, now),
            request,
            native_spec(tenant, request, model, prompts, output),
            _lines_of(request.prompts, found),
        )
        await self.check_space()
        try:
            await asyncio.to_thread(kinds.found, spec_of(row, self._settings).verification)
            return await self._with_prompts(row, request)
        except SpecError as error:
            raise in_request_terms(error, request.prompts, self._settings) from error

    async def batch(self, tenant: str, request: BatchRequest, idempotency_key: str | None, now: float) -> JobRow:
        """The row of a batch, whose file is looked through later.

        Raises:
            InvalidRequest: the file is not there, or is no batch file.
            Unavailable: the disk is nearly full.
        """
        file = await self._file(tenant, request.input_file_id, "batch", "input_file_id")
        await self.check_space()
        window = float(request.completion_window[:-1]) * WINDOW_S[request.completion_window[-1]]
        spec = batch_spec(tenant, request, None, self._settings.uploads.max_line_bytes)
        asked = _Asked(new_id("batch_"), tenant, idempotency_key, now)
        return _batch_row(asked, request, spec, file.lines, now + window)

    async def check_space(self) -> None:
        """Refuse when the disk is nearly full.

        Raises:
            Unavailable: says how much there is.
        """
        data = self._settings.data
        await asyncio.to_thread(make_folder, data.folder)
        free = (await asyncio.to_thread(shutil.disk_usage, data.folder)).free
        if free < data.min_free_bytes:
            words = f"{free} bytes are free for data, and {data.min_free_bytes} must be for a job to be taken"
            raise Unavailable(words, code="no_space", retry_after_s=NO_SPACE_S)

    async def _found(self, tenant: str, source: PromptSource) -> FileRow | str | None:
        """The upload, or the path, that the prompts come from."""
        data = self._settings.data
        if source.dataset is not None and not data.allow_hub:
            words = f"prompts.dataset: got {source.dataset!r}; this service takes no data sets by name: upload a file"
            raise InvalidRequest(words, field="prompts.dataset")
        if source.dataset is not None:
            await asyncio.to_thread(allowed_dataset, source.dataset)
        if source.path is not None:
            return str(await asyncio.to_thread(allowed_prompt_path, source.path, data.prompt_roots))
        if source.file_id is not None:
            return await self._file(tenant, source.file_id, "prompts", "prompts.file_id")
        return None

    async def _file(self, tenant: str, file_id: str, purpose: str, field: str) -> FileRow:
        try:
            row = await self._files.get(file_id, tenant)
        except NotFound:
            expected = "the id of an uploaded file of yours"
            raise InvalidRequest(f"{field}: got {file_id!r}; expected {expected}", field=field) from None
        if row.purpose != purpose:
            words = f"{field}: {file_id!r} was uploaded for {row.purpose!r}; expected a file with purpose {purpose!r}"
            raise InvalidRequest(words, field=field)
        return row

    async def _output(self, request: JobRequest) -> str | None:
        path = request.output.path
        if path is None:
            return None
        return await asyncio.to_thread(allowed_output, path, self._settings.data.output_roots)

    def _model(self, request: JobRequest) -> str:
        """The model that the job asks: the request's, else the operator's, else the first that is served."""
        served = self._fleet.models()
        if not served:
            words = "no server answers, so it is not known whether the job's model is served: come again"
            raise Unavailable(words, code="no_server", retry_after_s=NO_SERVER_S)
        model = request.model or self._settings.endpoints.model or next(iter(served))
        names = ", ".join(served)
        if model not in served and request.model is None:
            words = f"{model!r} is not served now; there is: {names}"
            raise Unavailable(words, code="no_server", retry_after_s=NO_SERVER_S)
        if model not in served:
            raise InvalidRequest(f"model: got {model!r}; expected one that is served: {names}", field="model")
        longest, asked = served[model], request.sampling.max_tokens
        if longest is not None and asked > longest:
            words = f"sampling.max_tokens: got {asked}; expected at most {longest}, the context length of {model}"
            raise InvalidRequest(words, field="sampling.max_tokens")
        return model

    async def _with_prompts(self, row: JobRow, request: JobRequest) -> JobRow:
        """The row, once its prompts are known to be some; it then says how many there are, where that is cheap."""
        spec, path = spec_of(row, self._settings), inline_path(row.id, self._settings)
        rows = request.prompts.rows

        def look() -> int | None:
            try:
                if rows is not None:
                    write_rows(path, rows)
                check_first_row(spec.prompts)
                return row.prompts if row.prompts is not None else counted(spec.prompts)
            except BaseException:
                if rows is not None:
                    remove_rows(path)
                raise

        prompts = await asyncio.to_thread(look)
        return replace(row, prompts=prompts, samples=None if prompts is None else prompts * request.samples)


def in_request_terms(error: SpecError, source: PromptSource, settings: ServiceSettings) -> InvalidRequest:
    """What a job spec refused, by the request's name of the field, and without the service's own paths."""
    given = next(name for name in ("rows", "file_id", "path", "dataset") if getattr(source, name) is not None)
    names = {"prompts.path": f"prompts.{given}", "endpoints.model": "model"}
    field = names.get(error.field, error.field)
    shown = getattr(source, given) if field == f"prompts.{given}" and given != "rows" else error.value
    return InvalidRequest(without_paths(f"{field}: got {shown!r}; expected {error.expected}", settings), field=field)


def request_hash(request: BaseModel) -> str:
    """Tells whether two requests are the same."""
    text = json.dumps(request.model_dump(mode="json"), sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


@dataclass(frozen=True, slots=True)
class _Asked:
    """Who asks, under which name of the job, and when."""

    job_id: str
    tenant: str
    idempotency_key: str | None
    now: float


def _native_row(asked: _Asked, request: JobRequest, spec: dict[str, Any], prompts: int | None) -> JobRow:
    shown = request.model_dump(mode="json", exclude={"webhook": {"secret"}})
    if request.prompts.rows is not None:
        # They lie in a file: a row of the database is small.
        shown["prompts"]["rows"] = len(request.prompts.rows)
    return JobRow(
        id=asked.job_id,
        tenant=asked.tenant,
        kind="native",
        state="queued",
        reason=None,
        name=request.name,
        model=spec["endpoints"]["model"],
        request=shown,
        spec=spec,
        request_hash=request_hash(request),
        idempotency_key=asked.idempotency_key,
        priority=request.priority,
        weight=request.weight,
        max_in_flight=request.max_in_flight,
        metadata=request.metadata,
        prompts=prompts,
        samples=None,
        counts={},
        created_at=asked.now,
        expires_at=None,
        times={},
        batch=None,
        webhook=None if request.webhook is None else request.webhook.model_dump(mode="json"),
    )


def _batch_row(
    asked: _Asked, request: BatchRequest, spec: dict[str, Any], lines: int | None, expires_at: float
) -> JobRow:
    return JobRow(
        id=asked.job_id,
        tenant=asked.tenant,
        kind="batch",
        state="validating",
        reason=None,
        name=None,
        model=None,
        request=request.model_dump(mode="json"),
        spec=spec,
        request_hash=request_hash(request),
        idempotency_key=asked.idempotency_key,
        priority=0,
        weight=1.0,
        max_in_flight=None,
        metadata=request.metadata or {},
        prompts=lines,
        samples=None,
        counts={},
        created_at=asked.now,
        expires_at=expires_at,
        times={},
        batch={},
        webhook=None,
    )


def _lines_of(source: PromptSource, found: FileRow | str | None) -> int | None:
    """Rows that are known without looking: those brought along, and the lines of an upload."""
    if source.rows is not None:
        rows: int | None = len(source.rows)
    else:
        rows = found.lines if isinstance(found, FileRow) else None
    return rows if rows is None or source.limit is None else min(rows, source.limit)
