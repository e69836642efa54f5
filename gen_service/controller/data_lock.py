"""One service for each data folder."""

from __future__ import annotations

from pathlib import Path

from gen_service.errors import JobLocked, StorageError
from gen_service.storage.job_lock import JobLock


def locked(folder: Path) -> JobLock:
    """The one lock of a data folder.

    Raises:
        StorageError: another service has it.
    """
    try:
        return JobLock(folder / "service.lock")
    except JobLocked as error:
        raise StorageError(f"data.folder: {error}; expected a folder that no other service uses") from error
