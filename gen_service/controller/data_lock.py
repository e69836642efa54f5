"""One service for each data folder, and one folder for each database."""

from __future__ import annotations

import os
import uuid
from pathlib import Path

from gen_service.errors import JobLocked, StorageError
from gen_service.storage.disk_space import sync_folder
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


def folder_id(folder: Path) -> str:
    """What tells a data folder from any other, also when it was moved: made at the first start.

    For who holds the folder's lock.
    """
    path = folder / "folder.id"
    if not path.exists():
        part = path.with_suffix(".part")
        with part.open("w", encoding="ascii") as file:
            file.write(uuid.uuid4().hex)
            file.flush()
            os.fsync(file.fileno())
        part.rename(path)
        sync_folder(folder)
    return path.read_text(encoding="ascii").strip()
