"""Batches on their way into the queue: each input file is read through, and the batch is accepted or fails."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from gen_service.controller.batches import BatchCheck, validate_batch
from gen_service.controller.shared import Shared
from gen_service.errors import Conflict
from gen_service.store.jobs import JobChanges
from gen_service.store.rows import JobRow
from gen_service.wire.openai import BatchError

# Reading a file through keeps a core busy; the others are for jobs.
VALIDATED_AT_ONCE = 2
_log = structlog.get_logger(__name__)


class Validations:
    """The batches that are being validated.

    Args:
        on_accepted: told of each that is good; its row says `queued`.
    """

    def __init__(self, shared: Shared, on_accepted: Callable[[JobRow], Awaitable[None]]) -> None:
        self._shared = shared
        self._on_accepted = on_accepted
        self._places = asyncio.Semaphore(VALIDATED_AT_ONCE)
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def start(self, row: JobRow) -> None:
        """Validate a batch in the background."""
        task = self._tasks[row.id] = asyncio.create_task(self._validate(row))
        task.add_done_callback(lambda _: self._over(row.id, task))

    def cancel(self, job_id: str) -> None:
        """Stop validating it, if that is under way; its row stays as it is."""
        task = self._tasks.get(job_id)
        if task is not None:
            task.cancel()

    async def close(self) -> None:
        """Stop all; the next start begins them anew."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _validate(self, row: JobRow) -> None:
        async with self._places:
            check = await self._check(row)
        moves = self._shared.moves
        try:
            if check.errors:
                first = check.errors[0]
                where = "" if first.line is None else f"line {first.line}: "
                errors = [error.model_dump(mode="json") for error in check.errors]
                batch = {**(row.batch or {}), "errors": errors}
                await moves.move_surely(row.id, "fail", reason=f"{where}{first.message}", batch=batch)
            else:
                spec = row.spec | {"endpoints": {"model": check.model}}
                found: JobChanges = {
                    "prompts": check.lines,
                    "samples": check.samples,
                    "model": check.model,
                    "spec": spec,
                }
                await self._on_accepted(await moves.move_surely(row.id, "accept", **found))
        except Conflict as conflict:
            _log.info("validated in vain", job_id=row.id, because=str(conflict))

    async def _check(self, row: JobRow) -> BatchCheck:
        settings, request = self._shared.settings, row.request
        path = settings.data.uploads / request["input_file_id"]
        served = self._shared.fleet.models()
        try:
            return await validate_batch(path, request["endpoint"], served, settings.uploads)
        except OSError as error:
            words = f"the input file cannot be read: {error.strerror}"
            return BatchCheck(0, 0, None, (BatchError(code="file_unreadable", message=words, param="input_file_id"),))

    def _over(self, job_id: str, task: asyncio.Task[None]) -> None:
        del self._tasks[job_id]
        if not task.cancelled() and (failure := task.exception()) is not None:
            _log.error("a batch could not be validated: it is tried again at the next start", exc_info=failure)
