"""Stored answers that can be judged again: the rows of a job, or of any table with a gold and a text in each row."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice

import pyarrow as pa

from gen_service.errors import BadPromptRow, SpecError, StorageError
from gen_service.records import Verdict
from gen_service.storage import traces
from gen_service.storage.destination import Destination, is_url, local_path
from gen_service.storage.manifest import Manifest, Part
from gen_service.storage.prompt_rows import gold_text
from gen_service.storage.prompt_tables import batch_rows
from gen_service.storage.prompt_text import NumberedRow

CHUNK_ROWS = 64
# What a file system, a decompressor or Parquet says of a file that cannot be read.
UNREADABLE = (OSError, EOFError, ValueError, zlib.error, pa.ArrowException)
_EARLIER = ("verdict", "verdict_reason", "extracted", "prompt_id")


@dataclass(frozen=True, slots=True)
class AnswerColumns:
    """Which column of a table holds what. Those with their default names may be missing, except gold and content.

    Attributes:
        id: of the row's id; None numbers the rows of each file from 0.
    """

    gold: str = "answer"
    content: str = "content"
    reasoning: str = "reasoning"
    finish: str = "finish_reason"
    id: str | None = None

    @property
    def names(self) -> list[str]:
        """All names, without the id's when there is none."""
        names = [self.gold, self.content, self.reasoning, self.finish]
        return names if self.id is None else [*names, self.id]

    def check(self, present: Iterable[str], where: str) -> None:
        """Raises SpecError when a column that is needed, or that was named, is not there."""
        columns, default = list(present), AnswerColumns()
        for name in ("gold", "content", "reasoning", "finish", "id"):
            wanted = getattr(self, name)
            is_needed = name in ("gold", "content") or wanted != getattr(default, name)
            if is_needed and wanted not in columns:
                raise SpecError(f"{name}_column", wanted, f"one of the columns of {where}: {', '.join(columns)}")

    def check_text(self, row: Mapping[str, object]) -> None:
        """Raises SpecError when a column of texts holds something else in this row."""
        for name in ("content", "reasoning", "finish"):
            value = row.get(getattr(self, name))
            if value is not None and not isinstance(value, str):
                expected = f"a column of text; in its first row it holds a {type(value).__name__}"
                raise SpecError(f"{name}_column", getattr(self, name), expected)


JOB_COLUMNS = AnswerColumns(id="sample_id")


@dataclass(frozen=True, slots=True)
class AnsweredRow:
    """One stored row, as far as a verdict needs it.

    Attributes:
        row: 0-based in its part.
        sample_id: the sample's id in a job; else the id column's value, or `row` as text.
        prompt: the same in all samples of a prompt: its id, or the gold where rows have no prompt id.
        gold, reasoning, content, finish_reason: what is judged.
        settled: the verdict, where there is nothing to judge: no completion, or a gold that is no text.
        before, before_reason, before_extracted: the verdict that is stored with the row; None where there is none.
    """

    row: int
    sample_id: str
    prompt: str
    gold: str | None
    reasoning: str | None
    content: str
    finish_reason: str
    settled: Verdict | None
    before: str | None
    before_reason: str | None
    before_extracted: str | None


@dataclass(frozen=True, slots=True)
class SourcePart:
    """One file of rows.

    Attributes:
        name: of the file, relative to the source; the same in every run.
        rows: how many, or None when only reading tells.
        read: gives its rows in order, at most CHUNK_ROWS in a list; False leaves out the texts that are judged.
        outcomes: rows by the verdict stored with them, where that is known without reading.
    """

    name: str
    rows: int | None
    read: Callable[[bool], Iterator[list[AnsweredRow]]]
    outcomes: Mapping[str, int] | None = None


@dataclass(frozen=True, slots=True)
class FileMark:
    """What a file looked like: its bytes, and a hash of the first and the last 64 KiB of them."""

    bytes: int
    digest: str


