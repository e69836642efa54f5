"""The journal's files: numbered segments, read frame by frame and repaired at their torn ends."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from gen_service.errors import JournalCorrupt, StorageError
from gen_service.storage import frames
from gen_service.storage.disk_space import SpaceWaiter, sync_file, sync_folder, write_at


def segment_path(folder: Path, number: int) -> Path:
    """Where segment `number` lies."""
    return folder / f"{number:06}.log"


def segment_numbers(folder: Path) -> list[int]:
    """The numbers of the segments in a folder, ascending."""
    return sorted(int(path.stem) for path in folder.glob("*.log") if path.stem.isdigit())


def read_frames(path: Path, offset: int = 0) -> Iterator[tuple[int, bytes]]:
    """The frames of one segment from `offset` on, each with its own offset, one in memory at a time.

    Raises:
        JournalCorrupt: the bytes at some offset are no intact frame.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        file.seek(offset)
        while offset < size:
            frame = file.read(frames.HEADER_BYTES)
            try:
                missing = frames.frame_bytes(frame) - len(frame)
                # A flipped length must not make us ask for gigabytes.
                frame += file.read(min(missing, size - offset))
                frames.check(frame)
            except frames.BadFrame as error:
                raise JournalCorrupt(f"{path} at byte {offset}: {error}") from error
            yield offset, frame
            offset += len(frame)


def repair(path: Path, offset: int = 0) -> int:
    """Cut off what a crash left half written at the end of a segment; the number of bytes cut.

    A bad frame is a torn end only when no intact frame follows it: one commit is one frame, and the next begins only
    when that one is durable.

    Raises:
        JournalCorrupt: an intact frame follows the bad one, so rows that were acknowledged are damaged.
    """
    good = min(offset, path.stat().st_size)
    try:
        for start, frame in read_frames(path, offset):
            good = start + len(frame)
    except JournalCorrupt:
        with path.open("rb+") as file:
            file.seek(good)
            rest = file.read()
            if frames.find_intact(rest, 1) is not None:
                raise
            file.truncate(good)
            sync_file(file.fileno())
        return len(rest)
    return 0


class SegmentWriter:
    """Appends frames to one new segment; each is durable when `append` returns.

    A frame that could not be written whole leaves nothing behind: the segment is cut back to the last good frame.
    """

    def __init__(self, folder: Path, number: int, space: SpaceWaiter) -> None:
        self.number = number
        self.end = 0
        self._space = space
        self._path = segment_path(folder, number)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        self._descriptor = space.write(str(self._path), lambda: os.open(self._path, flags, 0o644))
        sync_folder(folder)

    def append(self, frame: bytes) -> int:
        """Write one frame and make it durable; its offset.

        Raises:
            StorageError: the disk failed, other than by being full.
        """
        offset = self.end
        self._space.write(str(self._path), lambda: self._attempt(frame))
        self.end += len(frame)
        return offset

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._descriptor)

    def _attempt(self, frame: bytes) -> None:
        try:
            write_at(self._descriptor, frame, self.end)
            os.fdatasync(self._descriptor)
        except OSError:
            self._cut()
            raise

    def _cut(self) -> None:
        try:
            os.ftruncate(self._descriptor, self.end)
        except OSError as error:
            raise StorageError(f"cannot cut {self._path} back to byte {self.end}: {error}") from error
