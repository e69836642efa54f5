"""Samples that are not made, on disk: each in one row of a Parquet part under `skipped/`, with the reason."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
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
from gen_service.storage.part_file import PartFile, arrow_stream
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

    The whole rule: what was added before `cut` is in the parts that `write` gives for the commit which it was called
    for, the commits in the order of the cuts. So whoever cuts when the rows are cut from which samples follow commits
    no skip before its reason. `within_s` seconds after the first row, `on_due` asks for a commit. BATCH_ROWS rows are
    written before that and wait as a file. What was written and not committed is nowhere: after a crash its samples
    are decided upon again.

    `add`, `cut` and `close` are for the event loop's thread, `write` is for the one that does what is done in turn.

    Args:
        destination: where the parts go.
        epoch: of this run; in the parts' names.
        within_s: seconds that a row may wait for a commit.
        in_turn: has work done by the thread that calls `write`, before what is asked of it later.
        on_due: asks for a commit: calls `cut`, and has `write` called.
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
        self._rows: list[Skipped] = []
        self._timer: asyncio.TimerHandle | None = None
        # Of each commit that is asked for and not made, what is not in a file yet.
        self._cuts: deque[list[Skipped]] = deque()
        # Of the writing thread.
        self._parts: list[SkippedPart] = []
        self._written = 0

    def add(self, skipped: Skipped) -> None:
        """Take one row."""
        self._rows.append(skipped)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._within_s, self._on_due)
        if len(self._rows) >= BATCH_ROWS:
            self._in_turn(partial(self._spill, self._taken()))

    def cut(self) -> None:
        """What was added so far goes with the commit that is asked for now; `write` is called for it once."""
        self.close()
        self._cuts.append(self._taken())

    def close(self) -> None:
        """Ask for no commit of what was added."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def write(self) -> tuple[SkippedPart, ...]:
        """The parts of all rows added up to the next cut, durable when this returns, for the manifest that follows;
        none when there are no rows.

        Raises:
            StorageError: the disk failed.
        """
        self._spill(self._cuts.popleft())
        parts, self._parts = self._parts, []
        return tuple(parts)

    def _taken(self) -> list[Skipped]:
        rows, self._rows = self._rows, []
        return rows

    def _spill(self, rows: list[Skipped]) -> None:
        if not rows:
            return
        self._written += 1
        name = f"{SKIPPED_FOLDER}/part-{self._epoch:04}-{self._written:06}.parquet"
        staged = self._destination.staging(name)
        file = PartFile(staged, self._space)
        try:
            table, stream = _table(self._job_id, rows), arrow_stream(file)
            pq.write_table(table, stream, compression="zstd", use_dictionary=_REPEATED_COLUMNS)
            stream.flush()
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
