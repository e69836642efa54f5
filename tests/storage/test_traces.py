from __future__ import annotations

import asyncio
import dataclasses
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gen_service.errors import SpecError, StorageError
from gen_service.records import Trace, Verdict
from gen_service.settings import OutputSettings
from gen_service.storage import traces
from gen_service.storage.job_folder import open_job_folder
from gen_service.storage.schema import SCHEMA, VERSION_KEY

MakeTrace = Callable[..., Trace]


async def _job(folder: Path, made: list[Trace]) -> str:
    output = OutputSettings(path=str(folder), shard_rows=10)
    async with open_job_folder(output, "job", {"model": "tiny"}, {}, '{"top_p":0.9}', lambda _: None) as job:
        positions = await asyncio.gather(*map(job.record, made))
        for position, trace in zip(positions, made, strict=True):
            outcome = "error" if trace.error else "correct"
            await job.publish(position, dataclasses.replace(trace, verdict=Verdict(outcome, "by test")))
    return str(folder / "job")


@pytest.fixture
async def job_path(tmp_path: Path, make_trace: MakeTrace) -> str:
    return await _job(tmp_path, [make_trace(n, error="refused" if n % 10 == 9 else None) for n in range(25)])


async def test_rows_are_read_in_the_order_they_were_published(job_path: str) -> None:
    rows = list(traces.read_traces(job_path))
    assert [row["sample_id"] for row in rows] == [f"s{number:06}" for number in range(25)]
    assert list(rows[0]) == SCHEMA.names
    assert rows[9]["content"] is None
    assert (rows[9]["error"], rows[9]["attempts"], rows[9]["retries"]) == ("refused", 2, ["unreachable"])
    assert len(traces.part_files(job_path)) == 3


async def test_columns_are_chosen_by_name(job_path: str) -> None:
    assert next(traces.read_traces(job_path, ["verdict"])) == {"verdict": "correct"}
    assert traces.read_table(job_path, ["verdict", "seed"]).shape == (25, 2)
    with pytest.raises(SpecError, match=r"columns: got 'verdct'; expected one of job_id"):
        next(traces.read_traces(job_path, ["verdct"]))


async def test_datasets_reads_the_files_without_help(
    job_path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import datasets

    datasets.disable_progress_bars()
    files = traces.part_files(job_path)
    loaded: Any = datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=str(tmp_path / "cache"))
    assert list(loaded) == list(traces.read_traces(job_path))
    streamed: Any = datasets.load_dataset("parquet", data_files=files, split="train", streaming=True)
    assert [row["sample_id"] for row in streamed] == loaded["sample_id"][:]
    by_card: Any = datasets.load_dataset(job_path, split="train", cache_dir=str(tmp_path / "cache2"))
    assert by_card.num_rows == 25


SINCE_VERSION_2 = ["normalised", "extracted_how", "verdict_path", "verdict_cpu_s", "verifier"]


@pytest.fixture
def mixed_path(job_path: str) -> str:
    """A job whose first part has rows of version 1, as a job that goes on after an upgrade."""
    (first, *_) = traces.part_files(job_path)
    table = pq.read_table(first).drop_columns(SINCE_VERSION_2)
    pq.write_table(table.replace_schema_metadata({VERSION_KEY: b"1"}), first)
    return job_path


async def test_rows_of_version_1_lack_what_came_later(mixed_path: str) -> None:
    rows = list(traces.read_traces(mixed_path))
    assert {tuple(row) for row in rows} == {tuple(SCHEMA.names)}
    assert [row["verdict"] for row in rows] == ["error" if number % 10 == 9 else "correct" for number in range(25)]
    assert {tuple(row[name] for name in SINCE_VERSION_2) for row in rows[:10]} == {(None,) * 5}
    assert {tuple(row[name] for name in SINCE_VERSION_2) for row in rows[10:]} == {(None, "none", "none", 0.0, "")}
    assert [row["verifier"] for row in traces.read_traces(mixed_path, ["verifier"])] == [None] * 10 + [""] * 15
    assert traces.read_table(mixed_path, ["verifier", "seed"]).schema.names == ["verifier", "seed"]
    assert traces.read_table(mixed_path).schema.equals(SCHEMA)


async def test_the_card_has_datasets_read_versions_along(
    mixed_path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import datasets

    datasets.disable_progress_bars()
    loaded: Any = datasets.load_dataset(mixed_path, split="train", cache_dir=str(tmp_path / "cache"))
    assert list(loaded) == list(traces.read_traces(mixed_path))


async def test_a_path_without_a_job_is_an_error_of_the_path(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="expected a job folder"):
        traces.part_files(str(tmp_path / "nothing"))


async def test_an_empty_job_has_no_rows(tmp_path: Path) -> None:
    path = await _job(tmp_path, [])
    assert (list(traces.read_traces(path)), traces.part_files(path)) == ([], [])
    assert traces.read_table(path).schema.equals(SCHEMA)


async def test_rows_of_a_later_version_are_refused(job_path: str) -> None:
    (file, *_) = traces.part_files(job_path)
    later = SCHEMA.with_metadata({VERSION_KEY: b"3"})
    pq.write_table(pa.Table.from_batches(pq.read_table(file).to_batches(), schema=SCHEMA).cast(later), file)
    with pytest.raises(StorageError, match="version 3, newer than 2"):
        next(traces.read_traces(job_path))


async def test_reading_holds_about_one_row_group(tmp_path: Path, make_trace: MakeTrace) -> None:
    path = await _job(tmp_path, [make_trace(number, chars=40_000) for number in range(60)])
    tracemalloc.start()
    rows = sum(1 for _ in traces.read_traces(path))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert rows == 60
    # A group is 10 rows of 10,000 token ids and 40,000 characters: about 4 MB as Python objects.
    assert peak < 12_000_000


async def test_the_card_says_what_is_published(job_path: str) -> None:
    card = (Path(job_path) / "README.md").read_text()
    assert card.startswith("---\npretty_name: job\n")
    assert "    - data/part-0001-000003.parquet\n" in card
    assert "| rows | 25 |" in card
    assert "| correct | 23 | 92.0% |\n| error | 2 | 8.0% |" in card
    assert "        8 to        15          23  ########################################" in card
    assert '"model": "tiny"' in card
