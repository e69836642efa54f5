"""`gen-service verify` as people type it: what it prints, writes and refuses. Whole runs are in the journeys."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from gen_service.cli import app
from gen_service.errors import SpecError
from gen_service.jobs.judging import ReverifyProgress
from gen_service.jobs.verdict_changes import Example, VerdictChanges
from gen_service.records import Verdict
from gen_service.storage.verdicts import list_verdict_sets
from gen_service.terminal.verify import progress_line
from gen_service.terminal.verify_report import clipped, print_changes

ROWS = 40
OWN = Verdict("correct", "own", "own")


@pytest.fixture
def job(tmp_path: Path, stored_answer: Any, store_job: Any) -> str:
    """Every fourth answer is wrong, and all were called correct; two samples a prompt."""
    rows = [
        stored_answer(str(number), f"\\boxed{{{number + (number % 4 == 0)}}}", OWN, prompt=f"p{number // 2}")
        for number in range(ROWS)
    ]
    return str(asyncio.run(store_job(tmp_path, rows)))


def said(*arguments: str) -> str:
    done = CliRunner().invoke(app, [*arguments], env={"COLUMNS": "160"}, catch_exceptions=False)
    assert done.exit_code == 0
    return done.stdout


def cells(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("│┃ ").split("│")] for line in text.splitlines() if "│" in line]


def test_a_job_is_verified_and_what_changed_is_shown(job: str, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    words = said("verify", job, "--workers", "1", "--show", "2", "--json", str(report))
    table = cells(words)
    assert ["rows in the set", "40"] in table
    assert ["changed", "10 of 40 (25.0%)"] in table
    assert ["correct", "incorrect", "10", "25.0%"] in table
    assert ["correct", "correct", "30", "75.0%"] in table
    assert "s000000 · data/part-0001-000001.parquet row 0" in words
    assert "gold '0'" in words
    assert "before correct  extracted 'own' (own)" in words
    assert "after  incorrect  extracted '1' (" in words
    assert "s000004" in words
    assert "s000008" not in words
    (info,) = list_verdict_sets(job)
    assert f"verdicts: {job}/verdicts/{info.name}" in words
    tree = json.loads(report.read_text())
    assert (tree["version"], tree["complete"], tree["verifier"]) == (1, True, info.name)
    assert (tree["run"]["rows"], tree["run"]["verdicts"]) == (40, {"correct": 30, "incorrect": 10})
    assert (tree["set"]["rows"], tree["set"]["verdicts"]) == (40, {"correct": 30, "incorrect": 10})
    assert (tree["compared"], tree["changed"]) == (40, 10)
    assert {"before": "correct", "after": "incorrect", "rows": 10, "share": 0.25} in tree["changes"]
    assert len(tree["examples"]) == 2
    assert f"nothing to do: 40 rows were judged by {info.name} before" in said("verify", job, "--workers", "1")

    own, new = said("inspect", job), said("inspect", job, "--verdicts", "latest", "--show", "1")
    assert ["verdicts", "correct 40"] in cells(own)
    assert ["verdicts", "correct 30, incorrect 10"] in cells(new)
    assert ["pass@1", "0.750"] in cells(new)
    assert "extracted '1', gold '0'" in new
    with pytest.raises(SpecError, match=f"verdicts: got 'none'; expected one of {info.name}, latest"):
        said("inspect", job, "--verdicts", "none")


def test_a_part_of_a_job(job: str, tmp_path: Path) -> None:
    some = said("verify", job, "--workers", "1", "--limit", "7", "--output", str(tmp_path / "some"))
    assert ["rows in the set", "7"] in cells(some)
    assert f"verdicts: {tmp_path}/some" in some
    none = said("verify", job, "--workers", "1", "--only-outcome", "timeout", "--output", str(tmp_path / "none"))
    assert ["rows in the set", "0"] in cells(none)
    assert "nothing to do" in none


def test_a_file_without_earlier_verdicts(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text('{"gold": "2", "text": "it is \\\\boxed{2}"}\n{"gold": "2", "text": "\\\\boxed{3}"}\n')
    columns = ("--gold-column", "gold", "--content-column", "text")
    words = said("verify", str(file), "--workers", "1", *columns)
    assert ["verdicts", "correct 1, incorrect 1"] in cells(words)
    assert "before" not in words
    assert (tmp_path / "a.verdicts").is_dir()


def test_golds_that_cannot_be_graded_against_are_listed(tmp_path: Path, stored_answer: Any, store_job: Any) -> None:
    rows = [
        stored_answer(gold, "x", OWN, prompt=f"p{number}") for number, gold in enumerate(["1", " ", "2"]) for _ in "ab"
    ]
    job, report = str(asyncio.run(store_job(tmp_path, rows))), tmp_path / "golds.json"
    words = said("verify", job, "--workers", "1", "--golds", "--json", str(report))
    assert words.count("p1 (sample s000002): gold ' ': ") == 1
    assert "1 prompts with a gold that cannot be graded against" in words
    (problem,) = json.loads(report.read_text())["problems"]
    assert (problem["prompt"], problem["gold"]) == ("p1", " ")
    assert list_verdict_sets(job) == []


@pytest.mark.parametrize(
    ("flags", "field"),
    [
        (["--policy", "loose"], "policy"),
        (["--option", "novalue"], "option"),
        (["--memory", "much"], "memory"),
        (["--only-outcome", "late"], "only_outcome"),
        (["--gold-column", "gold"], "columns"),
        (["--json", "/nowhere/report.json"], "json"),
        (["--cpu-s", "0"], "cpu_s"),
    ],
)
def test_what_cannot_be_done_is_named(job: str, flags: list[str], field: str) -> None:
    with pytest.raises(SpecError) as caught:
        said("verify", job, *flags)
    assert caught.value.field == field
    assert list_verdict_sets(job) == []


def test_the_progress_line() -> None:
    progress = ReverifyProgress(expected=20_000, passed=6_000, judged=4_000, cpu_s=75.0)
    progress.outcomes.update({"incorrect": 1_000, "correct": 3_000})
    assert progress_line(progress, 10.0).plain == (
        "6,000/20,000 rows  400.0 rows/s  CPU 1m15s  ETA 35s  correct 3,000  incorrect 1,000"
    )
    assert progress_line(ReverifyProgress(), 0.0).plain == "0/? rows  0.0 rows/s  CPU 0s  ETA -"


def test_words_of_a_model_are_no_markup() -> None:
    example = Example("[bold]", 3, "[red]", "[/x]", "correct", "timeout", "[/y]", None, "x" * 400, None)
    changes = VerdictChanges(
        1, Counter(timeout=1), Counter(symbolic=1), 2.5, Counter({("correct", "timeout"): 1}), [example]
    )
    console = Console(record=True, width=200)
    print_changes(console, changes)
    words = console.export_text()
    assert "[red] · [bold] row 3" in words
    assert "gold '[/x]'" in words
    assert "(400 characters)" in words
    assert ["without sympy", "0 (0.0%)"] in cells(words)
    assert clipped(None) == "None"
