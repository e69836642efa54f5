from __future__ import annotations

import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gen_service.storage import frames

ROWS = st.lists(st.binary(max_size=200), max_size=8)


@given(ROWS)
def test_rows_come_back_as_they_were(rows: list[bytes]) -> None:
    frame = frames.pack(rows)
    assert frames.frame_bytes(frame[: frames.HEADER_BYTES]) == len(frame)
    assert [bytes(row) for row in frames.unpack(frame)] == rows


@given(ROWS, st.data())
def test_every_flipped_bit_is_seen(rows: list[bytes], data: st.DataObject) -> None:
    frame = bytearray(frames.pack(rows))
    bit = data.draw(st.integers(0, 8 * len(frame) - 1))
    frame[bit // 8] ^= 1 << bit % 8
    with pytest.raises(frames.BadFrame):
        frames.unpack(bytes(frame))


@given(ROWS, st.data())
def test_a_cut_frame_is_seen(rows: list[bytes], data: st.DataObject) -> None:
    frame = frames.pack(rows)
    with pytest.raises(frames.BadFrame):
        frames.unpack(frame[: data.draw(st.integers(0, len(frame) - 1))])


@given(st.binary(max_size=100), ROWS, st.binary(max_size=100))
def test_an_intact_frame_is_found_among_rubbish(before: bytes, rows: list[bytes], after: bytes) -> None:
    rubbish = before + frames.MAGIC
    assert frames.find_intact(rubbish + frames.pack(rows) + after, 0) == len(rubbish)
    assert frames.find_intact(rubbish + frames.pack(rows)[:-1], 0) is None


def test_an_intact_frame_of_a_later_version_is_not_taken_for_damage() -> None:
    later = bytearray(frames.pack([b"row"]))
    prefix_end = frames.HEADER_BYTES - 4
    later[len(frames.MAGIC)] = frames.FRAME_VERSION + 1
    crc = zlib.crc32(later[frames.HEADER_BYTES :], zlib.crc32(later[len(frames.MAGIC) : prefix_end]))
    later[prefix_end : frames.HEADER_BYTES] = crc.to_bytes(4, "little")
    frames.check(bytes(later))
    with pytest.raises(frames.NewerFrame):
        frames.unpack(bytes(later))
