"""Sets of verdicts on disk: written whole or not at all, one verdict a row, laid over the traces when read."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from gen_service.errors import JobLocked, JobMismatch, PublishConflict, SpecError, StorageError
from gen_service.records import Verdict
from gen_service.storage import manifest
from gen_service.storage.answered_files import open_source
from gen_service.storage.answered_rows import AnswerColumns, AnsweredRow, Source
from gen_service.storage.destination import open_destination
from gen_service.storage.disk_space import SpaceWaiter
from gen_service.storage.traces import read_table, read_traces
from gen_service.storage.verdict_writer import VerdictWriter
from gen_service.storage.verdicts import (
    SCHEMA,
    VERDICT_COLUMNS,
    VERSION_KEY,
    VerdictSet,
    list_verdict_sets,
    open_verdict_set,
    verdict_set_named,
)

VERIFIER = "math-9-abc"
ROWS = 25


def quiet() -> SpaceWaiter:
    return SpaceWaiter(lambda _: None, lambda _: None)


def writer_of(
    source: Source, place: str | None = None, started_at: float = 1.0, verifier: str = VERIFIER
) -> VerdictWriter:
    return VerdictWriter(
        place or f"{source.verdicts}/{verifier}", source, verifier, {"started_at": started_at}, quiet()
    )


def judged(row: AnsweredRow, word: str = "again") -> Verdict:
    return Verdict("incorrect", word, f"e{row.row}", f"n{row.row}", "phrase", "number", row.row / 8, VERIFIER)


def rows_of(source: Source) -> list[tuple[str, AnsweredRow]]:
    return [(part.name, row) for part in source.parts for rows in part.read(True) for row in rows]


def write_all(source: Source, place: str | None = None, **about: Any) -> None:
    writer = writer_of(source, place, **about)
    for part, row in rows_of(source):
        writer.add(part, [row], [judged(row)])
    writer.publish()
    writer.close()


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory, stored_answer: Any, store_job: Any) -> str:
    rows = [
        stored_answer(str(number), f"\\boxed{{{number}}}", Verdict("correct", "own", "own")) for number in range(ROWS)
    ]
    return asyncio.run(store_job(tmp_path_factory.mktemp("verdicts"), rows))


@pytest.fixture
def source(job: str, quick_disk: Path) -> Source:
    """The job, its sets of verdicts in a folder of the test's own."""
    linked = quick_disk / "job"
    linked.mkdir()
    for name in ("data", "manifest"):
        (linked / name).symlink_to(Path(job) / name)
    return open_source(str(linked))


def test_verdicts_are_laid_over_the_rows_own(source: Source) -> None:
    before = list(read_traces(source.place))
    write_all(source)
    rows = list(read_traces(source.place, verdicts="latest"))
    assert list(rows[0]) == list(before[0])
    assert list(read_traces(source.place)) == before
    for number, (row, old) in enumerate(zip(rows, before, strict=True)):
        place = number % 10
        assert (row["verdict"], row["verdict_reason"], row["extracted"]) == ("incorrect", "again", f"e{place}")
        assert (row["normalised"], row["extracted_how"], row["verdict_path"]) == (f"n{place}", "phrase", "number")
        assert (row["verdict_cpu_s"], row["verifier"]) == (place / 8, VERIFIER)
        assert {name: row[name] for name in row if name not in VERDICT_COLUMNS} == {
            name: old[name] for name in old if name not in VERDICT_COLUMNS
        }
    assert read_table(source.place, ["verdict", "seed"], VERIFIER).column("verdict").unique().to_pylist() == [
        "incorrect"
    ]
    assert read_table(source.place, ["seed"], VERIFIER).num_rows == ROWS


def test_a_set_may_be_read_as_it_was_with_its_first_parts(source: Source) -> None:
    write_all(source)
    first, *others = (part.name for part in source.parts)
    judged_then = open_verdict_set(source.place, verdict_set_named(source.place, "latest"), most_parts=1)
    assert (judged_then.rows, judged_then.rows_of(first)) == (10, 10)
    assert [judged_then.rows_of(other) for other in others] == [0, 0]
    assert open_verdict_set(source.place, "latest", most_parts=0).rows == 0


def test_the_parts_say_which_rows_they_are_about(source: Source) -> None:
    write_all(source)
    folder = Path(f"{source.verdicts}/{VERIFIER}")
    tables = [pq.read_table(path) for path in sorted(folder.glob("data/*.parquet"))]
    assert all(table.schema.equals(SCHEMA) for table in tables)
    rows = [row for table in tables for row in table.to_pylist()]
    assert [(row["part"], row["row"], row["sample_id"]) for row in rows] == [
        (part, row.row, row.sample_id) for part, row in rows_of(source)
    ]
    assert [part.source for one in manifest.load(open_destination(str(folder))) for part in one.parts] == [
        part.name for part in source.parts
    ]


