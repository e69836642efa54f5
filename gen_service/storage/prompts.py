"""Prompts in: read a source row by row."""

from __future__ import annotations

import lzma
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import BinaryIO

import fsspec
import pyarrow as pa
import zstandard

from gen_service.errors import BadPromptRow, SpecError
from gen_service.records import Prompt
from gen_service.settings import PromptSettings
from gen_service.storage import prompt_batch
from gen_service.storage.destination import is_url, local_path
from gen_service.storage.prompt_batch import RequestLine
from gen_service.storage.prompt_rows import Row, excerpt, has_id, to_prompt
from gen_service.storage.prompt_tables import hub_rows, parquet_rows, saved_dataset_rows, wanted_columns
from gen_service.storage.prompt_text import NumberedRow, csv_rows, jsonl_rows
from gen_service.storage.seen import Seen

_FORMATS = {".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet", ".csv": "csv"}
_ZSTD = ".zst"
_COMPRESSIONS = frozenset({".gz", ".bz2", ".xz", _ZSTD})
_UNREADABLE = (OSError, EOFError, zlib.error, lzma.LZMAError, zstandard.ZstdError, pa.ArrowException)
# What is read of a source: a row of a table, or a line of a batch.
SourceRow = Row | RequestLine
# Files that `datasets.save_to_disk` leaves in a folder.
_SAVED = ("state.json", "dataset_dict.json")


def read(settings: PromptSettings, seen: Seen) -> Iterator[Prompt | BadPromptRow]:
    """The prompts of a source in order, and in its place each row that cannot become one.

    Streamed, with memory for a few rows; a synchronous generator, to be taken from in a thread. A row is one prompt
    or one BadPromptRow, except that blank lines are passed over. Row numbers are 1-based: lines for text formats (the
    first line of the record, for CSV), and counted on through the files of a folder in the order of their names.

    Args:
        seen: an empty set, for the ids met so far; the first row of an id is taken, later ones are bad rows.

    Raises:
        SpecError: the source as a whole cannot be read, or has no rows. Raised at the first `next`, save for a
            damaged compressed or remote file.
    """
    accepted, is_empty = 0, True
    try:
        for number, source, row in _rows(settings):
            is_empty = False
            result = row if isinstance(row, BadPromptRow) else _prompt(row, number, source, settings, seen)
            yield result
            accepted += isinstance(result, Prompt)
            if accepted == settings.limit:
                return
    except _UNREADABLE as error:
        raise SpecError("prompts.path", settings.path, f"a source that can be read: {error}") from error
    if is_empty:
        raise SpecError("prompts.path", settings.path, "a source with at least one row")


def _prompt(row: SourceRow, number: int, source: str, settings: PromptSettings, seen: Seen) -> Prompt | BadPromptRow:
    try:
        if isinstance(row, RequestLine):
            prompt = prompt_batch.to_prompt(row, number, source)
        else:
            prompt = to_prompt(row, number, source, settings)
    except BadPromptRow as bad:
        return bad
    if seen.add(prompt.prompt_id):
        return prompt
    words = excerpt(row.request.body if isinstance(row, RequestLine) else row)
    if isinstance(row, RequestLine) or has_id(row, settings):
        return BadPromptRow(number, f"an earlier row has the id {prompt.prompt_id!r}", words)
    return BadPromptRow(number, "same prompt and answer as an earlier row", words)


def _rows(settings: PromptSettings) -> Iterator[tuple[int, str, SourceRow | BadPromptRow]]:
    """Each row with its number and where it came from."""
    path = settings.path
    if settings.format == "hub" or (settings.format == "auto" and path.startswith("hub:")):
        name = path.removeprefix("hub:")
        yield from ((number, name, row) for number, row in hub_rows(settings))
    elif not is_url(path) and local_path(path).is_dir() and settings.format != "batch":
        yield from _folder_rows(local_path(path), settings)
    elif settings.format == "dataset":
        raise SpecError("prompts.path", path, "a local folder, because prompts.format is dataset")
    else:
        yield from _file_rows(path, settings, 0)


def _folder_rows(folder: Path, settings: PromptSettings) -> Iterator[tuple[int, str, SourceRow | BadPromptRow]]:
    if any((folder / name).is_file() for name in _SAVED):
        yield from ((number, folder.name, row) for number, row in saved_dataset_rows(folder, settings))
        return
    files = sorted(path for path in folder.iterdir() if path.is_file() and _format_of(path.name) is not None)
    if not files:
        raise SpecError("prompts.path", settings.path, "a folder saved by datasets, or of jsonl, parquet or csv files")
    last = 0
    for file in files:
        before = last
        for number, source, row in _file_rows(str(file), settings, before):
            last = number
            yield number, source, row


def _file_rows(path: str, settings: PromptSettings, before: int) -> Iterator[tuple[int, str, SourceRow | BadPromptRow]]:
    """The rows of one file, numbered from `before` + 1."""
    read_rows = _reader(path, settings)
    name = path.rstrip("/").rsplit("/", 1)[-1]
    try:
        opened = fsspec.open(path, "rb", compression=None if path.endswith(_ZSTD) else "infer")
    except (ImportError, ValueError) as error:
        raise SpecError("prompts.path", path, f"a path or URL that fsspec can open: {error}") from error
    try:
        stream = opened.open()
    except FileNotFoundError as error:
        raise SpecError("prompts.path", path, "a file that exists") from error
    with stream as stored, _decompressed(path, stored) as file:
        for number, row in read_rows(file, settings):
            moved = BadPromptRow(before + number, row.reason, row.excerpt) if isinstance(row, BadPromptRow) else row
            yield before + number, name, moved


def _decompressed(path: str, stored: BinaryIO) -> AbstractContextManager[BinaryIO]:
    """zstd files are often made of several frames, of which fsspec reads only the first."""
    if not path.endswith(_ZSTD):
        return nullcontext(stored)
    return zstandard.ZstdDecompressor().stream_reader(stored, read_across_frames=True, closefd=False)


def _reader(
    path: str, settings: PromptSettings
) -> Callable[[BinaryIO, PromptSettings], Iterator[tuple[int, SourceRow | BadPromptRow]]]:
    kind = settings.format if settings.format not in ("auto", "dataset") else _format_of(path)
    if kind == "jsonl":
        return lambda file, settings: jsonl_rows(file, settings.max_row_bytes)
    if kind == "batch":
        return lambda file, settings: prompt_batch.batch_rows(file, settings.max_row_bytes)
    if kind == "csv":
        return _csv_rows
    if kind == "parquet":
        return parquet_rows
    raise SpecError("prompts.path", path, "a name ending in .jsonl, .parquet or .csv, or prompts.format to say which")


def _csv_rows(file: BinaryIO, settings: PromptSettings) -> Iterator[NumberedRow]:
    has_checked_columns = False
    for number, row in csv_rows(file, settings.max_row_bytes):
        if not has_checked_columns and not isinstance(row, BadPromptRow):
            wanted_columns(row, settings)
            has_checked_columns = True
        yield number, row


def _format_of(path: str) -> str | None:
    name = Path(path.split("?", 1)[0])
    if name.suffix in _COMPRESSIONS:
        name = name.with_suffix("")
    return _FORMATS.get(name.suffix)
