"""Answers in Parquet and JSON-lines files that another program wrote."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from functools import partial
from itertools import islice
from typing import Any

import fsspec
import pyarrow.parquet as pq

from gen_service.errors import BadPromptRow, SpecError
from gen_service.storage import manifest
from gen_service.storage.answered_rows import (
    CHUNK_ROWS,
    UNREADABLE,
    AnswerColumns,
    AnsweredRow,
    FileMark,
    Source,
    SourcePart,
    answered_rows,
    columns_to_read,
    job_source,
)
from gen_service.storage.destination import is_url, local_path, open_destination
from gen_service.storage.prompt_tables import batch_rows
from gen_service.storage.prompt_text import NumberedRow, jsonl_rows

_FILE = re.compile(r"\.(parquet|jsonl|jsonl\.gz)$")
_PATTERN = re.compile(r"[*?\[]")
_EXPECTED = (
    "a job folder (one that holds manifest/000001.json), a .parquet, .jsonl or .jsonl.gz file, "
    "or a folder or pattern of .parquet files"
)
_LONGEST_LINE = 64 * 1024 * 1024
_MARKED_BYTES = 64 * 1024


def open_source(path: str, columns: AnswerColumns | None = None) -> Source:
    """The rows at a path: a job's, or those of files.

    Args:
        path: a job folder, a file, a folder of Parquet files, or a pattern of files; local or any fsspec URL.
        columns: of files; a job's are known.

    Raises:
        SpecError: there is nothing of the kind at `path`, or a column is not there; names what there is.
        StorageError: a job's manifests are damaged.
    """
    if not _FILE.search(path) and not _PATTERN.search(path):
        destination = open_destination(path)
        if manifests := manifest.load(destination):
            if columns is not None:
                raise SpecError("columns", path, "no names of columns: this is a job, whose columns are known")
            return job_source(path, destination, manifests)
    return _file_source(path, columns or AnswerColumns())


def _file_source(path: str, columns: AnswerColumns) -> Source:
    place = path.rstrip("/") if is_url(path) else str(local_path(path))
    files: _Files | None = None
    try:
        files = _Files(place, columns)
        parts, marks = files.parts(), files.marks()
    except (ImportError, *UNREADABLE) as error:
        raise SpecError("path", path, f"{_EXPECTED}: {error}") from error
    if not parts:
        raise SpecError("path", path, _EXPECTED)
    return Source(path, f"{_stem(place)}.verdicts", parts, columns, marks, files.mark)


def _stem(place: str) -> str:
    """The path without its suffix; of a pattern, the folder that it is in."""
    while _PATTERN.search(place):
        place = place.rpartition("/")[0]
    return _FILE.sub("", place)


class _Files:
    """Files under one folder of a file system."""

    def __init__(self, place: str, columns: AnswerColumns) -> None:
        self._columns = columns
        self._system: Any
        self._system, root = fsspec.core.url_to_fs(place)
        found = str(root)
        if _PATTERN.search(found):
            self._root, self._paths = _stem(found), sorted(map(str, self._system.glob(found)))
        elif _FILE.search(found) and self._system.isfile(found):
            self._root, self._paths = found.rpartition("/")[0], [found]
        else:
            self._root, self._paths = found, sorted(map(str, self._system.glob(f"{found}/*.parquet")))
        self._by_name = {path.removeprefix(f"{self._root}/"): path for path in self._paths if _FILE.search(path)}

    def parts(self) -> tuple[SourcePart, ...]:
        return tuple(self._part(name, path) for name, path in self._by_name.items())

    def marks(self) -> dict[str, FileMark]:
        return {name: self.mark(name, int(self._system.size(path))) for name, path in self._by_name.items()}

    def mark(self, name: str, size: int) -> FileMark:
        """The mark of the first `size` bytes of a file, which may be fewer now."""
        with self._system.open(self._by_name[name], "rb") as file:
            digest = hashlib.blake2b(file.read(min(size, _MARKED_BYTES)), digest_size=16)
            file.seek(max(0, size - _MARKED_BYTES))
            digest.update(file.read(min(size, _MARKED_BYTES)))
            return FileMark(size, digest.hexdigest())

    def _part(self, name: str, path: str) -> SourcePart:
        if not path.endswith(".parquet"):
            self._check_first_rows(name, self._json_rows(path))
            return SourcePart(name, None, partial(self._json_chunks, path))
        with self._system.open(path, "rb") as file, pq.ParquetFile(file) as parquet:
            names, rows = parquet.schema_arrow.names, parquet.metadata.num_rows
        self._columns.check(names, name)
        self._check_first_rows(name, self._parquet_rows(path, texts=True))
        return SourcePart(name, rows, partial(self._parquet_chunks, path))

    def _check_first_rows(self, name: str, rows: Iterator[NumberedRow]) -> None:
        """A JSON row may leave out what is null, so the names in a few rows count together."""
        first = [row for _, row in islice(rows, CHUNK_ROWS) if not isinstance(row, BadPromptRow)]
        if first:
            self._columns.check({key: None for row in first for key in row}, name)
            self._columns.check_text(first[0])

    def _json_chunks(self, path: str, texts: bool) -> Iterator[list[AnsweredRow]]:
        return answered_rows(self._json_rows(path), self._columns)

    def _parquet_chunks(self, path: str, texts: bool) -> Iterator[list[AnsweredRow]]:
        return answered_rows(self._parquet_rows(path, texts), self._columns)

    def _json_rows(self, path: str) -> Iterator[NumberedRow]:
        with self._system.open(path, "rb", compression="infer") as file:
            yield from jsonl_rows(file, _LONGEST_LINE)

    def _parquet_rows(self, path: str, texts: bool) -> Iterator[NumberedRow]:
        with self._system.open(path, "rb") as file, pq.ParquetFile(file) as parquet:
            needed = columns_to_read(self._columns, parquet.schema_arrow.names, texts)
            yield from batch_rows(parquet.iter_batches(CHUNK_ROWS, columns=needed))