@hypothesis_settings(max_examples=40)
@given(
    chosen=st.sets(st.integers(0, ROWS - 1)),
    runs=st.lists(st.tuples(st.integers(0, ROWS), st.booleans()), max_size=4),
    cuts=st.sets(st.integers(0, ROWS - 1)),
)
def test_however_often_a_run_is_killed_each_chosen_row_has_one_verdict(
    job: str, tmp_path_factory: pytest.TempPathFactory, chosen: set[int], runs: list[tuple[int, bool]], cuts: set[int]
) -> None:
    """A run takes the rows without a verdict in order, and may be killed after any row, a part open or not."""
    source, place = open_source(job), str(tmp_path_factory.mktemp("set"))
    rows = rows_of(source)
    for killed_after, closes in [*runs, (ROWS, True)]:
        writer = writer_of(source, place)
        done = {(part.name, row) for part in source.parts for row in writer.judged(part.name).tolist()}
        todo = [number for number in sorted(chosen) if (rows[number][0], rows[number][1].row) not in done]
        for number in todo[:killed_after]:
            writer.add(rows[number][0], [rows[number][1]], [judged(rows[number][1])])
            if number in cuts:
                writer.publish()
        if killed_after >= len(todo):
            writer.publish()
        if closes:
            writer.close()
        else:
            writer._lock.release()  # what the kernel does when a process is killed
    assert [path.name for path in Path(place).rglob("*.tmp")] == []
    verdicts = VerdictSet(open_destination(place))
    found = [
        (part.name, row) for part in source.parts for row in verdicts.table_of(part.name, []).column("row").to_pylist()
    ]
    assert found == [(rows[number][0], rows[number][1].row) for number in sorted(chosen)]
    assert verdicts.rows == len(chosen)


def test_rows_without_a_verdict_keep_their_own(source: Source) -> None:
    writer = writer_of(source)
    for part, row in rows_of(source):
        if row.row % 3 == 1:
            writer.add(part, [row], [judged(row)])
    writer.publish()
    writer.close()
    expected = ["again" if number % 10 % 3 == 1 else "own" for number in range(ROWS)]
    assert [row["verdict_reason"] for row in read_traces(source.place, ["verdict_reason"], VERIFIER)] == expected


def test_what_was_not_published_is_not_there(source: Source) -> None:
    part, row = rows_of(source)[0]
    writer = writer_of(source)
    writer.add(part, [row], [judged(row)])
    assert (list_verdict_sets(source.place), writer.open_rows) == ([], 1)
    writer.close()
    assert list_verdict_sets(source.place) == []
    with pytest.raises(SpecError, match="this job has no set of verdicts"):
        open_verdict_set(source.place, "latest")


def test_a_part_that_no_manifest_names_is_swept(source: Source) -> None:
    write_all(source)
    orphan = Path(source.verdicts) / VERIFIER / "data" / "part-0009-000001.parquet"
    orphan.write_bytes(b"half")
    writer_of(source).close()
    assert orphan.exists(), "a run that writes nothing touches nothing"
    writer = writer_of(source)
    writer.add("more", [rows_of(source)[0][1]], [judged(rows_of(source)[0][1])])
    writer.publish()
    writer.close()
    assert not orphan.exists()


def test_sets_are_listed_and_the_last_written_is_the_latest(source: Source) -> None:
    write_all(source, verifier="b", started_at=2.0)
    write_all(source, verifier="a", started_at=3.0)
    infos = list_verdict_sets(source.place)
    assert [(info.name, info.rows, info.by_verdict, info.started_at) for info in infos] == [
        ("b", ROWS, {"incorrect": ROWS}, 2.0),
        ("a", ROWS, {"incorrect": ROWS}, 3.0),
    ]
    assert open_verdict_set(source.place, "latest").about["spec"]["started_at"] == 3.0
    with pytest.raises(SpecError, match=r"verdicts: got 'c'; expected one of b, a, latest"):
        next(read_traces(source.place, verdicts="c"))


def test_one_writer_at_a_time(source: Source) -> None:
    first = writer_of(source)
    with pytest.raises(JobLocked):
        writer_of(source)
    first.close()
    writer_of(source).close()


