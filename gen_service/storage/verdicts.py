"""Sets of verdicts beside the traces they are about: one folder for each verifier that judged them again.

A set is laid out as a job is: `job.json` says what it is about, `data/` holds Parquet parts, `manifest/` commits them.
Each part holds verdicts on rows of one file of the source, in order; the manifest names that file. The traces are
never written. A row has at most one verdict in a set.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from gen_service.errors import SpecError, StorageError
from gen_service.storage import manifest
from gen_service.storage.arrow_arrays import int32_array
from gen_service.storage.destination import Destination, open_destination
from gen_service.storage.job_spec import read_job
from gen_service.storage.manifest import Manifest, Part

FOLDER = "verdicts"
LATEST = "latest"
VERDICTS_VERSION = 1
VERSION_KEY = b"gen_service.verdicts_version"

# `row` counts from 0 within `part`, the file of the source. The columns from `verdict` on are named as in the traces.
SCHEMA = pa.schema(
    [
        ("sample_id", pa.string()),
        ("part", pa.string()),
        ("row", pa.int64()),
        ("verdict", pa.string()),
        ("verdict_reason", pa.string()),
        ("verdict_path", pa.string()),
        ("extracted", pa.string()),
        ("normalised", pa.string()),
        ("extracted_how", pa.string()),
        ("verdict_cpu_s", pa.float64()),
        ("verifier", pa.string()),
    ],
    metadata={VERSION_KEY: str(VERDICTS_VERSION).encode()},
)
VERDICT_COLUMNS = SCHEMA.names[3:]


@dataclass(frozen=True, slots=True)
class VerdictSetInfo:
    """A set of verdicts in short.

    Attributes:
        name: of its folder: the verifier's identity, unless another place was asked for.
        rows: verdicts in it.
        by_verdict: the same by outcome.
        started_at: when the last run that wrote to it began, in seconds since the epoch.
    """

    name: str
    rows: int
    by_verdict: dict[str, int]
    started_at: float


class VerdictSet:
    """The committed verdicts of a set, as its manifests were when this was made.

    Args:
        most_parts: only the first so many of its parts; None for all.

    Attributes:
        manifests: of the set, in order.
        about: its job.json; empty when nothing was ever written.
    """

    def __init__(self, destination: Destination, most_parts: int | None = None) -> None:
        self._destination = destination
        self.manifests: list[Manifest] = manifest.load(destination)
        self.about = read_job(destination) or {}
        self._parts: defaultdict[str, list[Part]] = defaultdict(list)
        for part in islice((part for published in self.manifests for part in published.parts), most_parts):
            self._parts[part.source or ""].append(part)

    @property
    def rows(self) -> int:
        """Verdicts in the set."""
        return sum(part.rows for parts in self._parts.values() for part in parts)

    def rows_of(self, source: str) -> int:
        """How many rows of a file of the source have a verdict."""
        return sum(part.rows for part in self._parts.get(source, ()))

    def table_of(self, source: str, columns: Sequence[str], rows: Sequence[int] | None = None) -> pa.Table:
        """The verdicts on one file of the source in the order of its rows: `row`, and the columns asked for.

        Args:
            rows: only those of these rows.

        Raises:
            StorageError: a part is missing or of a later version.
        """
        names = ["row", *(name for name in columns if name != "row")]
        schema = pa.schema([SCHEMA.field(name) for name in names])
        tables = [self._read(part, names).cast(schema) for part in self._parts.get(source, ())]
        if rows is not None:
            tables = [table.take(_indices(np.flatnonzero(np.isin(row_numbers(table), rows)))) for table in tables]
        table = pa.concat_tables(tables) if tables else schema.empty_table()
        numbers = row_numbers(table)
        order = np.argsort(numbers, kind="stable")
        return table if np.array_equal(order, np.arange(len(order))) else table.take(_indices(order))

    def info(self, name: str) -> VerdictSetInfo:
        """The set in short."""
        outcomes: Counter[str] = Counter()
        for parts in self._parts.values():
            for part in parts:
                outcomes.update(part.verdicts)
        started_at = float(self.about.get("spec", {}).get("started_at", 0.0))
        return VerdictSetInfo(name, self.rows, dict(outcomes), started_at)

    def _read(self, part: Part, names: list[str]) -> pa.Table:
        place = self._destination.locate(part.file)
        try:
            file = self._destination.open(part.file)
        except FileNotFoundError as error:
            raise StorageError(f"{place} is named by a manifest, but is not there") from error
        with file, pq.ParquetFile(file) as parquet:
            version = int((parquet.schema_arrow.metadata or {}).get(VERSION_KEY, b"0"))
            if version > VERDICTS_VERSION:
                raise StorageError(f"{place} has verdicts of version {version}, newer than {VERDICTS_VERSION}")
            return parquet.read(columns=names)


def row_numbers(table: pa.Table) -> NDArray[np.int64]:
    """The `row` column of a table of verdicts. (`to_numpy` would import pandas: 1.1 s of CPU.)"""
    return np.array(table.column("row").to_pylist(), dtype=np.int64)


def list_verdict_sets(path: str) -> list[VerdictSetInfo]:
    """The sets of verdicts on a job that hold any, the one written last at the end.

    Args:
        path: the job folder, local or any fsspec URL.
    """
    names = open_destination(path).folders(FOLDER)
    infos = (VerdictSet(open_destination(f"{path.rstrip('/')}/{FOLDER}/{name}")).info(name) for name in names)
    return sorted((info for info in infos if info.rows), key=lambda info: (info.started_at, info.name))


def open_verdict_set(path: str, name: str, most_parts: int | None = None) -> VerdictSet:
    """A set of verdicts on a job.

    Args:
        path: the job folder.
        name: the verifier's identity, or `latest`: the set written last.
        most_parts: only the first so many of its parts; None for all.

    Raises:
        SpecError: there is none; names those there are.
    """
    found = verdict_set_named(path, name)
    return VerdictSet(open_destination(f"{path.rstrip('/')}/{FOLDER}/{found}"), most_parts)


def verdict_set_named(path: str, name: str) -> str:
    """The set that is meant, as `open_verdict_set`: of `latest`, the verifier's identity."""
    sets = [info.name for info in list_verdict_sets(path)]
    found = sets[-1] if name == LATEST and sets else name
    if found not in sets:
        there = ", ".join([*sets, LATEST]) if sets else "nothing: this job has no set of verdicts, `verify` makes one"
        raise SpecError("verdicts", name, f"one of {there}")
    return found


