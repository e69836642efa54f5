"""Curves from the metrics of runs: read, averaged and drawn."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gen_service.errors import SpecError
from gen_service.evaluation.curves import read_curves, running_mean, save_curves

PNG = b"\x89PNG\r\n\x1a\n"


def run(folder: Path, *lines: dict[str, Any] | str) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    text = "".join(line if isinstance(line, str) else json.dumps(line) + "\n" for line in lines)
    (folder / "metrics.jsonl").write_text(text)
    return str(folder)


def trained(folder: Path, steps: int = 6) -> str:
    lines: list[dict[str, Any]] = []
    for step in range(1, steps + 1):
        stage = 0 if step <= 3 else 1
        lines.append({"step": step, "reward": step / 10, "completions/mean_length": 100 * step, "stage": stage})
    lines.append({"step": steps, "verdicts/correct": 0.75})
    lines.append({"step": 2, "verdicts/correct": 0.25})
    return run(folder, *lines)


def test_pass_at_1_goes_before_reward_and_the_length_below(tmp_path: Path) -> None:
    curves = read_curves([trained(tmp_path / "one")])
    assert [metric for metric, _ in curves.panels] == ["verdicts/correct", "completions/mean_length"]
    top, below = (series[0] for _, series in curves.panels)
    assert top.points == ((2, 0.25), (6, 0.75))
    assert below.points[0] == (1, 100.0)
    assert curves.stages == {"one": (4,)}


def test_runs_without_pass_at_1_show_their_reward(tmp_path: Path) -> None:
    one = run(tmp_path / "one", {"step": 1, "reward": 0.5})
    other = run(tmp_path / "other", {"step": 1, "reward": 0.25, "completions/mean_length": 7})
    curves = read_curves([one, other])
    assert [(metric, [series.run for series in found]) for metric, found in curves.panels] == [
        ("reward", ["one", "other"]),
        ("completions/mean_length", ["other"]),
    ]


def test_a_step_written_again_counts_as_it_was_written_last(tmp_path: Path) -> None:
    folder = run(tmp_path / "one", {"step": 1, "reward": 0.1}, {"step": 2, "reward": 0.2}, {"step": 1, "reward": 0.9})
    ((_, (series,)),) = read_curves([folder], ["reward"]).panels
    assert series.points == ((1, 0.9), (2, 0.2))


def test_a_last_line_cut_by_a_kill_is_passed_over_and_one_in_the_middle_named(tmp_path: Path) -> None:
    whole = {"step": 1, "reward": 0.1}
    cut = read_curves([run(tmp_path / "cut", whole, '{"step": 2, "rew')])
    assert cut.panels[0][1][0].points == ((1, 0.1),)
    with pytest.raises(SpecError, match=r"metrics\.jsonl line 1.*whole number `step`"):
        read_curves([run(tmp_path / "torn", '{"step": 2, "rew\n', whole)])


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"one that holds metrics\.jsonl"):
        read_curves([str(tmp_path)])
    folder = trained(tmp_path / "one")
    with pytest.raises(SpecError, match="metric: got 'loss'; expected one that a run has: completions/mean_length"):
        read_curves([folder], ["loss"])
    with pytest.raises(SpecError, match="each run once"):
        read_curves([folder, folder])
    with pytest.raises(SpecError, match="there is none"):
        read_curves([run(tmp_path / "words", {"step": 1, "kind": "sft", "done": True})])


def test_runs_of_the_same_name_are_told_apart(tmp_path: Path) -> None:
    folders = [trained(tmp_path / name / "run") for name in ("a", "b")]
    assert list(read_curves(folders).stages) == folders


@given(st.dictionaries(st.integers(0, 60), st.floats(-1, 1), min_size=1), st.integers(1, 20))
def test_the_running_mean_is_over_steps_however_many_have_a_value(values: dict[int, float], window: int) -> None:
    means = dict(running_mean(sorted(values.items()), window))
    assert means.keys() == values.keys()
    for step, mean in means.items():
        last = [value for at, value in values.items() if step - window < at <= step]
        assert mean == pytest.approx(sum(last) / len(last), abs=1e-12)


@pytest.mark.parametrize("window", [1, 3])
def test_the_png_has_a_panel_for_each_metric(tmp_path: Path, window: int) -> None:
    curves = read_curves([trained(tmp_path / "one"), trained(tmp_path / "two", 40)])
    path = tmp_path / "new" / "curves.png"
    save_curves(curves, path, window)
    content = path.read_bytes()
    assert content.startswith(PNG)
    # Width and height in the header: 8 by 6.4 inches at 120 dots.
    assert (int.from_bytes(content[16:20]), int.from_bytes(content[20:24])) == (960, 768)
