"""How fast a job goes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gen_service.generation.progress import Progress
from gen_service.jobs.rates import RATE_STEP_S, RATE_WINDOW_S, Rates


def test_the_rate_is_that_of_the_window_and_the_rest_follows_from_it() -> None:
    progress, rates = Progress(expected=100), Rates()
    rates.at(0.0, progress)
    for second in range(1, 101):
        progress.published += 2 if second > 60 else 0
        progress.completion_tokens += 20 if second > 60 else 0
        rate = rates.at(float(second), progress)
    assert (rate.rows, rate.tokens) == (2.0, 20.0)
    assert rate.left_s == (100 - 80) / 2
    assert len(rates._points) <= RATE_WINDOW_S + 2


def test_samples_that_are_skipped_count_for_the_time_that_is_left() -> None:
    progress, rates = Progress(expected=80), Rates()
    rates.at(0.0, progress)
    for second in range(1, 11):
        # One right answer a second, and the prompt's three other samples are not needed.
        progress.published += 1
        for _ in range(3):
            progress.skip("solved")
        rate = rates.at(float(second), progress)
    assert rate.rows == 1.0
    assert rate.left_s == (80 - 40) / 4


@given(
    st.lists(st.tuples(st.floats(0.01, 60), st.integers(0, 50)), max_size=40), st.one_of(st.none(), st.integers(0, 99))
)
def test_rates_are_never_negative(steps: list[tuple[float, int]], expected: int | None) -> None:
    progress, rates, now = Progress(expected=expected), Rates(), 0.0
    for seconds, rows in steps:
        now += seconds
        progress.published += rows
        rate = rates.at(now, progress)
        assert rate.rows >= 0
        assert rate.tokens >= 0
        assert rate.left_s is None or rate.left_s >= 0


@given(st.lists(st.floats(0.0, 0.5), max_size=300))
def test_many_looks_keep_few_points(steps: list[float]) -> None:
    progress, rates, now = Progress(), Rates(), 0.0
    for seconds in steps:
        now += seconds
        rates.at(now, progress)
        assert len(rates._points) <= RATE_WINDOW_S / RATE_STEP_S + 2
