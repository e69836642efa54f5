"""What a start finds: files that belong to nobody, and jobs that had not ended."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

import structlog

from gen_service.controller.dispatch import Dispatcher
from gen_service.controller.shared import Shared
from gen_service.controller.specs import INLINE
from gen_service.controller.validation import Validations
from gen_service.errors import NotFound
from gen_service.store.rows import JobRow

_log = structlog.get_logger(__name__)
PART = ".part"


@dataclass(frozen=True, slots=True)
class Leftover:
    """A file that belongs to nobody, removed."""

    name: str
    bytes: int


async def sweep_uploads(shared: Shared, before: float) -> None:
    """Remove uploads that never ended and files without a row; each is logged and counted.

    Args:
        before: of this start, seconds since the epoch: what was written later is left.
    """
    known = await shared.store.files.all_ids()
    for leftover in await asyncio.to_thread(_swept, shared.settings.data.uploads, known, before):
        _log.warning("an upload was abandoned", name=leftover.name, bytes=leftover.bytes)
        if leftover.name.endswith(PART):
            shared.metrics.observe_upload("abandoned", leftover.bytes)


async def sweep_inline_prompts(shared: Shared, before: float) -> None:
    """Remove rows of requests that never became jobs."""
    folder = shared.settings.data.folder / INLINE
    for path in await asyncio.to_thread(_older, folder, before):
        try:
            await shared.store.jobs.get(path.stem, None)
        except NotFound:
            _log.warning("prompts without a job", name=path.name)
            await asyncio.to_thread(path.unlink, missing_ok=True)


async def take_up(
    shared: Shared, dispatcher: Dispatcher, validations: Validations, on_deadline: Callable[[JobRow], None]
) -> None:
    """Every job that has not ended goes on from its state; a paused one rests."""
    for row in await shared.store.jobs.unfinished():
        on_deadline(row)
        if row.state == "validating":
            validations.start(row)
        elif row.state == "queued":
            await dispatcher.enqueue(row)
        elif row.state == "running":
            moved = await shared.moves.move(row.id, "requeue", reason="the service ended while it ran")
            await dispatcher.enqueue(moved)
        elif row.state != "paused":
            dispatcher.finish(row)


def _swept(folder: Path, known: Collection[str], before: float) -> list[Leftover]:
    swept = []
    for path in _older(folder, before):
        if path.name not in known:
            swept.append(Leftover(path.name, path.stat().st_size))
            path.unlink()
    return swept


def _older(folder: Path, before: float) -> list[Path]:
    if not folder.is_dir():
        return []
    return [path for path in folder.iterdir() if path.is_file() and path.stat().st_mtime < before]
