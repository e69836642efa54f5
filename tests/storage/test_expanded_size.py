"""Parquet files that are more than they seem."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gen_service.storage import expanded_size
from gen_service.storage.expanded_size import ExpandsTooMuch, check_parquet_rows

MIB = 1024 * 1024
GIB = 1024 * MIB


def write(path: Path, values: pa.Array, **options: object) -> Path:
    pq.write_table(pa.table({"prompt": values, "number": [1] * len(values)}), path, compression="zstd", **options)
    return path


def pointing_at_one(rows: int, size: int) -> pa.Array:
    """Values whose one text each row points to."""
    return pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), pa.array(["x" * size]))


def test_an_honest_file_passes_up_to_its_size(tmp_path: Path) -> None:
    path = write(tmp_path / "p.parquet", pa.array([f"{number} + 1?" for number in range(10_000)]))
    check_parquet_rows(path, MIB)
    with pytest.raises(ExpandsTooMuch, match="more than 100000 bytes"):
        check_parquet_rows(path, 100_000)


def test_rows_that_share_one_value_count_each(tmp_path: Path) -> None:
    path = write(tmp_path / "p.parquet", pointing_at_one(1000, MIB))
    assert path.stat().st_size < MIB
    metadata = pq.read_metadata(path)
    said = sum(metadata.row_group(index).total_byte_size for index in range(metadata.num_row_groups))
    assert said < 2 * MIB
    with pytest.raises(ExpandsTooMuch):
        check_parquet_rows(path, 900 * MIB)
    check_parquet_rows(path, 1001 * MIB)


def test_what_needs_too_much_memory_at_once_takes_only_the_reader_along(tmp_path: Path) -> None:
    path = write(tmp_path / "p.parquet", pa.array(["x" * 1100 * MIB]), use_dictionary=False)
    assert path.stat().st_size < MIB
    with pytest.raises(ExpandsTooMuch, match="of memory to read"):
        check_parquet_rows(path, 1000 * GIB)


@pytest.mark.parametrize("keep", [0, 4, 100, 2000])
def test_a_damaged_file_is_said_to_be_so(tmp_path: Path, keep: int) -> None:
    path = write(tmp_path / "p.parquet", pa.array([str(number) * 50 for number in range(1000)]), use_dictionary=False)
    data = bytearray(path.read_bytes())
    data[4 : len(data) - 3000] = bytes(len(data) - 3004)
    path.write_bytes(bytes(data) if keep == 2000 else bytes(data[:keep]))
    with pytest.raises(ValueError, match=r"\w"):
        check_parquet_rows(path, GIB)


def test_a_file_that_takes_too_long_is_too_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "p.parquet", pa.array(["x"]))
    monkeypatch.setattr(expanded_size, "LONGEST_S", 0.001)
    with pytest.raises(ExpandsTooMuch, match="take more than"):
        check_parquet_rows(path, GIB)
