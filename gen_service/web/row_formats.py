"""Published rows as bytes, piece by piece, in whatever thread asks for the next one; about one row group in memory."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from gen_service.storage.destination import Destination
from gen_service.storage.schema import SCHEMA
from gen_service.storage.traces import part_batches
from gen_service.web.published import Slice

# Of Arrow data that is made Python objects at a time; these take many times as much.
PIECE_BYTES = 1024 * 1024
COMPRESSION_LEVEL = 3


def batches_of(destination: Destination, slices: Sequence[Slice], columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """The rows of some slices, in order.

    Raises:
        StorageError: a file is missing or of a later version.
    """
    for one in slices:
        left = one.rows
        for batch in part_batches(destination, one.part, columns, one.first):
            yield batch.slice(0, left)
            left -= batch.num_rows
            if left <= 0:
                break


def as_lines(batches: Iterator[pa.RecordBatch]) -> Iterator[bytes]:
    """One line of JSON a row."""
    for rows in _rows(batches):
        yield b"".join(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE) for row in rows)


def as_page(batches: Iterator[pa.RecordBatch], next_cursor: str | None) -> Iterator[bytes]:
    """A ResultPage as JSON."""
    before = b'{"version":1,"data":['
    for rows in _rows(batches):
        yield before + b",".join(map(orjson.dumps, rows))
        before = b","
    start = before if before != b"," else b""
    yield start + b'],"next_cursor":' + orjson.dumps(next_cursor) + b"}"


def as_parquet(batches: Iterator[pa.RecordBatch], columns: Sequence[str]) -> Iterator[bytes]:
    """One Parquet file. Its footer comes last, so it is sent while it is written and lies nowhere."""
    sink = _Taken()
    schema = pa.schema([SCHEMA.field(name) for name in columns], metadata=SCHEMA.metadata)
    with pq.ParquetWriter(sink, schema, compression="zstd", compression_level=COMPRESSION_LEVEL) as writer:
        for batch in batches:
            writer.write_batch(pa.RecordBatch.from_arrays(batch.columns, schema=schema))
            yield sink.take()
    yield sink.take()


def _rows(batches: Iterator[pa.RecordBatch]) -> Iterator[list[dict[str, Any]]]:
    for batch in batches:
        at_once = max(1, batch.num_rows * PIECE_BYTES // max(1, batch.nbytes))
        for first in range(0, batch.num_rows, at_once):
            yield batch.slice(first, at_once).to_pylist()


class _Taken(io.RawIOBase):
    """A file that is only written to, and taken away as it grows."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._size = 0

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._size

    def write(self, data: Any) -> int:
        piece = bytes(data)
        self._pieces.append(piece)
        self._size += len(piece)
        return len(piece)

    def take(self) -> bytes:
        pieces, self._pieces = self._pieces, []
        return b"".join(pieces)
