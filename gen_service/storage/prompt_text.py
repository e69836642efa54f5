"""Rows of JSON-lines and CSV files: streamed bytes in, one bounded row after another out."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import BinaryIO

from gen_service.errors import BadPromptRow, SpecError
from gen_service.storage.prompt_rows import EXCERPT_CHARS, Row, excerpt
from gen_service.storage.surrogates import scrub

CHUNK_BYTES = 256 * 1024
_BOM = b"\xef\xbb\xbf"
# Bytes of a line that do not count: the byte order mark and the carriage return.
_MARKS = len(_BOM) + 1

NumberedRow = tuple[int, Row | BadPromptRow]


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a file: its 1-based number, its bytes without the line end, and whether bytes were left out."""

    number: int
    content: bytes
    is_cut: bool


def lines(file: BinaryIO, max_bytes: int) -> Iterator[Line]:
    """The lines of a file. Of one longer than `max_bytes` only the first bytes are kept, the rest is passed over."""
    number, pending, is_cut = 1, b"", False
    while chunk := file.read(CHUNK_BYTES):
        first, *others = chunk.split(b"\n")
        if not is_cut:
            pending += first
        for content in others:
            yield _line(number, pending, is_cut, max_bytes)
            number, pending, is_cut = number + 1, content, False
        if len(pending) > max_bytes + _MARKS:
            is_cut, pending = True, pending[: max_bytes + _MARKS]
    if pending:
        yield _line(number, pending, is_cut, max_bytes)


def _line(number: int, content: bytes, is_cut: bool, max_bytes: int) -> Line:
    content = content.removesuffix(b"\r")
    if number == 1:
        content = content.removeprefix(_BOM)
    if len(content) > max_bytes:
        return Line(number, content[: min(max_bytes, 4 * EXCERPT_CHARS)], True)
    return Line(number, content, is_cut)


def jsonl_rows(file: BinaryIO, max_bytes: int) -> Iterator[NumberedRow]:
    """One row per line that is not blank, with its line number."""
    for line in lines(file, max_bytes):
        if line.is_cut or line.content.strip():
            yield line.number, _parse(line, max_bytes)


def _parse(line: Line, max_bytes: int) -> Row | BadPromptRow:
    def bad(reason: str) -> BadPromptRow:
        return BadPromptRow(line.number, reason, excerpt(line.content))

    if line.is_cut:
        return bad(f"longer than max_row_bytes ({max_bytes})")
    try:
        # Decimals keep a gold answer as it was written; floats would round it.
        value = json.loads(line.content.decode(), parse_float=Decimal)
    except UnicodeDecodeError as error:
        return bad(f"not UTF-8 at byte {error.start + 1} of the line")
    except (ValueError, ArithmeticError, RecursionError) as error:
        return bad(f"not JSON: {error}")
    return value if isinstance(value, dict) else bad(f"not a JSON object but {type(value).__name__}")


class _RecordTooLong(Exception):
    """A CSV record goes on past the limit, most likely because a quote was never closed."""


def csv_rows(file: BinaryIO, max_bytes: int) -> Iterator[NumberedRow]:
    """One row per record, with the number of its first line; the header is line 1. An empty cell is a null.

    Raises:
        SpecError: there is no readable header.
    """
    # The csv module has one limit for the whole process, far below a long problem; it is only ever raised.
    csv.field_size_limit(max(csv.field_size_limit(), max_bytes))
    source = _CsvLines(file, max_bytes)
    reader = csv.reader(source, strict=True)
    header: list[str] = []
    while True:
        source.begin_record()
        try:
            cells = next(reader)
        except StopIteration:
            return
        except (csv.Error, _RecordTooLong) as error:
            if not header:
                raise SpecError("prompts.path", source.excerpt, f"a CSV header: {error}") from error
            yield source.first_line, BadPromptRow(source.first_line, f"not CSV: {error}", source.excerpt)
            continue
        if not header:
            header = scrub(cells)
        elif cells:
            yield source.first_line, _record(header, cells, source)


class _CsvLines:
    """Lines for csv.reader, which asks for as many as a quoted record goes on."""

    def __init__(self, file: BinaryIO, max_bytes: int) -> None:
        self._lines = lines(file, max_bytes)
        self._max_bytes = max_bytes
        self.begin_record()

    def begin_record(self) -> None:
        self.first_line = 0
        self.excerpt = ""
        self._bytes = 0

    def __iter__(self) -> _CsvLines:
        return self

    def __next__(self) -> str:
        line = next(self._lines)
        if self.first_line == 0:
            self.first_line, self.excerpt = line.number, excerpt(line.content)
        self._bytes += len(line.content)
        if line.is_cut or self._bytes > self._max_bytes:
            raise _RecordTooLong(f"a record longer than max_row_bytes ({self._max_bytes})")
        return line.content.decode("utf-8", "surrogateescape") + "\n"


def _record(header: list[str], cells: list[str], source: _CsvLines) -> Row | BadPromptRow:
    if len(cells) != len(header):
        reason = f"{len(cells)} cells, but the header has {len(header)}"
        return BadPromptRow(source.first_line, reason, source.excerpt)
    try:
        for cell in cells:
            cell.encode()
    except UnicodeEncodeError:
        return BadPromptRow(source.first_line, "not UTF-8", source.excerpt)
    return {name: cell if cell != "" else None for name, cell in zip(header, cells, strict=True)}
