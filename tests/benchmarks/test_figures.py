from __future__ import annotations

from pathlib import Path

import orjson
import pytest
from rich.console import Console

from benchmarks.figures import Target, compared, counted, save, show


def test_the_ratio_is_the_median_of_the_repeats_own_ratios() -> None:
    figure = compared("b", "cost", "ms", [(1.0, 1.0), (4.0, 2.0), (30.0, 10.0)], "floor", Target(at_most=2))
    assert (figure.value, figure.baseline, figure.ratio, figure.repeats) == (4.0, 2.0, 2.0, 3)
    assert figure.holds
    assert not counted("b", "rows", "rows", [1.0], Target(at_most=0)).holds


@pytest.mark.parametrize(("value", "holds"), [(0.94, False), (0.95, True), (1.2, True)])
def test_a_lower_bound(value: float, holds: bool) -> None:
    assert compared("b", "share", "x", [(value, 1.0)], "floor", Target(at_least=0.95)).holds is holds


def test_a_missed_target_is_in_the_table_and_all_figures_are_in_the_file(tmp_path: Path) -> None:
    figures = [compared("b", "cost", "ms", [(9.0, 2.0)], "floor", Target(at_most=4)), counted("b", "n", "rows", [7.0])]
    console = Console(record=True, width=120)
    show(figures, console)
    assert "MISSED" in console.export_text()
    saved = orjson.loads(save(figures, tmp_path, ["--short"]).read_bytes())
    assert [(figure["name"], figure["ratio"]) for figure in saved["figures"]] == [("cost", 4.5), ("n", None)]
