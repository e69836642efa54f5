"""Writes a set of verdicts: each part durable before a manifest names it, as for traces."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from gen_service.errors import StorageError
from gen_service.records import Verdict
from gen_service.storage import manifest, published_parts
from gen_service.storage.answered_rows import AnsweredRow, FileMark, Source
from gen_service.storage.arrow_arrays import array_of
from gen_service.storage.destination import is_url, local_path, open_destination
from gen_service.storage.disk_space import SpaceWaiter
from gen_service.storage.job_lock import JobLock
from gen_service.storage.job_spec import check_identity, write_job
from gen_service.storage.manifest import Manifest, Part
from gen_service.storage.part_file import PartFile, arrow_stream
from gen_service.storage.shards import COMPRESSION_LEVEL
from gen_service.storage.surrogates import scrub
from gen_service.storage.verdicts import SCHEMA, VerdictSet, row_numbers

_GROUP_ROWS = 512
_REPEATED_COLUMNS = ["part", "verdict", "verdict_reason", "verdict_path", "extracted_how", "verifier"]


class VerdictWriter:
    """The one writer of a set of verdicts. Synchronous: to be called in one thread at a time.

    The invariant: a row of the source gets at most one verdict in a set. `judged` says which rows have one, and `add`
    is for the others only; what was added is in the set once `publish` has returned, all of it or nothing. A run
    that finds nothing to add writes nothing. What another run commits meanwhile to a set behind a URL, where no lock
    reaches, makes this one fail with PublishConflict.

    Args:
        place: the set's folder or URL.
        source: what the verdicts are about.
        verifier: identity of the verifier.
        about: kept in job.json, JSON values only.

    Raises:
        JobLocked: another process writes the set.
        JobMismatch: the set is of another verifier, or of other columns.
        StorageError: a file of the source is not what the set's verdicts are about, or the disk failed.
    """

    def __init__(self, place: str, source: Source, verifier: str, about: dict[str, Any], space: SpaceWaiter) -> None:
        self._source = source
        self._verifier = verifier
        self._identity = {"verifier": verifier, "columns": asdict(source.columns)}
        self._about = about | {"files": {name: asdict(mark) for name, mark in source.marks.items()}}
        self._space = space
        self._remote = Path(tempfile.mkdtemp(prefix="gen-service-")) if is_url(place) else None
        self._destination = open_destination(place, self._remote)
        self._lock: JobLock | None = None
        self._claim: Manifest | None = None
        self._sequence = 0
        self._open: _OpenPart | None = None
        try:
            if self._remote is None:
                self._lock = JobLock(local_path(place) / "lock")
            self.before = VerdictSet(self._destination)
            self._next_manifest = len(self.before.manifests) + 1
            self._check_marks(place)
            check_identity(self._destination, self._identity)
        except BaseException as error:
            self.close()
            if isinstance(error, OSError):
                raise StorageError(f"cannot open the set of verdicts {place}: {error}") from error
            raise

    def judged(self, source: str) -> NDArray[np.int64]:
        """The rows of a file of the source that had a verdict when this run began, ascending."""
        return row_numbers(self.before.table_of(source, []))

    def add(self, source: str, rows: Sequence[AnsweredRow], verdicts: Sequence[Verdict]) -> None:
        """Take the verdicts on rows of one file, which come after those added before and have none yet."""
        if self._open is not None and self._open.source != source:
            self.publish()
        if self._open is None:
            self._take_over()
            self._sequence += 1
            name = f"data/part-{self._taken.epoch:04}-{self._sequence:06}.parquet"
            self._open = _OpenPart(name, self._destination.staging(name), source, self._space)
        self._open.add(rows, verdicts)

    @property
    def open_rows(self) -> int:
        """Rows added since the last publication."""
        return 0 if self._open is None else self._open.rows

    def publish(self) -> None:
        """Commit what was added; readers see it when this returns."""
        part, self._open = self._open, None
        if part is None:
            return
        described = part.close()
        self._space.write(part.name, lambda: self._destination.adopt(part.path, part.name))
        commit = Manifest(self._taken.epoch, self._taken.writer, (described,))
        number = self._next_manifest
        self._space.write(f"manifest {number}", lambda: manifest.commit(self._destination, number, commit))
        self._next_manifest += 1

    def close(self) -> None:
        """Let go of the set; what was added and not published is gone."""
        if self._open is not None:
            self._open.abandon()
            self._open = None
        if self._lock is not None:
            self._lock.release()
            self._lock = None
        if self._remote is not None:
            shutil.rmtree(self._remote, ignore_errors=True)

    @property
    def _taken(self) -> Manifest:
        assert self._claim is not None, "the set is taken over before it is written to"
        return self._claim

    def _take_over(self) -> None:
        """Before the first write of a run: what the set is about, a manifest that claims it, and no leftovers."""
        if self._claim is None:
            self._space.write("job.json", self._write_job)
            self._claim = self._space.write("a manifest", self._claimed)
            self._next_manifest += 1
            self._destination.sweep()
            published_parts.check_parts(self._destination, self.before.manifests, verify=False)

    def _claimed(self) -> Manifest:
        return published_parts.claim_epoch(self._destination, self.before.manifests, manifest.writer_name())

    def _write_job(self) -> None:
        write_job(self._destination, self._verifier, self._about, self._identity)

    def _check_marks(self, place: str) -> None:
        """A file may grow at its end; if it changed otherwise the set's verdicts are about rows that are gone."""
        for name, mark in self.before.about.get("spec", {}).get("files", {}).items():
            known = FileMark(**mark)
            now = self._source.marks.get(name)
            is_same = now == known or (
                now is not None
                and now.bytes > known.bytes
                and self._source.mark_of is not None
                and self._source.mark_of(name, known.bytes) == known
            )
            if not is_same and self.before.rows_of(name):
                state = "is gone" if now is None else "has changed"
                raise StorageError(f"{name} {state} since it was verified; remove {place} to verify it anew")


