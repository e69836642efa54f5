"""One writer per job: a lock that the kernel lets go of when the process dies."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from gen_service.errors import JobLocked
from gen_service.storage.disk_space import make_folder


class JobLock:
    """An exclusive flock on a file that holds the owner's process id.

    Raises:
        JobLocked: another process has it; names the process.
    """

    def __init__(self, path: Path) -> None:
        make_folder(path.parent)
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            owner = os.pread(self._descriptor, 32, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(self._descriptor)
            raise JobLocked(f"{path.parent} is being written by process {owner}") from error
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Let another process have it. The file stays: deleting it could let two processes lock two files."""
        os.close(self._descriptor)
