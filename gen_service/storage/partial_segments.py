"""The files of partial completions: numbered segments of frames, read as far as they are good, and written in groups.

They hold nothing that cannot be generated again, so nothing here is ever a reason to stop a job: what is damaged is
passed over, and what cannot be written is dropped by the caller.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import zstandard

from gen_service.errors import JournalCorrupt
from gen_service.storage import frames
from gen_service.storage.disk_space import make_folder, sync_folder, write_at
from gen_service.storage.segments import read_frames, segment_numbers, segment_path

FRAME_BYTES = 4 * 1024 * 1024
# A rewritten segment until it is whole.
_UNFINISHED = ".new"


def read_rows(path: Path, on_damage: Callable[[str], None]) -> Iterator[bytes]:
    """The rows of a segment's intact frames, one frame in memory at a time.

    Args:
        on_damage: told what was passed over; an end that a crash left half written is none.
    """
    offset, size = 0, path.stat().st_size
    while offset < size:
        try:
            for start, frame in read_frames(path, offset):
                offset = start + len(frame)
                try:
                    rows = frames.unpack(frame)
                except (frames.NewerFrame, frames.BadFrame, zstandard.ZstdError) as error:
                    on_damage(f"{path} at byte {start}: {error}")
                    continue
                yield from map(bytes, rows)
        except JournalCorrupt as error:
            with path.open("rb") as file:
                file.seek(offset)
                found = frames.find_intact(file.read(), 1)
            if found is None:
                return
            on_damage(str(error))
            offset += found


def packed(rows: Iterable[bytes]) -> Iterator[bytes]:
    """Rows as frames of bounded size, in order."""
    group: list[bytes] = []
    size = 0
    for row in rows:
        if group and size + len(row) > FRAME_BYTES:
            yield frames.pack(group)
            group, size = [], 0
        group.append(row)
        size += len(row)
    if group:
        yield frames.pack(group)


class SegmentFile:
    """One segment that is being written. Any OSError leaves it as long as it was, or raises again in `close`."""

    def __init__(self, folder: Path, number: int, *, is_rewritten: bool = False) -> None:
        self.number = number
        self.end = 0
        self._folder = folder
        make_folder(folder)
        self._name = segment_path(folder, number)
        self._path = self._name.with_suffix(_UNFINISHED) if is_rewritten else self._name
        self._descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        if not is_rewritten:
            sync_folder(folder)

    def append(self, many: Iterable[bytes]) -> None:
        """Write frames and make them durable, all or none.

        Raises:
            OSError: nothing was added.
        """
        end = self.end
        try:
            for frame in many:
                write_at(self._descriptor, frame, end)
                end += len(frame)
            os.fdatasync(self._descriptor)
        except OSError:
            os.ftruncate(self._descriptor, self.end)
            raise
        self.end = end

    def finish(self) -> None:
        """Give a rewritten segment its name: from now on it counts."""
        os.replace(self._path, self._name)
        sync_folder(self._folder)

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._descriptor)

    def remove(self) -> None:
        """Let go of the file and delete it."""
        self.close()
        self._path.unlink(missing_ok=True)


def sweep(folder: Path) -> list[int]:
    """Delete what a crash left unfinished; the numbers of the segments, ascending."""
    for leftover in folder.glob(f"*{_UNFINISHED}"):
        leftover.unlink()
    return segment_numbers(folder)


def is_full(error: OSError) -> bool:
    """Whether the disk is full: what was written before is as good as it was."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