def overlaid(batches: Iterator[pa.RecordBatch], verdicts: pa.Table) -> Iterator[pa.RecordBatch]:
    """The rows of one part of a job with these verdicts in place of their own; a row without one keeps its own.

    Args:
        batches: all rows of the part, in order.
        verdicts: as `VerdictSet.table_of` gives them.
    """
    numbers, first = row_numbers(verdicts), 0
    for batch in batches:
        low, high = np.searchsorted(numbers, [first, first + batch.num_rows])
        yield _replaced(batch, verdicts.slice(low, high - low), numbers[low:high] - first) if high > low else batch
        first += batch.num_rows


def _replaced(batch: pa.RecordBatch, verdicts: pa.Table, places: NDArray[np.int64]) -> pa.RecordBatch:
    """The batch with the verdicts at these places of it: each row is taken from its own column or, after it, from
    the verdicts'."""
    chosen = np.arange(batch.num_rows, dtype=np.int32)
    chosen[places] = batch.num_rows + np.arange(len(places), dtype=np.int32)
    taken = _indices(chosen)
    columns = [
        pa.concat_arrays([own, *verdicts.column(name).cast(own.type).chunks]).take(taken)
        if name in VERDICT_COLUMNS
        else own
        for name, own in zip(batch.schema.names, batch.columns, strict=True)
    ]
    return pa.RecordBatch.from_arrays(columns, schema=batch.schema)


def _indices(order: NDArray[np.integer]) -> pa.Array:
    return int32_array(order.astype(np.int32))
