"""A file while it comes in: written beside its place under another name, and counted as it comes."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gen_service.errors import InvalidRequest, TooLarge, UnsupportedMedia
from gen_service.service_settings import UploadSettings
from gen_service.storage.disk_space import sync_file, sync_folder, write_at
from gen_service.storage.expanded_size import ExpandsTooMuch, check_parquet_rows

# How compressed files begin: gzip, Zstandard, bzip2, xz, zip, lz4, Unix compress.
_COMPRESSED = (
    b"\x1f\x8b",
    b"\x28\xb5\x2f\xfd",
    b"BZh",
    b"\xfd7zXZ\x00",
    b"PK\x03\x04",
    b"\x04\x22\x4d\x18",
    b"\x1f\x9d",
)
_HEAD_BYTES = 8
# How Parquet files end, plain and encrypted.
_PARQUET = (b"PAR1", b"PARE")
_NEWLINE = 10


@dataclass(slots=True)
class LineCounter:
    """Lines of what it is fed, and the first that is too long or one too many.

    Attributes:
        lines: so far; what comes after the last line end counts as one.
        too_long: 1-based number of the first line of more than `max_line_bytes`.
    """

    max_line_bytes: int
    too_long: int | None = None
    _ended: int = 0
    _open_bytes: int = 0

    @property
    def lines(self) -> int:
        return self._ended + (self._open_bytes > 0)

    def feed(self, data: bytes) -> None:
        """Count more bytes."""
        ends = np.flatnonzero(np.frombuffer(data, dtype=np.uint8) == _NEWLINE)
        if self.too_long is None:
            lengths = np.diff(ends, prepend=-1 - self._open_bytes, append=len(data)) - 1
            longer = np.flatnonzero(lengths > self.max_line_bytes)
            if len(longer):
                self.too_long = self._ended + int(longer[0]) + 1
        self._ended += len(ends)
        self._open_bytes = len(data) - int(ends[-1]) - 1 if len(ends) else self._open_bytes + len(data)


class IncomingFile:
    """The `.part` of one upload. Used from one thread at a time.

    Args:
        path: where it goes when it is whole; beside it lies `<name>.part` until then.
        check_size: called with the bytes so far; raises when they are more than the tenant may have.
    """

    def __init__(self, path: Path, limits: UploadSettings, check_size: Callable[[int], None]) -> None:
        self.bytes = 0
        self.counter = LineCounter(limits.max_line_bytes)
        self._limits = limits
        self._check_size = check_size
        self._path = path
        self._part = path.with_name(f"{path.name}.part")
        self._head = b""
        self._descriptor = os.open(self._part, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)

    def write(self, data: bytes) -> None:
        """Add bytes.

        Raises:
            TooLarge: they are more than one upload may have.
            UnsupportedMedia: the file is compressed.
            OSError: the disk failed, or is full.
        """
        if self.bytes + len(data) > self._limits.max_bytes:
            raise TooLarge(f"file: more than {self._limits.max_bytes} bytes (uploads.max_bytes)", field="file")
        self._check_size(self.bytes + len(data))
        if len(self._head) < _HEAD_BYTES:
            self._head = (self._head + data)[:_HEAD_BYTES]
            if self._head.startswith(_COMPRESSED):
                raise UnsupportedMedia("file: it is compressed; expected it as it is", field="file", code="compressed")
        write_at(self._descriptor, data, self.bytes)
        self.bytes += len(data)
        self.counter.feed(data)

    def check_is_text(self) -> None:
        """Refuse a Parquet file under another name: it would get past `check_parquet`.

        Raises:
            InvalidRequest: it is one.
        """
        if os.pread(self._descriptor, 4, max(0, self.bytes - 4)) in _PARQUET:
            raise InvalidRequest("file: it is Parquet; expected a name ending in .parquet, for `prompts`", field="file")

    def check_lines(self) -> None:
        """Check what came so far as JSON lines.

        Raises:
            TooLarge: a line is too long, or there are too many; names the line.
        """
        limits, counter = self._limits, self.counter
        if counter.too_long is not None:
            words = f"more than {limits.max_line_bytes} bytes (uploads.max_line_bytes)"
            raise TooLarge(f"file: line {counter.too_long} has {words}", field="file", code="line_too_long")
        if counter.lines > limits.max_lines:
            words = f"line {limits.max_lines + 1} is one more than the most, {limits.max_lines} (uploads.max_lines)"
            raise TooLarge(f"file: {words}", field="file", code="too_many_lines")

    def check_parquet(self) -> int:
        """Check what came as a Parquet file, by its metadata and then by reading it; its rows.

        Raises:
            InvalidRequest: it is not Parquet, or is damaged.
            TooLarge: it would be larger than `uploads.max_expanded_bytes` in memory, or has too many rows.
        """
        try:
            metadata = pq.read_metadata(self._part)
        except (pa.ArrowException, OSError) as error:
            raise InvalidRequest(
                f"file: its name says Parquet, but: {error}", field="file", code="not_parquet"
            ) from error
        expanded = sum(metadata.row_group(index).total_byte_size for index in range(metadata.num_row_groups))
        if expanded > self._limits.max_expanded_bytes:
            most = f"{self._limits.max_expanded_bytes} (uploads.max_expanded_bytes)"
            raise TooLarge(f"file: {expanded} bytes uncompressed; expected at most {most}", field="file")
        if metadata.num_rows > self._limits.max_lines:
            most = f"{self._limits.max_lines} (uploads.max_lines)"
            raise TooLarge(f"file: {metadata.num_rows} rows; expected at most {most}", field="file")
        try:
            check_parquet_rows(self._part, self._limits.max_expanded_bytes)
        except ExpandsTooMuch as error:
            raise TooLarge(f"file: {error} (uploads.max_expanded_bytes)", field="file") from error
        except ValueError as error:
            raise InvalidRequest(f"file: it cannot be read: {error}", field="file", code="not_parquet") from error
        return int(metadata.num_rows)

    def keep(self) -> None:
        """Bring the file to its place; durable when this returns."""
        sync_file(self._descriptor)
        os.replace(self._part, self._path)
        sync_folder(self._path.parent)

    def close(self) -> None:
        """Let go of the file; what was not kept is gone."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
            self._part.unlink(missing_ok=True)
