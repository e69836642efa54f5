"""Where answers come from: jobs, Parquet and JSON lines; what is wrong with a source is said before any work."""

from __future__ import annotations

import gzip
import json
import uuid
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gen_service.errors import BadPromptRow, SpecError
from gen_service.records import Verdict
from gen_service.storage.answered_files import open_source
from gen_service.storage.answered_rows import AnswerColumns, AnsweredRow, Source, answered_rows

ROWS: list[dict[str, Any]] = [
    {"answer": "1", "content": "\\boxed{1}", "finish_reason": "length", "reasoning": "so", "verdict": "correct"},
    {"answer": 5.0, "content": "five", "finish_reason": None, "reasoning": None, "verdict": None},
    {"answer": None, "content": None, "finish_reason": None, "reasoning": None, "verdict": "error"},
]


def rows_of(source: Source, texts: bool = True) -> list[AnsweredRow]:
    return [row for part in source.parts for rows in part.read(texts) for row in rows]


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    if path.suffix == ".parquet":
        text = [{**row, "answer": None if row["answer"] is None else str(row["answer"])} for row in rows]
        pq.write_table(pa.Table.from_pylist(text), path)
    else:
        lines = "".join(f"{json.dumps(row)}\n" for row in rows).encode()
        path.write_bytes(gzip.compress(lines) if path.suffix == ".gz" else lines)
    return str(path)


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.parquet"])
def test_a_file_of_each_kind(tmp_path: Path, name: str) -> None:
    source = open_source(write(tmp_path / name, ROWS))
    first, second, third = rows_of(source)
    assert first == AnsweredRow(0, "0", "1", "1", "so", "\\boxed{1}", "length", None, "correct", None, None)
    assert (second.sample_id, second.finish_reason, second.reasoning, second.before) == ("1", "stop", None, None)
    assert second.gold == ("5" if name != "a.parquet" else "5.0")
    assert (third.gold, third.before, third.settled) == (None, "error", Verdict("error", "no completion"))
    assert source.verdicts == str(tmp_path / "a.verdicts")
    assert source.rows == (3 if name == "a.parquet" else None)
    without = rows_of(source, texts=False)
    assert [(row.row, row.gold, row.before) for row in without] == [
        (r.row, r.gold, r.before) for r in (first, second, third)
    ]


def test_columns_are_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [{"answer": "x", "g": "2", "c": "two", "r": "hm", "f": "length", "n": 7}])
    (row,) = rows_of(open_source(path, AnswerColumns("g", "c", "r", "f", "n")))
    assert (row.gold, row.content, row.reasoning, row.finish_reason, row.sample_id) == ("2", "two", "hm", "length", "7")


def test_a_folder_and_a_pattern_of_files(tmp_path: Path) -> None:
    folder = tmp_path / "answers"
    folder.mkdir()
    for name in ("b", "a", "c"):
        write(folder / f"{name}.parquet", ROWS[:2])
    (folder / "notes.txt").write_text("x")
    whole, some = open_source(str(folder)), open_source(f"{folder}/[ab].parquet")
    assert [part.name for part in whole.parts] == ["a.parquet", "b.parquet", "c.parquet"]
    assert [part.name for part in some.parts] == ["a.parquet", "b.parquet"]
    assert whole.verdicts == some.verdicts == str(tmp_path / "answers.verdicts")
    assert whole.rows == 6


def test_a_file_behind_a_url(tmp_path: Path) -> None:
    url = f"memory://{uuid.uuid4().hex}/a.jsonl"
    system, root = fsspec.core.url_to_fs(url)
    system.pipe_file(root, Path(write(tmp_path / "a.jsonl", ROWS)).read_bytes())
    source = open_source(url)
    assert [row.sample_id for row in rows_of(source)] == ["0", "1", "2"]
    assert source.verdicts == url.removesuffix(".jsonl") + ".verdicts"


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet"])
@pytest.mark.parametrize(
    ("columns", "words"),
    [
        (AnswerColumns(gold="gold"), "gold_column: got 'gold'; expected one of the columns of a"),
        (AnswerColumns(content="text"), "content_column: got 'text'; expected one of the columns of a"),
        (AnswerColumns(reasoning="why"), "reasoning_column: got 'why'"),
        (AnswerColumns(finish="end"), "finish_column: got 'end'"),
        (AnswerColumns(id="key"), "id_column: got 'key'.*answer, content, finish_reason"),
        (AnswerColumns(content="texts"), "content_column: got 'texts'; expected a column of text.*holds a list"),
    ],
)
def test_a_wrong_column_is_named_with_those_there_are(
    tmp_path: Path, name: str, columns: AnswerColumns, words: str
) -> None:
    path = write(tmp_path / name, [{"answer": "1", "content": "x", "finish_reason": "stop", "texts": ["x"]}])
    with pytest.raises(SpecError, match=words):
        open_source(path, columns)


@pytest.mark.parametrize(
    "name", ["missing.jsonl", "missing", "*.parquet", "empty", "broken.parquet", "broken.jsonl.gz", "x.csv"]
)
def test_a_path_without_answers_is_an_error_of_the_path(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.parquet").write_bytes(b"PAR1")
    (tmp_path / "broken.jsonl.gz").write_bytes(b"\x1f\x8bxxxx")
    (tmp_path / "x.csv").write_text("answer,content\n1,1\n")
    with pytest.raises(SpecError, match=r"path: got .*; expected a job folder"):
        open_source(f"{tmp_path}/empty/{name}" if name == "*.parquet" else f"{tmp_path}/{name}")


def test_a_jobs_columns_are_known(tmp_path: Path) -> None:
    (tmp_path / "manifest").mkdir()
    body = {"version": 1, "epoch": 1, "writer": "w", "parts": [], "rejected": 0}
    body["journal_covered"] = {"segment": 0, "offset": 0, "row": 0}
    (tmp_path / "manifest" / "000001.json").write_text(json.dumps(body))
    assert open_source(str(tmp_path)).rows == 0
    with pytest.raises(SpecError, match="no names of columns"):
        open_source(str(tmp_path), AnswerColumns(gold="g"))


VALUES = st.none() | st.text(max_size=5) | st.integers() | st.lists(st.text(max_size=2), max_size=2)
ROW = st.dictionaries(st.sampled_from(["answer", "content", "reasoning", "finish_reason", "verdict", "error"]), VALUES)
BAD = st.builds(BadPromptRow, st.just(3), st.just("not JSON"))


@given(st.lists(ROW | BAD, max_size=150))
def test_no_row_is_left_out_whatever_it_holds(rows: list[dict[str, Any] | BadPromptRow]) -> None:
    chunks = list(answered_rows(iter(list(enumerate(rows, 1))), AnswerColumns()))
    found = [row for chunk in chunks for row in chunk]
    assert [row.row for row in found] == list(range(len(rows)))
    assert all(0 < len(chunk) <= 64 for chunk in chunks)
    for row, given_row in zip(found, rows, strict=True):
        if row.settled is None:
            assert isinstance(given_row, dict)
            assert row.content == given_row["content"]
        else:
            assert row.settled.outcome in ("error", "ungradable")
            assert row.settled.reason
