"""Removing a job that has ended."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

from gen_service.controller.prompt_sources import remove_rows
from gen_service.controller.specs import folder_of, inline_path, is_ours
from gen_service.errors import Conflict
from gen_service.service_settings import ServiceSettings
from gen_service.store.jobs import Jobs
from gen_service.store.rows import JobRow
from gen_service.wire.states import FINAL


async def delete_job(jobs: Jobs, row: JobRow, settings: ServiceSettings) -> None:
    """Remove its traces, the rows that its request brought along, and then its own row, so that a deletion that was
    cut short can be asked for again. Traces in a place that the client named are the client's: they stay.

    Raises:
        Conflict: it has not ended.
    """
    if row.state not in FINAL:
        words = f"job {row.id} is {row.state}: cancel it before deleting it"
        raise Conflict(words, code="wrong_state")
    await asyncio.to_thread(_remove_files, row, settings)
    await jobs.delete(row.id)


def _remove_files(row: JobRow, settings: ServiceSettings) -> None:
    if is_ours(row):
        shutil.rmtree(Path(folder_of(row, settings)), ignore_errors=True)
    remove_rows(inline_path(row.id, settings))
