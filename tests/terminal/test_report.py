"""What the terminal shows of a job that is done."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from gen_service.jobs.summary import Summary
from gen_service.terminal.report import BAR_WIDTH, BINS, histogram_lines, print_summary, save_histogram, summary_rows


@given(st.lists(st.integers(0, 100_000), min_size=1, max_size=200))
def test_the_histogram_counts_every_completion_once(tokens: list[int]) -> None:
    lines = histogram_lines(np.array(tokens, dtype=np.int32))
    assert 1 <= len(lines) <= BINS
    counts = [int(line.split()[-1].replace(",", "")) for line in lines]
    assert sum(counts) == len(tokens)
    assert max(line.count("█") for line in lines) == BAR_WIDTH
    bounds = [line.replace(",", "").split()[:3] for line in lines]
    lows, highs = [int(low) for low, _, _ in bounds], [int(high) for _, _, high in bounds]
    assert (lows[0], highs[-1]) == (min(tokens), max(tokens))
    assert all(high + 1 == low for high, low in zip(highs, lows[1:], strict=False))
    for low, high, count in zip(lows, highs, counts, strict=True):
        assert count == sum(low <= number <= high for number in tokens)


def summary() -> Summary:
    made = Summary(rows=8, rejected=2, continued=1, prompts={"a": (4, 2), "b": (2, 0)}, sources={"set": (6, 2)})
    made.verdicts.update({"correct": 2, "incorrect": 4, "error": 2})
    made.finish_reasons.update({"stop": 3, "length": 3})
    made.retries.update({"stalled": 5})
    made.tokens = np.array([10, 20, 30, 40, 50, 60], dtype=np.int32)
    return made


def test_samples_not_needed_are_shown_by_reason() -> None:
    made = summary()
    made.skipped = {"given_up": 7, "solved": 1200}
    assert dict(summary_rows(made))["samples not needed"] == "solved 1,200, given_up 7"
    assert "samples not needed" not in dict(summary_rows(summary()))


def test_the_table_holds_the_numbers() -> None:
    rows = dict(summary_rows(summary()))
    assert rows["rows"] == "8"
    assert rows["prompt rows set aside"].startswith("2 ")
    assert rows["verdicts"] == "incorrect 4, correct 2, error 2"
    assert rows["pass@1"] == "0.250"
    assert rows["pass@4"] == "1.000"
    assert rows["tokens p50 / p90 / p99"] == "35 / 55 / 60"
    assert rows["truncated"] == "50.0%"
    assert rows["failed attempts"] == "stalled 5"
    assert rows["continued from their tokens"] == "1"


def test_a_job_without_rows_prints() -> None:
    console = Console(record=True, width=100)
    print_summary(console, Summary(), "job [x]")
    assert "rows" in console.export_text()


def test_it_prints_and_draws(tmp_path: Path) -> None:
    console = Console(record=True, width=120)
    print_summary(console, summary(), "job sums")
    text = console.export_text()
    assert "job sums" in text
    assert "█" in text
    picture = tmp_path / "lengths.png"
    save_histogram(summary(), picture, "job sums")
    assert picture.read_bytes().startswith(b"\x89PNG")
