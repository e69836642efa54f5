"""New jobs: looked at, stored once however often they are asked for, and handed on."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog
from pydantic import BaseModel

from gen_service.controller.admission import Admission, request_hash
from gen_service.controller.background import Background
from gen_service.controller.prompt_sources import remove_rows
from gen_service.controller.shared import Shared
from gen_service.controller.specs import inline_path
from gen_service.store.rows import JobRow
from gen_service.wire.jobs import JobKind, JobRequest
from gen_service.wire.openai import BatchRequest

# A client that tries again does so within minutes; the same batch asked for the next day is another batch.
REPLAYED_S = 3600.0
_log = structlog.get_logger(__name__)


class Taking:
    """Takes jobs.

    Args:
        background: where storing a job goes on although its client has left.
        on_taken: given each new job, stored.
    """

    def __init__(self, shared: Shared, background: Background, on_taken: Callable[[JobRow], Awaitable[None]]) -> None:
        self._shared = shared
        self._background = background
        self._on_taken = on_taken
        self._admission = Admission(shared.settings, shared.fleet, shared.store.files)

    async def native(self, tenant: str, request: JobRequest, key: str | None) -> tuple[JobRow, bool]:
        """The job of a request, and whether it is new. Raises as `Controller.submit`."""
        replayed = await self._replayed(tenant, "native", request, key, 0.0)
        if replayed is not None:
            return replayed, False
        row = await self._admission.native(tenant, request, key, self._shared.now())
        return await self._background.finished(self._stored(row))

    async def batch(self, tenant: str, request: BatchRequest, key: str | None, is_retry: bool) -> tuple[JobRow, bool]:
        """The same of a batch. A retry without a key is the same request of the last hour, if there was one."""
        if key is not None or is_retry:
            since = 0.0 if key is not None else self._shared.now() - REPLAYED_S
            replayed = await self._replayed(tenant, "batch", request, key, since)
            if replayed is not None:
                return replayed, False
        row = await self._admission.batch(tenant, request, key, self._shared.now())
        return await self._background.finished(self._stored(row))

    async def _replayed(
        self, tenant: str, kind: JobKind, request: BaseModel, key: str | None, since: float
    ) -> JobRow | None:
        """The job that the same request made before: found without looking at its prompts again."""
        if key is None and kind == "native":
            return None
        row = await self._shared.store.jobs.find_replay(tenant, kind, request_hash(request), since)
        return row if row is not None and (key is None or row.idempotency_key == key) else None

    async def _stored(self, row: JobRow) -> tuple[JobRow, bool]:
        is_new = False
        try:
            stored, is_new = await self._shared.store.jobs.create(row, self._shared.settings.quotas)
        finally:
            if not is_new:
                await asyncio.to_thread(remove_rows, inline_path(row.id, self._shared.settings))
        if is_new:
            _log.info(f"job is {stored.state}", job_id=row.id, tenant=row.tenant, kind=row.kind, model=row.model)
            await self._on_taken(stored)
        return stored, is_new
