"""What has come of unfinished completions, kept beside the journal: a run that is killed goes on from it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from gen_service.records import Partial
from gen_service.storage import partial_codec
from gen_service.storage.partial_codec import Growing, Mark
from gen_service.storage.partial_segments import SegmentFile, is_full, packed, read_rows, sweep
from gen_service.storage.segments import segment_path

# A loss of this many seconds of a killed run's tokens, on top of the interval, for one commit a second.
GATHER_S = 1.0
SEGMENT_BYTES = 64 * 1024 * 1024
GARBAGE_BYTES = 64 * 1024 * 1024
# Each run begins a segment of its own.
MOST_SEGMENTS = 64


class _Written(NamedTuple):
    mark: Mark
    row_bytes: int
    last_segment: int


class Partials:
    """Durable partial completions of one job.

    The whole rule: `keep` queues; one thread writes what is new of each, a group at most every GATHER_S, and only the
    latest of a sample. What was written of samples that are `finished`, or given anew from the beginning, is garbage;
    when there is more of it than of the rest, and more than GARBAGE_BYTES, the rest is written anew and the old files
    are deleted. After a crash each sample has the last partial that was durable; where a frame is damaged, an earlier
    one. Losing one costs tokens and nothing else: a disk that fails stops no job, partials are dropped then, and so it
    is said once. In memory are the partials of at most GATHER_S, those of earlier runs until they are gone on from,
    and some numbers for each sample in flight.

    `keep`, `finished` and `partial_of` are for one thread, and never wait for the disk.

    Args:
        folder: on a local disk; made when there is something to write, and removed when nothing is left.
        is_done: whether a sample needs no partial any more.
        on_notice: told what people should know, in any thread.
    """

    def __init__(
        self,
        folder: Path,
        is_done: Callable[[str], bool],
        on_notice: Callable[[str], None],
        *,
        gather_s: float = GATHER_S,
        segment_bytes: int = SEGMENT_BYTES,
        garbage_bytes: int = GARBAGE_BYTES,
    ) -> None:
        self._folder = folder
        self._on_notice = on_notice
        self._gather_s = gather_s
        self._segment_bytes = segment_bytes
        self._garbage_bytes = garbage_bytes
        self._said_it_fails = False
        # Of the caller's thread.
        self._restored: dict[str, Partial] = {}
        self._known: set[str] = set()
        # Of both.
        self._wake = threading.Condition()
        self._waiting: dict[str, Partial] = {}
        self._forgotten: list[str] = []
        self._is_closing = False
        self._closing = threading.Event()
        # Of the writing thread.
        self._thread: threading.Thread | None = None
        self._segment: SegmentFile | None = None
        self._written: dict[str, _Written] = {}
        self._all_bytes = 0
        self._segments: list[int] = []
        self._is_writing = False
        try:
            self._load(is_done)
        except OSError as error:
            self._fails(error)

    def partial_of(self, sample_id: str) -> Partial | None:
        """What an earlier run kept of a sample, until this run keeps more of it."""
        return self._restored.get(sample_id)

    def keep(self, partial: Partial) -> None:
        """Keep this of its sample, in about GATHER_S; it replaces what was kept before."""
        self._known.add(partial.sample_id)
        self._restored.pop(partial.sample_id, None)
        with self._wake:
            if self._is_closing:
                return
            self._waiting[partial.sample_id] = partial
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="partials", daemon=True)
                self._thread.start()
            self._wake.notify_all()

    def finished(self, sample_id: str) -> None:
        """Nothing of this sample needs to be kept any more."""
        if sample_id not in self._known:
            return
        self._known.remove(sample_id)
        self._restored.pop(sample_id, None)
        with self._wake:
            self._waiting.pop(sample_id, None)
            self._forgotten.append(sample_id)

    def flush(self) -> None:
        """Wait until what was kept so far is durable, or dropped."""
        with self._wake:
            self._wake.wait_for(lambda: not (self._waiting or self._is_writing))

    def close(self) -> None:
        """Write what waits, and let go. Waits for the disk."""
        with self._wake:
            self._is_closing = True
            self._closing.set()
            self._wake.notify_all()
        if self._thread is not None:
            self._thread.join()
        self._let_go_of_segment()
        if not self._known:
            with suppress(OSError):
                self._delete(self._segments)
                self._folder.rmdir()

    # Below: in the writing thread, or before it begins and after it ends.

    def _run(self) -> None:
        while True:
            with self._wake:
                while not (self._waiting or self._is_closing):
                    self._wake.wait()
                is_last, group, self._waiting = self._is_closing, self._waiting, {}
                # With the group, and not later: what is finished while it is being written is forgotten after that.
                forgotten, self._forgotten = self._forgotten, []
                self._is_writing = True
            for sample_id in forgotten:
                self._written.pop(sample_id, None)
            try:
                self._write(list(group.values()))
                self._rewrite_if_worth_it()
            except Exception as error:  # whatever goes wrong here, it may cost tokens and nothing else
                self._fails(error)
            with self._wake:
                self._is_writing = False
                self._wake.notify_all()
            if is_last:
                return
            self._closing.wait(self._gather_s)

    def _write(self, group: list[Partial]) -> None:
        rows: list[bytes] = []
        marks: dict[str, tuple[Mark, int]] = {}
        for partial in group:
            before = self._written.get(partial.sample_id)
            try:
                record, mark = partial_codec.addition(partial, None if before is None else before.mark)
            except UnicodeEncodeError:
                continue
            if before is None or mark != before.mark:
                rows.append(partial_codec.encode(record))
                earlier = 0 if before is None or record.after is None else before.row_bytes
                marks[partial.sample_id] = (mark, earlier + len(rows[-1]))
        if not rows:
            return
        if self._segment is None or self._segment.end >= self._segment_bytes:
            self._let_go_of_segment()
            self._segment = SegmentFile(self._folder, self._next_number())
            self._segments.append(self._segment.number)
        self._segment.append(packed(rows))
        number = self._segment.number
        self._written |= {sample_id: _Written(*one, number) for sample_id, one in marks.items()}
        self._all_bytes += sum(map(len, rows))
        if self._said_it_fails:
            self._said_it_fails = False
            self._on_notice("unfinished answers are kept on disk again")

    def _let_go_of_segment(self) -> None:
        segment, self._segment = self._segment, None
        if segment is not None:
            with suppress(OSError):
                segment.close()

    def _next_number(self) -> int:
        return max(self._segments, default=0) + 1

    def _fails(self, error: Exception) -> None:
        """What was to be written is dropped. But for a full disk, nothing is known of the file any more: what goes on
        from it begins from nothing, in another one."""
        if self._segment is not None and not (isinstance(error, OSError) and is_full(error)):
            number = self._segment.number
            self._written = {key: one for key, one in self._written.items() if one.last_segment != number}
            self._let_go_of_segment()
        if not self._said_it_fails:
            self._said_it_fails = True
            self._on_notice(f"unfinished answers are not kept on disk for now, the job goes on: {error}")

    def _rewrite_if_worth_it(self) -> None:
        live = sum(one.row_bytes for one in self._written.values())
        garbage = self._all_bytes - live
        if garbage <= max(live, self._garbage_bytes) and len(self._segments) <= MOST_SEGMENTS:
            return
        try:
            self._rewrite()
        except BaseException:
            # Lest every group tries again.
            self._garbage_bytes = 2 * garbage
            raise

    def _rewrite(self) -> None:
        """Write what is still needed into a new segment, whole or not at all, and delete the old ones."""
        self._let_go_of_segment()
        old, number = self._segments, self._next_number()
        new = SegmentFile(self._folder, number, is_rewritten=True)
        try:
            new.append(packed(self._needed_rows(old)))
            new.finish()
        except BaseException:
            new.remove()
            raise
        new.close()
        self._segments = [number]
        self._written = {key: one._replace(last_segment=number) for key, one in self._written.items()}
        self._all_bytes = sum(one.row_bytes for one in self._written.values())
        self._delete(old)

    def _needed_rows(self, segments: list[int]) -> Iterator[bytes]:
        for number in segments:
            for row in read_rows(segment_path(self._folder, number), _ignore):
                if partial_codec.sample_id_of(row) in self._written:
                    yield row

    def _delete(self, segments: list[int]) -> None:
        for number in segments:
            segment_path(self._folder, number).unlink(missing_ok=True)

    def _load(self, is_done: Callable[[str], bool]) -> None:
        growing: dict[str, Growing] = {}
        written: dict[str, _Written] = {}
        done: dict[str, bool] = {}
        damage: list[str] = []
        self._segments = sweep(self._folder)
        for number in self._segments:
            for row in read_rows(segment_path(self._folder, number), damage.append):
                self._all_bytes += len(row)
                try:
                    record = partial_codec.decode(row)
                except ValueError as error:
                    damage.append(str(error))
                    continue
                sample_id = record.sample_id
                if sample_id not in done:
                    done[sample_id] = is_done(sample_id)
                if done[sample_id]:
                    continue
                if record.after is None:
                    growing[sample_id] = Growing(record)
                    written[sample_id] = _Written(growing[sample_id].mark, len(row), number)
                elif sample_id in growing and growing[sample_id].add(record):
                    so_far = written[sample_id].row_bytes
                    written[sample_id] = _Written(growing[sample_id].mark, so_far + len(row), number)
        if damage:
            words = f"{len(damage)} damaged pieces of unfinished answers are passed over: those begin anew, or earlier"
            self._on_notice(f"{words} ({damage[0]})")
        self._restored = {sample_id: one.partial() for sample_id, one in growing.items()}
        self._known = set(self._restored)
        self._written = written


def _ignore(_: str) -> None:
    return
