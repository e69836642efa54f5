"""What happens when the disk is full: the work waits, says so once, and goes on by itself."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from gen_service.errors import StorageError

Result = TypeVar("Result")

RETRY_S = 1.0
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class SpaceWaiter:
    """Repeats a write until there is room for it.

    The whole rule: a full disk (ENOSPC, EDQUOT, EFBIG) calls `on_pause` once, then the write is tried again every
    second until it succeeds, then `on_resume` is called. After `give_up` a full disk is a StorageError, as any other
    OSError always is. Used from worker threads; the callbacks run there.

    Args:
        on_pause, on_resume: told once per pause, with a sentence for people.
        wait: called with the seconds to wait; by default it waits and returns early at `give_up`.
    """

    def __init__(
        self,
        on_pause: Callable[[str], None],
        on_resume: Callable[[str], None],
        wait: Callable[[float], object] | None = None,
    ) -> None:
        self._on_pause = on_pause
        self._on_resume = on_resume
        self._giving_up = threading.Event()
        self._wait = wait or self._giving_up.wait

    def give_up(self) -> None:
        """From now on a full disk is an error."""
        self._giving_up.set()

    def write(self, what: str, attempt: Callable[[], Result]) -> Result:
        """The result of `attempt`, which must be safe to repeat after an OSError.

        Raises:
            StorageError: any OSError but a full disk, or a full disk after `give_up`.
        """
        paused = False
        while True:
            try:
                result = attempt()
            except OSError as error:
                if error.errno not in _FULL or self._giving_up.is_set():
                    raise StorageError(f"cannot write {what}: {error}") from error
                if not paused:
                    self._on_pause(f"cannot write {what}: {error.strerror}; waiting for space")
                paused = True
                self._wait(RETRY_S)
            else:
                if paused:
                    self._on_resume(f"writing {what} again")
                return result


def write_at(descriptor: int, data: bytes | memoryview, offset: int) -> None:
    """Write all of `data` at `offset`. One os.pwrite may take only a part of it, and says so only by its result."""
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, offset)
        if written == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        view = view[written:]
        offset += written


def sync_folder(path: str | os.PathLike[str]) -> None:
    """Make the names in a folder durable: a new or renamed file is not, until its folder was synced.

    Raises:
        StorageError: it failed; never worth a second try, since the failed sync may have dropped what it was to write.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        sync_file(descriptor)
    finally:
        os.close(descriptor)


def make_folder(path: Path) -> None:
    """Make a folder and those above it, durably: a file in a folder that a power cut took away is lost too."""
    if not path.is_dir():
        make_folder(path.parent)
        path.mkdir(exist_ok=True)
        sync_folder(path.parent)


def sync_file(descriptor: int) -> None:
    """Make a file durable.

    Raises:
        StorageError: it failed. A second fsync may succeed although the data of the first is lost.
    """
    try:
        os.fsync(descriptor)
    except OSError as error:
        raise StorageError(f"fsync failed: {error}") from error
