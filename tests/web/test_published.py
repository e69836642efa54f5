"""Pages of what is published: every row once, in order, whatever the pages and whenever more is published."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import orjson
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gen_service.errors import InvalidRequest, StorageError
from gen_service.records import Verdict
from gen_service.storage.manifest import Part
from gen_service.storage.schema import SCHEMA, VERSION_KEY
from gen_service.storage.traces import read_traces
from gen_service.web.published import PublishedParts, page
from gen_service.web.row_formats import as_lines, as_page, as_parquet, batches_of

RIGHT = Verdict("correct", "equal")


def parts_of(sizes: list[int]) -> list[Part]:
    return [Part(f"data/{n}.parquet", rows, 1, "00", {}, 0, 0) for n, rows in enumerate(sizes)]


@given(
    sizes=st.lists(st.integers(1, 9), max_size=6),
    limits=st.lists(st.none() | st.integers(1, 12), min_size=1, max_size=8),
    first_visible=st.integers(0, 6),
)
def test_pages_hold_every_row_once_and_in_order(sizes: list[int], limits: list[int | None], first_visible: int) -> None:
    parts, place, rows = parts_of(sizes), (0, 0), []
    # Later parts are published between the pages.
    for visible in [min(first_visible, len(parts)), *([len(parts)] * 60)]:
        limit = limits[len(rows) % len(limits)]
        slices, place = page(parts[:visible], place, limit)
        rows += [(one.part.file, one.first + n) for one in slices for n in range(one.rows)]
        assert limit is None or sum(one.rows for one in slices) <= limit
    assert rows == [(part.file, row) for part in parts for row in range(part.rows)]
    assert place == (len(parts), 0)


@given(sizes=st.lists(st.integers(1, 5), max_size=4), part=st.integers(0, 6), row=st.integers(0, 7))
def test_a_place_that_no_page_ends_at_is_refused(sizes: list[int], part: int, row: int) -> None:
    parts = parts_of(sizes)
    is_place = (part < len(parts) and row < parts[part].rows) or (part == len(parts) and row == 0)
    if is_place:
        slices, _ = page(parts, (part, row), 1)
        assert [(one.part.file, one.first, one.rows) for one in slices] == (
            [(parts[part].file, row, 1)] if part < len(parts) else []
        )
    else:
        with pytest.raises(InvalidRequest, match="cursor"):
            page(parts, (part, row), 1)


@pytest.fixture
async def folder(tmp_path: Path, store_job: Callable[..., Awaitable[str]], stored_answer: Any) -> str:
    """Seven rows in parts of three, three and one; two of them are errors."""
    rows = [stored_answer("1", None if n % 4 == 3 else f"text {n}\u2028\n", RIGHT) for n in range(7)]
    return await store_job(tmp_path, rows, shard_rows=3)


@pytest.mark.parametrize("limit", [1, 2, 3, 5, None])
async def test_rows_are_those_that_the_reader_reads(folder: str, limit: int | None) -> None:
    found = await PublishedParts().of(folder)
    expected = [orjson.loads(orjson.dumps(row)) for row in read_traces(folder)]
    assert [part.rows for part in found.parts] == [3, 3, 1]
    lines, place = b"", (0, 0)
    for _ in range(8):
        slices, place = page(found.parts, place, limit)
        lines += b"".join(as_lines(batches_of(found.destination, slices, SCHEMA.names)))
    assert [orjson.loads(line) for line in lines.splitlines()] == expected
    assert len(expected) == 7


async def test_columns_are_given_in_the_order_asked_for(folder: str) -> None:
    found = await PublishedParts().of(folder)
    slices, _ = page(found.parts, (0, 2), 3)
    names = ["verdict", "sample_id", "token_ids"]
    rows = [orjson.loads(line) for line in b"".join(as_lines(batches_of(found.destination, slices, names))).split()]
    assert [list(row) for row in rows] == [names] * 3
    assert [row["sample_id"] for row in rows] == ["s000002", "s000003", "s000004"]
    assert [row["token_ids"] for row in rows] == [[0, 1, 2], [], [0, 1, 2]]


async def test_a_page_of_json_is_one_document(folder: str) -> None:
    found = await PublishedParts().of(folder)
    for limit in (None, 2):
        slices, _ = page(found.parts, (0, 0), limit)
        text = b"".join(as_page(batches_of(found.destination, slices, ["prompt_id"]), "next"))
        expected = [{"prompt_id": f"p{n}"} for n in range(limit or 7)]
        assert orjson.loads(text) == {"version": 1, "data": expected, "next_cursor": "next"}
    empty = b"".join(as_page(iter(()), None))
    assert orjson.loads(empty) == {"version": 1, "data": [], "next_cursor": None}


@pytest.mark.parametrize("names", [SCHEMA.names, ["content", "verdict"]])
async def test_parquet_is_one_file_with_the_same_rows(folder: str, names: list[str], tmp_path: Path) -> None:
    found = await PublishedParts().of(folder)
    slices, _ = page(found.parts, (0, 1), 5)
    path = tmp_path / "sent.parquet"
    path.write_bytes(b"".join(as_parquet(batches_of(found.destination, slices, names), names)))
    table = pq.read_table(path)
    assert table.column_names == names
    assert table.schema.metadata[VERSION_KEY] == SCHEMA.metadata[VERSION_KEY]
    assert table.to_pylist() == [{name: row[name] for name in names} for row in list(read_traces(folder))[1:6]]


async def test_parquet_of_nothing_is_a_file_without_rows(tmp_path: Path) -> None:
    path = tmp_path / "sent.parquet"
    path.write_bytes(b"".join(as_parquet(iter(()), SCHEMA.names)))
    assert pq.read_table(path).num_rows == 0
    assert pq.read_schema(path).names == SCHEMA.names


async def test_more_is_found_as_it_is_published(
    tmp_path: Path, store_job: Callable[..., Awaitable[str]], stored_answer: Any
) -> None:
    known, rows = PublishedParts(), [stored_answer("1", "x", RIGHT) for _ in range(5)]
    assert (await known.of(str(tmp_path / "job"))).parts == ()
    folder = await store_job(tmp_path, rows[:3], shard_rows=2)
    before = await known.of(folder)
    assert [part.rows for part in before.parts] == [2, 1]
    await store_job(tmp_path, rows, shard_rows=2)
    after = await known.of(folder)
    assert after.parts[:2] == before.parts
    assert [part.rows for part in after.parts] == [2, 1, 2]
    assert after.manifests == len(list((tmp_path / "job" / "manifest").glob("*.json")))
    assert (await known.of(folder)) == after


async def test_a_file_that_is_gone_is_an_error(folder: str) -> None:
    found = await PublishedParts().of(folder)
    (Path(folder) / found.parts[1].file).unlink()
    slices, _ = page(found.parts, (0, 0), None)
    with pytest.raises(StorageError, match="is not there"):
        list(as_lines(batches_of(found.destination, slices, ["verdict"])))
