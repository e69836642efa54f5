"""What the campaign of killed vLLM servers calls sound."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.continuation_campaign import GreedyReport, Kills, SampledReport

KILLS = Kills(10, 10, [30] * 10, 3_000, 600)
GREEDY = GreedyReport(300, 360_000, 280, 0, 0, 0.0083, KILLS)
SAMPLED = SampledReport(2_400, 250, 0, 0.80, 0.79, 0.0226, KILLS)


def test_sound_reports_hold() -> None:
    assert GREEDY.holds
    assert SAMPLED.holds


@pytest.mark.parametrize(
    "change",
    [{"different": 1}, {"errors": 1}, {"made_twice": 0.02}, {"continued": 0}, {"kills": replace(KILLS, done=9)}],
)
def test_a_greedy_report_does_not_hold_when_anything_is_off_or_was_not_tried(change: dict[str, object]) -> None:
    assert not replace(GREEDY, **change).holds


@pytest.mark.parametrize(
    "change",
    [{"with_kills": 0.775}, {"with_kills": 0.825}, {"errors": 1}, {"continued": 0}, {"kills": replace(KILLS, done=9)}],
)
def test_a_sampled_report_does_not_hold_when_anything_is_off_or_was_not_tried(change: dict[str, object]) -> None:
    assert not replace(SAMPLED, **change).holds
