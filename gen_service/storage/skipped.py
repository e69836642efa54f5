"""Samples that are not made, on disk: each in one row of a Parquet part under `skipped/`, with the reason."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from gen_service.errors import SpecError
from gen_service.records import Skipped
from gen_service.storage import manifest
from gen_service.storage.arrow_arrays import array_of
from gen_service.storage.destination import Destination, open_destination
from gen_service.storage.disk_space import SpaceWaiter
from gen_service.storage.manifest import SKIPPED_FOLDER, SkippedPart
from gen_service.storage.part_file import PartFile
from gen_service.storage.part_reader import open_part
from gen_service.storage.surrogates import scrub

SKIPPED_VERSION = 1
VERSION_KEY = b"gen_service.skipped_version"
SCHEMA = pa.schema(
    [
        ("job_id", pa.string()),
        ("sample_id", pa.string()),
        ("prompt_id", pa.string()),
        ("sample_index", pa.int32()),
        ("reason", pa.string()),
    ],
    metadata={VERSION_KEY: str(SKIPPED_VERSION).encode()},
)
# A few MB in memory, with the ids.
BATCH_ROWS = 16_384
_REPEATED_COLUMNS = ["job_id", "prompt_id", "reason"]


class SkipWriter:
    """Gathers skipped samples and writes them as parts.

    The whole rule: what was added is in the parts that the next `write` gives, whoever calls it for a commit;
    `within_s` seconds after the first row, `on_due` asks for one. BATCH_ROWS rows are written before that and wait as
    a file. What was written and not committed is nowhere: after a crash its samples are decided upon again.

    Args:
        destination: where the parts go.
        epoch: of this run; in the parts' names.
        within_s: seconds that a row may wait for a commit.
        in_turn: has work done by the thread that calls `write`; called in the event loop's thread.
        on_due: called in the event loop's thread.
    """

    def __init__(
        self,
        destination: Destination,
        job_id: str,
        epoch: int,
        within_s: float,
        space: SpaceWaiter,
        in_turn: Callable[[Callable[[], None]], None],
        on_due: Callable[[], None],
    ) -> None:
        self._destination = destination
        self._job_id = job_id
        self._epoch = epoch
        self._within_s = within_s
        self._space = space
        self._in_turn = in_turn
        self._on_due = on_due
        self._lock = threading.Lock()
        self._rows: list[Skipped] = []
        self._parts: list[SkippedPart] = []
        self._written = 0
        # Counts the commits: a timer is about the rows added between two of them.
        self._turn = 0
        self._timers: dict[int, asyncio.TimerHandle] = {}

    def add(self, skipped: Skipped) -> None:
        """Take one row."""
        with self._lock:
            self._rows.append(skipped)
            rows, turn = len(self._rows), self._turn
        if turn not in self._timers:
            self._timers[turn] = asyncio.get_running_loop().call_later(self._within_s, self._look, turn)
        if rows % BATCH_ROWS == 0:
            self._in_turn(self._spill)

    def close(self) -> None:
        """Ask for no more commits."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()

    def write(self) -> tuple[SkippedPart, ...]:
        """The parts of all rows added so far, durable when this returns, for the manifest that follows; none when
        there are no rows. In any thread, one at a time.

        Raises:
            StorageError: the disk failed.
        """
        with self._lock:
            self._turn += 1
        self._spill()
        parts, self._parts = self._parts, []
        return tuple(parts)

    def _spill(self) -> None:
        with self._lock:
            rows, self._rows = self._rows, []
        if not rows:
            return
        self._written += 1
        name = f"{SKIPPED_FOLDER}/part-{self._epoch:04}-{self._written:06}.parquet"
        staged = self._destination.staging(name)
        file = PartFile(staged, self._space)
        try:
            pq.write_table(_table(self._job_id, rows), file, compression="zstd", use_dictionary=_REPEATED_COLUMNS)
            file.sync()
            file.close()
        except BaseException:
            with contextlib.suppress(OSError):
                file.close()
                staged.unlink(missing_ok=True)
            raise
        self._space.write(name, lambda: self._destination.adopt(staged, name))
        reasons = Counter(str(row.reason) for row in rows)
        self._parts.append(SkippedPart(name, len(rows), file.tell(), file.sha256.hexdigest(), dict(reasons)))

    def _look(self, turn: int) -> None:
        del self._timers[turn]
        if turn == self._turn:
            self._on_due()


def read_skipped(path: str) -> Iterator[dict[str, Any]]:
    """The samples that a job skipped under its last steering, one dict of the columns of `SCHEMA` each.

    Args:
        path: the job folder, local or any fsspec URL.

    Raises:
        SpecError: there is no job at `path`.
        StorageError: a file is missing or of a later version.
    """
    destination = open_destination(path)
    manifests = manifest.load(destination)
    if not manifests:
        raise SpecError("path", path, "a job folder: one that holds manifest/000001.json")
    for part in manifest.standing_skips(manifests):
        for batch in part_batches(destination, part, SCHEMA.names):
            yield from batch.to_pylist()


def part_batches(destination: Destination, part: SkippedPart, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """The rows of one part, with these columns.

    Raises:
        StorageError: the file is missing or of a later version.
    """
    with open_part(destination, part.file, VERSION_KEY, SKIPPED_VERSION) as parquet:
        yield from parquet.iter_batches(columns=list(columns))


def _table(job_id: str, rows: Sequence[Skipped]) -> pa.Table:
    columns: dict[str, list[Any]] = {
        "job_id": [job_id] * len(rows),
        "sample_id": scrub([row.sample_id for row in rows]),
        "prompt_id": scrub([row.prompt_id for row in rows]),
        "sample_index": [row.sample_index for row in rows],
        "reason": [row.reason for row in rows],
    }
    return pa.Table.from_arrays([array_of(columns[field.name], field.type) for field in SCHEMA], schema=SCHEMA)
