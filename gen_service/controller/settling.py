"""What becomes of a job whose run has ended: its states, to a resting one, and the files of a batch."""

from __future__ import annotations

from pathlib import Path

import structlog

from gen_service.controller.batch_output import write_outputs
from gen_service.controller.endings import Ending, said
from gen_service.controller.run import Run
from gen_service.controller.shared import Shared
from gen_service.controller.specs import folder_of, spec_of, without_paths
from gen_service.errors import Conflict, SpecError, StorageError
from gen_service.store.jobs import JobChanges
from gen_service.store.rows import JobRow

_log = structlog.get_logger(__name__)


async def settle(shared: Shared, row: JobRow, ending: Ending, run: Run | None) -> JobRow:
    """Move the job on until nothing follows from how its run ended; waits for a database that is away.

    A row that changed meanwhile is looked at again, and so is one whose move happened although the connection broke:
    so each step is decided by the row as it is.

    Args:
        run: the run that ended; its counts are stored with each move.

    Returns:
        The row at rest: ended, paused, queued, or as it is where the next start has to go on.
    """
    while True:
        row = await shared.moves.row(row.id)
        decided = ending.event(row.state)
        if decided is None:
            return row
        event, reason = decided
        changes: JobChanges = {}
        if run is not None and run.running is not None:
            changes["counts"] = run.counts().model_dump(mode="json")
        if event == "ended" and row.kind == "batch":
            try:
                changes["batch"] = await _outputs(shared, row)
            except (StorageError, SpecError, OSError) as failure:
                event, reason = "fail", f"its files could not be written: {said(failure)}"
        reason = None if reason is None else without_paths(reason, shared.settings)
        try:
            await shared.moves.move_surely(row.id, event, reason=reason, **changes)
        except Conflict as conflict:
            _log.info("looked at again", job_id=row.id, because=str(conflict))


async def _outputs(shared: Shared, row: JobRow) -> dict[str, object]:
    spec = spec_of(row, shared.settings)

    def notice(words: str) -> None:
        _log.warning("notice", job_id=row.id, words=words)

    return await write_outputs(
        row,
        folder_of(row, shared.settings),
        Path(spec.prompts.path),
        shared.settings.data.uploads,
        shared.store.files,
        shared.now(),
        notice,
    )
