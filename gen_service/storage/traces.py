"""Reading published traces. Files are taken from the manifests, never from a listing: what no manifest names is not
published, and a file named by one is whole. Files of older versions are read along; columns they lack are null."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from gen_service.errors import SpecError
from gen_service.storage import manifest
from gen_service.storage.destination import Destination, open_destination
from gen_service.storage.manifest import Part, PublishedCounts
from gen_service.storage.part_reader import open_part
from gen_service.storage.schema import SCHEMA, SCHEMA_VERSION, VERSION_KEY, conformed
from gen_service.storage.verdicts import VERDICT_COLUMNS, open_verdict_set, overlaid

BATCH_ROWS = 256


def read_traces(
    path: str, columns: Sequence[str] | None = None, verdicts: str | None = None
) -> Iterator[dict[str, Any]]:
    """The published rows of a job in the order they were published, one dict each; about one row group in memory.

    Args:
        path: the job folder, local or any fsspec URL.
        columns: names of the columns wanted; all of them by default.
        verdicts: a set of verdicts made by `verify`, by its verifier's identity or `latest`: where it judges a row,
            its columns are in place of the row's own.

    Raises:
        SpecError: there is no job at `path`, or no such column or set of verdicts.
        StorageError: a file is missing or of a later version.
    """
    for batch in read_batches(path, columns, verdicts):
        yield from batch.to_pylist()


def read_batches(
    path: str, columns: Sequence[str] | None = None, verdicts: str | None = None
) -> Iterator[pa.RecordBatch]:
    """As `read_traces`, but Arrow record batches of at most 256 rows."""
    _check_columns(columns)
    destination, manifests = _open(path)
    judged = None if verdicts is None else open_verdict_set(path, verdicts)
    wanted = [name for name in columns or SCHEMA.names if name in VERDICT_COLUMNS]
    for part in (part for published in manifests for part in published.parts):
        batches = part_batches(destination, part, columns)
        if judged is not None and wanted:
            batches = overlaid(batches, judged.table_of(part.file, wanted))
        yield from batches


def read_table(path: str, columns: Sequence[str] | None = None, verdicts: str | None = None) -> pa.Table:
    """As `read_traces`, but one Arrow table, all of it in memory."""
    names = SCHEMA.names if columns is None else list(columns)
    batches = list(read_batches(path, columns, verdicts))
    return pa.Table.from_batches(batches, schema=pa.schema([SCHEMA.field(name) for name in names]))


def part_files(path: str) -> list[str]:
    """The absolute paths or URLs of the published files, for `datasets.load_dataset("parquet", data_files=...)`.

    A job that went on after an upgrade has files of two versions, with different columns; `load_dataset` of the job
    folder itself reads those along, by the columns that the card names.

    Raises:
        SpecError: there is no job at `path`.
    """
    destination, manifests = _open(path)
    return [destination.locate(part.file) for published in manifests for part in published.parts]


def published_counts(path: str) -> PublishedCounts:
    """How much a job has published so far, from its manifests alone."""
    return manifest.count(_open(path)[1])


def part_batches(
    destination: Destination, part: Part, columns: Sequence[str] | None = None, first_row: int = 0
) -> Iterator[pa.RecordBatch]:
    """The rows of one part from `first_row` on, in order, as record batches of at most 256 rows with the columns in
    the order asked for. Row groups before `first_row` are not read."""
    with open_part(destination, part.file, VERSION_KEY, SCHEMA_VERSION) as parquet:
        names = SCHEMA.names if columns is None else list(columns)
        there = [name for name in names if name in parquet.schema_arrow.names]
        groups, before = _groups_from(parquet.metadata, first_row)
        for batch in parquet.iter_batches(BATCH_ROWS, row_groups=groups, columns=there):
            skipped = min(before, batch.num_rows)
            before -= skipped
            if skipped < batch.num_rows:
                yield conformed(batch.slice(skipped), names)


def _groups_from(metadata: pq.FileMetaData, row: int) -> tuple[list[int], int]:
    """The row groups that hold rows from `row` on, and how many of their rows come before it."""
    for group in range(metadata.num_row_groups):
        rows = metadata.row_group(group).num_rows
        if row < rows:
            return list(range(group, metadata.num_row_groups)), row
        row -= rows
    return [], 0


def _open(path: str) -> tuple[Destination, list[manifest.Manifest]]:
    destination = open_destination(path)
    manifests = manifest.load(destination)
    if not manifests:
        raise SpecError("path", path, "a job folder: one that holds manifest/000001.json")
    return destination, manifests


def _check_columns(columns: Sequence[str] | None) -> None:
    for name in columns or ():
        if name not in SCHEMA.names:
            raise SpecError("columns", name, "one of " + ", ".join(SCHEMA.names))
