"""Keeps what running jobs count: points for their rates, and their rows up to date."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import structlog

from gen_service.controller.run import Run
from gen_service.errors import NotFound, Unavailable
from gen_service.store.jobs import Jobs

LOOK_S = 1.0
# After a kill the rows show at most this old numbers, until the job runs again.
STORED_EVERY = 5
_log = structlog.get_logger(__name__)


async def keep_books(jobs: Jobs, running: Mapping[str, Run]) -> None:
    """Look at each running job every second and store its counts every few, until cancelled."""
    stored: dict[str, dict[str, Any]] = {}
    while True:
        for _ in range(STORED_EVERY):
            await asyncio.sleep(LOOK_S)
            for run in running.values():
                run.look()
        stored = {job_id: counts for job_id, counts in stored.items() if job_id in running}
        for run in list(running.values()):
            if run.running is not None and run.report is None:
                await _store(jobs, run, stored)


async def _store(jobs: Jobs, run: Run, stored: dict[str, dict[str, Any]]) -> None:
    row, counts = run.row, run.counts()
    document = counts.model_dump(mode="json")
    if stored.get(row.id) == document:
        return
    per_prompt = int(row.request.get("samples", 1))
    is_new = row.kind == "native" and row.samples is None and counts.samples is not None
    try:
        await jobs.update(
            row.id,
            counts=document,
            samples=counts.samples if is_new else None,
            prompts=counts.samples // per_prompt if is_new and counts.samples is not None else None,
        )
    except (Unavailable, NotFound) as error:
        _log.warning("counts could not be stored", job_id=row.id, error=str(error))
    else:
        stored[row.id] = document
