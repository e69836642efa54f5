"""The file of a part takes Arrow's writes together, and is gone when it is done."""

from __future__ import annotations

import gc
import hashlib
import os
import weakref
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gen_service.storage.disk_space import SpaceWaiter
from gen_service.storage.part_file import BUFFER_BYTES, PartFile, arrow_stream

TABLE = pa.table({f"column {number}": [f"{number} {row}" for row in range(100)] for number in range(10)})


def _never(_: str) -> None:
    raise AssertionError("the disk is not full")


def _opened(path: Path) -> PartFile:
    return PartFile(path, SpaceWaiter(_never, _never))


def test_arrows_small_writes_reach_the_disk_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[int] = []
    pwrite = os.pwrite

    def counted(descriptor: int, data: bytes, offset: int) -> int:
        written.append(len(data))
        return pwrite(descriptor, data, offset)

    monkeypatch.setattr(os, "pwrite", counted)
    file = _opened(tmp_path / "part")
    stream = arrow_stream(file)
    pq.write_table(TABLE, stream)
    assert sum(written) < BUFFER_BYTES
    stream.flush()
    file.sync()
    file.close()
    content = (tmp_path / "part").read_bytes()
    assert len(written) <= 2
    assert (file.tell(), file.sha256.hexdigest()) == (len(content), hashlib.sha256(content).hexdigest())
    assert pq.read_table(tmp_path / "part").equals(TABLE)


def test_a_file_that_is_done_is_freed(tmp_path: Path) -> None:
    """Arrow holds what it writes to where Python's garbage collector does not see it."""
    file = _opened(tmp_path / "part")
    stream = arrow_stream(file)
    stream.write(b"x")
    stream.flush()
    file.close()
    alive = weakref.ref(file)
    del file, stream
    gc.collect()
    assert alive() is None


def test_a_closed_file_takes_nothing_lest_it_writes_into_another(tmp_path: Path) -> None:
    file = _opened(tmp_path / "part")
    file.close()
    with (tmp_path / "other").open("wb"):
        with pytest.raises(ValueError, match="is closed"):
            file.write(b"x")
        assert (tmp_path / "other").read_bytes() == b""