@dataclass(frozen=True, slots=True)
class Source:
    """What is judged again.

    Attributes:
        place: as it was given.
        verdicts: the path or URL under which its sets of verdicts lie, unless another is asked for.
        parts: its files, in order.
        columns: which columns are read.
        marks: of each file that may change, by part; a job's files never do.
        mark_of: the mark that the first `bytes` of a part have now.
    """

    place: str
    verdicts: str
    parts: tuple[SourcePart, ...]
    columns: AnswerColumns
    marks: Mapping[str, FileMark] = field(default_factory=dict)
    mark_of: Callable[[str, int], FileMark] | None = None

    @property
    def rows(self) -> int | None:
        """Rows in all, or None when only reading tells."""
        counts = [part.rows for part in self.parts]
        known = [rows for rows in counts if rows is not None]
        return sum(known) if len(known) == len(counts) else None


@contextmanager
def reading(source: Source) -> Iterator[None]:
    """What cannot be read inside is a StorageError that names the source."""
    try:
        yield
    except UNREADABLE as error:
        raise StorageError(f"{source.place} cannot be read: {error}") from error


def job_source(path: str, destination: Destination, manifests: list[Manifest]) -> Source:
    """The rows that a job has published so far."""
    parts = tuple(_job_part(destination, part) for published in manifests for part in published.parts)
    root = path.rstrip("/") if is_url(path) else str(local_path(path))
    return Source(path, f"{root}/verdicts", parts, JOB_COLUMNS)


def _job_part(destination: Destination, part: Part) -> SourcePart:
    def read(texts: bool) -> Iterator[list[AnsweredRow]]:
        needed = ["sample_id", "answer", *_EARLIER]
        needed += ["reasoning", "content", "finish_reason", "error"] if texts else []
        return answered_rows(batch_rows(traces.part_batches(destination, part, needed)), JOB_COLUMNS)

    return SourcePart(part.file, part.rows, read, part.verdicts)


def columns_to_read(columns: AnswerColumns, present: Iterable[str], texts: bool) -> list[str]:
    """The columns of a table that matter; without texts, those that a comparison of verdicts needs."""
    texts_only = {columns.content, columns.reasoning, columns.finish}
    wanted = {*columns.names, *_EARLIER} if texts else {*columns.names, *_EARLIER} - texts_only | {columns.gold}
    return [name for name in present if name in wanted]


def answered_rows(rows: Iterator[NumberedRow], columns: AnswerColumns) -> Iterator[list[AnsweredRow]]:
    """Rows of a table as rows to be judged, in lists of at most CHUNK_ROWS. None is left out."""
    numbered = enumerate(rows)
    while chunk := [_answered(index, row, columns) for index, (_, row) in islice(numbered, CHUNK_ROWS)]:
        yield chunk


def _answered(index: int, row: Mapping[str, object] | BadPromptRow, columns: AnswerColumns) -> AnsweredRow:
    values: Mapping[str, object] = {} if isinstance(row, BadPromptRow) else row
    gold, settled = None, _unreadable(row, columns)
    try:
        gold = gold_text(values.get(columns.gold))
    except ValueError as error:
        settled = settled or Verdict("ungradable", str(error))
    prompt_id = _text(values.get("prompt_id"))
    given = None if columns.id is None else values.get(columns.id)
    return AnsweredRow(
        row=index,
        sample_id=str(index) if given is None else str(given),
        prompt=gold or "" if prompt_id is None else prompt_id,
        gold=gold,
        reasoning=_text(values.get(columns.reasoning)),
        content=_text(values.get(columns.content)) or "",
        finish_reason=_text(values.get(columns.finish)) or "stop",
        settled=settled,
        before=_text(values.get("verdict")),
        before_reason=_text(values.get("verdict_reason")),
        before_extracted=_text(values.get("extracted")),
    )


def _unreadable(row: Mapping[str, object] | BadPromptRow, columns: AnswerColumns) -> Verdict | None:
    """The verdict on a row without a completion that could be judged."""
    if isinstance(row, BadPromptRow):
        return Verdict("error", str(row))
    content = row.get(columns.content)
    if content is None:
        return Verdict("error", _text(row.get("error")) or "no completion")
    for name in (columns.content, columns.reasoning, columns.finish):
        if not isinstance(value := row.get(name), str | None):
            return Verdict("error", f"{name} is not text but {type(value).__name__}")
    return None


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