def test_behind_a_url_the_older_of_two_writers_fails(source: Source) -> None:
    place = f"memory://{uuid.uuid4().hex}/set"
    (part, row), (_, other), *_ = rows_of(source)
    older, newer = writer_of(source, place), writer_of(source, place)
    older.add(part, [row], [judged(row)])
    with pytest.raises(PublishConflict):
        newer.add(part, [row], [judged(row)])
    older.publish()
    newest = writer_of(source, place)
    newest.add(part, [other], [judged(other)])
    older.add(part, [other], [judged(other)])
    with pytest.raises(PublishConflict):
        older.publish()
    newest.publish()
    assert VerdictSet(open_destination(place)).table_of(part, []).column("row").to_pylist() == [0, 1]
    for writer in (older, newer, newest):
        writer.close()


def test_a_job_behind_a_url(source: Source) -> None:
    url = f"memory://{uuid.uuid4().hex}/job"
    system, root = fsspec.core.url_to_fs(url)
    for name in ("data", "manifest"):
        for path in (Path(source.place) / name).iterdir():
            system.makedirs(f"{root}/{name}", exist_ok=True)
            system.pipe_file(f"{root}/{name}/{path.name}", path.read_bytes())
    write_all(open_source(url))
    assert [info.name for info in list_verdict_sets(url)] == [VERIFIER]
    assert {row["verdict_reason"] for row in read_traces(url, verdicts="latest")} == {"again"}


def test_a_set_is_of_one_verifier_and_one_choice_of_columns(tmp_path: Path) -> None:
    file = tmp_path / "answers.jsonl"
    file.write_text('{"answer": "1", "gold": "2", "content": "3"}\n')
    place = str(tmp_path / "set")
    write_all(open_source(str(file)), place)
    with pytest.raises(JobMismatch, match=r"columns\.gold was 'answer' and is now 'gold'"):
        writer_of(open_source(str(file), AnswerColumns(gold="gold")), place)
    with pytest.raises(JobMismatch, match="verifier was 'math-9-abc' and is now 'other'"):
        writer_of(open_source(str(file)), place, verifier="other")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda old: old + b'{"answer": "9", "content": "9"}\n', None),
        (lambda old: old, None),
        (lambda old: old.replace(b'"0"', b'"1"', 1), "has changed since it was verified; remove"),
        (lambda old: old[: len(old) // 2], "has changed"),
        (lambda old: b'{"answer": "9", "content": "9"}\n' + old, "has changed"),
    ],
)
def test_a_file_may_grow_at_its_end_and_not_change(
    tmp_path: Path, change: Callable[[bytes], bytes], words: str
) -> None:
    file = tmp_path / "answers.jsonl"
    file.write_text("".join(f'{{"answer": "{number}", "content": "x"}}\n' for number in range(9_000)))
    write_all(open_source(str(file)))
    file.write_bytes(change(file.read_bytes()))
    if words is None:
        writer_of(open_source(str(file))).close()
    else:
        with pytest.raises(StorageError, match=words):
            writer_of(open_source(str(file)))


def test_verdicts_of_a_later_version_are_refused(source: Source) -> None:
    write_all(source)
    (file, *_) = sorted((Path(source.verdicts) / VERIFIER / "data").iterdir())
    later = SCHEMA.with_metadata({VERSION_KEY: b"2"})
    pq.write_table(pa.Table.from_batches(pq.read_table(file).to_batches(), schema=SCHEMA).cast(later), file)
    with pytest.raises(StorageError, match="verdicts of version 2, newer than 1"):
        next(read_traces(source.place, verdicts=VERIFIER))


def test_a_missing_part_is_said(source: Source) -> None:
    write_all(source)
    (file, *_) = sorted((Path(source.verdicts) / VERIFIER / "data").iterdir())
    file.unlink()
    with pytest.raises(StorageError, match="is named by a manifest, but is not there"):
        next(read_traces(source.place, verdicts=VERIFIER))


def test_what_cannot_be_written_as_utf_8_is_made_writable(tmp_path: Path) -> None:
    file = tmp_path / "answers.jsonl"
    file.write_text('{"answer": "1", "content": "\\ud83d", "id": "\\ud83d"}\n')
    source = open_source(str(file), AnswerColumns(id="id"))
    ((part, row),) = rows_of(source)
    writer = writer_of(source)
    writer.add(part, [row], [Verdict("incorrect", row.content, row.content)])
    writer.publish()
    writer.close()
    table = VerdictSet(open_destination(f"{source.verdicts}/{VERIFIER}")).table_of(part, ["sample_id", "extracted"])
    assert table.to_pylist() == [{"row": 0, "sample_id": "\ufffd", "extracted": "\ufffd"}]