class _OpenPart:
    """A part being written to its staging file; holds at most one row group of verdicts."""

    def __init__(self, name: str, path: Path, source: str, space: SpaceWaiter) -> None:
        self.name = name
        self.path = path
        self.source = source
        self.rows = 0
        self._outcomes: Counter[str] = Counter()
        self._group: list[tuple[AnsweredRow, Verdict]] = []
        self._file = PartFile(path, space)
        self._stream = arrow_stream(self._file)
        self._writer = pq.ParquetWriter(
            self._stream,
            SCHEMA,
            compression="zstd",
            compression_level=COMPRESSION_LEVEL,
            use_dictionary=_REPEATED_COLUMNS,
            store_schema=True,
        )

    def add(self, rows: Sequence[AnsweredRow], verdicts: Sequence[Verdict]) -> None:
        self._group.extend(zip(rows, verdicts, strict=True))
        self.rows += len(rows)
        self._outcomes.update(verdict.outcome for verdict in verdicts)
        if len(self._group) >= _GROUP_ROWS:
            self._write_group()

    def close(self) -> Part:
        """Finish the file and make its bytes durable."""
        self._write_group()
        self._writer.close()
        self._stream.flush()
        self._file.sync()
        self._file.close()
        size, digest = self._file.tell(), self._file.sha256.hexdigest()
        return Part(self.name, self.rows, size, digest, dict(self._outcomes), 0, 0, self.source)

    def abandon(self) -> None:
        """Remove the unfinished file."""
        for file in (self._writer, self._stream, self._file):
            with contextlib.suppress(StorageError, OSError, ValueError):
                file.close()
        self.path.unlink(missing_ok=True)

    def _write_group(self) -> None:
        if self._group:
            table = _table(self.source, self._group)
            self._writer.write_table(table, row_group_size=table.num_rows)
            self._group = []


def _table(source: str, group: Sequence[tuple[AnsweredRow, Verdict]]) -> pa.Table:
    verdicts = [verdict for _, verdict in group]
    columns: Mapping[str, list[Any]] = {
        "sample_id": scrub([row.sample_id for row, _ in group]),
        "part": [source] * len(group),
        "row": [row.row for row, _ in group],
        "verdict": [verdict.outcome for verdict in verdicts],
        "verdict_reason": scrub([verdict.reason for verdict in verdicts]),
        "verdict_path": [verdict.path for verdict in verdicts],
        "extracted": scrub([verdict.extracted for verdict in verdicts]),
        "normalised": scrub([verdict.normalised for verdict in verdicts]),
        "extracted_how": [verdict.how for verdict in verdicts],
        "verdict_cpu_s": [verdict.cpu_s for verdict in verdicts],
        "verifier": [verdict.verifier for verdict in verdicts],
    }
    return pa.Table.from_arrays([array_of(columns[field.name], field.type) for field in SCHEMA], schema=SCHEMA)
