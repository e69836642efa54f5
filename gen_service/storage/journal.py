"""The journal: where a completion becomes durable."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

from gen_service.errors import JournalCorrupt, StorageError
from gen_service.records import Trace
from gen_service.storage import codec, frames, segments
from gen_service.storage.disk_space import SpaceWaiter, make_folder
from gen_service.storage.frames import ORIGIN, JournalPosition
from gen_service.storage.watermark import Watermark

GROUP_ROWS = 256
GROUP_BYTES = 4 * 1024 * 1024
GATHER_S = 0.05
SEGMENT_BYTES = 256 * 1024 * 1024
# Of all journals of the process: there are as many as write at once, a few, where one for each of 200 jobs would be
# 200 that want the interpreter. On a full disk each journal holds one.
_THREADS = ThreadPoolExecutor(256, thread_name_prefix="journal")

_Waiting = tuple[Trace, int, "asyncio.Future[JournalPosition]"]


class Journal:
    """Durable, append-only rows on a local disk, written in groups, one at a time, by a few threads for all journals.

    The whole rule of a group: it is written when the one before it is durable and either that one was begun GATHER_S
    ago, or GROUP_ROWS rows or GROUP_BYTES wait. So a lone row is written at once, and a stream of rows costs at most
    20 small commits a second (at 1,000 rows/s a quarter of the CPU time of committing without a pause). A row is
    acknowledged when fdatasync of its group has returned. A full disk acknowledges nothing and fails nothing: the
    rows wait in memory. Any other disk error fails every row that waits and all later ones, since nothing is known
    about the file any more.

    A run writes only segments that it made itself, so a damaged end of an earlier run is never written behind.

    Args:
        folder: on a local disk; made if it is missing.
        space: what a full disk does.
        watermark: is told of each row when it is durable, before its acknowledgement.
        covered: rows before this are published: they are not read, and segments wholly before it are deleted.

    Raises:
        JournalCorrupt: a frame that acknowledged rows follow is damaged.
    """

    def __init__(
        self,
        folder: Path,
        space: SpaceWaiter,
        watermark: Watermark,
        *,
        covered: JournalPosition = ORIGIN,
        gather_s: float = GATHER_S,
        segment_bytes: int = SEGMENT_BYTES,
    ) -> None:
        self._folder = folder
        self._space = space
        self._watermark = watermark
        self._covered = covered
        self._gather_s = gather_s
        self._segment_bytes = segment_bytes
        self._bytes: dict[int, int] = {}
        make_folder(folder)
        self.release(covered)
        self._earlier = segments.segment_numbers(folder)
        self.torn_bytes = sum(segments.repair(*self._part_to_read(number)) for number in self._earlier)
        self._bytes |= {number: segments.segment_path(folder, number).stat().st_size for number in self._earlier}
        self._next_number = max([0, covered.segment, *self._earlier]) + 1
        self._segment: segments.SegmentWriter | None = None
        self._waiting: deque[_Waiting] = deque()
        self._waiting_bytes = 0
        self._writing = 0
        self._due = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._written: asyncio.Future[None] | None = None
        self._failure: BaseException | None = None

    @property
    def size(self) -> int:
        """Bytes of its segments on disk."""
        return sum(list(self._bytes.values()))

    @property
    def waiting_rows(self) -> int:
        """Rows that are appended and not yet durable."""
        return len(self._waiting) + self._writing

    async def append(self, trace: Trace) -> JournalPosition:
        """Write one row; it is durable when this returns. If the caller is cancelled it may still be written.

        Raises:
            StorageError: the disk failed, or the journal is closed.
        """
        if self._failure is not None:
            raise StorageError(f"the journal takes no more rows: {self._failure}") from self._failure
        loop = asyncio.get_running_loop()
        future: asyncio.Future[JournalPosition] = loop.create_future()
        size = codec.approximate_bytes(trace)
        self._waiting.append((trace, size, future))
        self._waiting_bytes += size
        self._schedule(loop)
        return await future

    def replay(self) -> Iterator[tuple[JournalPosition, Trace]]:
        """The rows of earlier runs that lie at or after `covered`, in order, one frame in memory at a time."""
        for number in self._earlier:
            path, start = self._part_to_read(number)
            for offset, frame in segments.read_frames(path, start):
                try:
                    rows = frames.unpack(frame)
                except frames.NewerFrame as error:
                    raise JournalCorrupt(f"{path} at byte {offset}: {error}") from error
                for index, row in enumerate(rows):
                    position = JournalPosition(number, offset, index)
                    if position >= self._covered:
                        yield position, codec.decode(row)

    def release(self, low: JournalPosition) -> None:
        """Delete the segments that lie wholly before `low`."""
        for number in segments.segment_numbers(self._folder):
            if number < low.segment:
                segments.segment_path(self._folder, number).unlink()
                self._bytes.pop(number, None)

    async def close(self) -> None:
        """Write what waits, then close. Rows appended later fail."""
        while self._failure is None and (self._waiting or self._written is not None):
            if self._written is None:
                self._start_group(asyncio.get_running_loop())
            else:
                await asyncio.wait({self._written})
        self._failure = self._failure or StorageError("it is closed")
        if self._segment is not None:
            self._segment.close()
            self._segment = None

    def _part_to_read(self, number: int) -> tuple[Path, int]:
        offset = self._covered.offset if number == self._covered.segment else 0
        return segments.segment_path(self._folder, number), offset

    def _schedule(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._written is not None or not self._waiting:
            return
        is_full = len(self._waiting) >= GROUP_ROWS or self._waiting_bytes >= GROUP_BYTES
        if is_full or loop.time() >= self._due:
            self._start_group(loop)
        elif self._timer is None:
            self._timer = loop.call_at(self._due, self._start_group, loop)

    def _start_group(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._due = loop.time() + self._gather_s
        group = self._take_group()
        self._writing = len(group)
        self._written = loop.create_future()
        _THREADS.submit(self._write_group, loop, group)

    def _take_group(self) -> list[_Waiting]:
        rows, size = 0, 0
        for _, row_bytes, _ in islice(self._waiting, GROUP_ROWS):
            if rows and size + row_bytes > GROUP_BYTES:
                break
            rows, size = rows + 1, size + row_bytes
        self._waiting_bytes -= size
        return [self._waiting.popleft() for _ in range(rows)]

    def _write_group(self, loop: asyncio.AbstractEventLoop, group: list[_Waiting]) -> None:
        """Runs in one of the threads."""
        result: list[JournalPosition] | BaseException
        try:
            result = self._commit([codec.encode(trace) for trace, _, _ in group])
        except BaseException as error:
            result = error
        loop.call_soon_threadsafe(self._finish_group, loop, group, result)

    def _commit(self, rows: list[bytes]) -> list[JournalPosition]:
        frame = frames.pack(rows)
        if self._segment is not None and self._segment.end >= self._segment_bytes:
            self._segment.close()
            self._segment = None
        if self._segment is None:
            self._segment = segments.SegmentWriter(self._folder, self._next_number, self._space)
            self._next_number += 1
        offset = self._segment.append(frame)
        self._bytes[self._segment.number] = self._segment.end
        positions = [JournalPosition(self._segment.number, offset, index) for index in range(len(rows))]
        self._watermark.opened(positions, JournalPosition(self._segment.number, self._segment.end, 0))
        return positions

    def _finish_group(
        self, loop: asyncio.AbstractEventLoop, group: list[_Waiting], result: list[JournalPosition] | BaseException
    ) -> None:
        if self._written is not None:
            self._written.set_result(None)
            self._written = None
        self._writing = 0
        if isinstance(result, BaseException):
            self._fail(group, result)
            return
        for (_, _, future), position in zip(group, result, strict=True):
            if not future.done():
                future.set_result(position)
        self._schedule(loop)

    def _fail(self, group: list[_Waiting], error: BaseException) -> None:
        self._failure = error
        for _, _, future in (*group, *self._waiting):
            if not future.done():
                future.set_exception(error)
        self._waiting.clear()
