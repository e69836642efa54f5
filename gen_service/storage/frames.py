"""The journal's frames, as pure functions over bytes.

A frame is one group commit: magic (4), version (1), padding (3), payload length (u32), crc32 (u32), payload; all
little endian. The crc covers version, padding, length and payload, so every flipped bit is seen. The payload is a zstd
frame of: row count (u32), the length of each row (u32), the rows. One frame per commit, and not one per row, so that
what a crash can tear is always exactly the last frame: nothing after it was ever acknowledged.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from typing import NamedTuple

import zstandard

MAGIC = b"GSJ\xf1"
FRAME_VERSION = 1
_PREFIX = struct.Struct("<B3xI")
HEADER_BYTES = len(MAGIC) + _PREFIX.size + 4
_LEVEL = 1


class JournalPosition(NamedTuple):
    """Where a row lies: segment number, byte offset of its frame, 0-based row in the frame. Ordered as written."""

    segment: int
    offset: int
    row: int


ORIGIN = JournalPosition(0, 0, 0)


class BadFrame(ValueError):
    """The bytes at this place are no whole, intact frame."""


class NewerFrame(ValueError):
    """The frame is intact, but a later version of this package wrote it."""


def pack(rows: Sequence[bytes]) -> bytes:
    """One frame that holds these rows."""
    lengths = struct.pack(f"<{len(rows) + 1}I", len(rows), *map(len, rows))
    payload = zstandard.ZstdCompressor(level=_LEVEL).compress(b"".join((lengths, *rows)))
    prefix = _PREFIX.pack(FRAME_VERSION, len(payload))
    crc = zlib.crc32(payload, zlib.crc32(prefix))
    return b"".join((MAGIC, prefix, crc.to_bytes(4, "little"), payload))


def frame_bytes(header: bytes) -> int:
    """The length of the whole frame that begins with this header.

    Raises:
        BadFrame: these bytes are no header.
    """
    if len(header) < HEADER_BYTES or not header.startswith(MAGIC):
        raise BadFrame("no frame header")
    _, length = _PREFIX.unpack_from(header, len(MAGIC))
    return HEADER_BYTES + int(length)


def unpack(frame: bytes) -> list[memoryview]:
    """The rows of a whole frame.

    Raises:
        BadFrame: a byte is missing, too many, or not as it was written.
        NewerFrame: a later version of this package wrote it.
    """
    check(frame)
    if (version := frame[len(MAGIC)]) > FRAME_VERSION:
        raise NewerFrame(f"frame version {version} is newer than {FRAME_VERSION}, the last one known here")
    body = memoryview(zstandard.ZstdDecompressor().decompress(frame[HEADER_BYTES:]))
    (count,) = struct.unpack_from("<I", body)
    lengths = struct.unpack_from(f"<{count}I", body, 4)
    rows, start = [], 4 * (count + 1)
    for length in lengths:
        rows.append(body[start : start + length])
        start += length
    return rows


def check(frame: bytes) -> None:
    """Raise BadFrame unless `frame` is exactly one intact frame."""
    if frame_bytes(frame[:HEADER_BYTES]) != len(frame):
        raise BadFrame("the frame is cut off")
    prefix_end = len(MAGIC) + _PREFIX.size
    crc = zlib.crc32(memoryview(frame)[HEADER_BYTES:], zlib.crc32(frame[len(MAGIC) : prefix_end]))
    if crc != int.from_bytes(frame[prefix_end:HEADER_BYTES], "little"):
        raise BadFrame("the frame fails its checksum")


def find_intact(data: bytes, start: int) -> int | None:
    """The first offset at or after `start` where an intact frame begins, or None."""
    at = data.find(MAGIC, start)
    while at >= 0:
        try:
            check(data[at : at + frame_bytes(data[at : at + HEADER_BYTES])])
        except BadFrame:
            at = data.find(MAGIC, at + 1)
        else:
            return at
    return None
