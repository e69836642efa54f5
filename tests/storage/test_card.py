from __future__ import annotations

import yaml

from gen_service.storage.card import BAR_CHARS, card
from gen_service.storage.manifest import PublishedCounts


def test_lengths_are_bars_without_gaps() -> None:
    text = card("job", {}, PublishedCounts(rows=1), {0: 1, 3: 1000, 5: 500}, [])
    lines = text.split("```\n")[1].splitlines()
    assert [line.split()[0] for line in lines] == ["0", "1", "2", "4", "8", "16"]
    assert [line.count("#") for line in lines] == [1, 0, 0, BAR_CHARS, 0, BAR_CHARS // 2]


def test_samples_not_made_are_counted_by_reason() -> None:
    text = card("job", {}, PublishedCounts(rows=1, skipped={"given_up": 7, "solved": 1200}), {}, [])
    section = text.split("## Samples not made")[1].split("##")[0]
    assert section.splitlines()[4:6] == ["| solved | 1,200 |", "| given_up | 7 |"]
    assert "not made" not in card("job", {}, PublishedCounts(rows=1), {}, [])


def test_a_job_without_rows_names_no_files() -> None:
    text = card("job", {}, PublishedCounts(), {}, [])
    assert "configs" not in yaml.safe_load(text.split("---")[1])
    assert "no completions" in text
