"""Which groups are learned from, and how a batch is filled with others."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from gen_service.errors import TrainingError
from gen_service.training.rewards import RewardFunction
from gen_service.training.scoring import Scored, filled, score, values_of
from gen_service.training.variance import informative, spread, weighted

ONES = np.ones(1)
REWARDS = arrays(np.float64, (3, 4), elements=st.sampled_from([0.0, 0.5, 1.0, np.nan]))


def batch_of(*groups: list[float], first: int = 0) -> Scored:
    rows: list[dict[str, Any]] = [{"group": first + place} for place, group in enumerate(groups) for _ in group]
    return Scored(len(groups[0]), rows, np.array([[value] for group in groups for value in group]), ONES)


def groups_of(batch: Scored) -> list[int]:
    return [row["group"] for row in batch.rows[:: batch.size]]


@given(REWARDS)
def test_a_group_teaches_where_two_rewards_differ(rewards: Any) -> None:
    for row, teaches, width in zip(rewards, informative(rewards), spread(rewards), strict=True):
        given_values = {value for value in row.tolist() if not np.isnan(value)}
        assert teaches == (len(given_values) > 1)
        assert width == (max(given_values) - min(given_values) if given_values else 0.0)


def test_a_response_has_no_reward_where_no_function_gave_one() -> None:
    rewards = np.array([[1.0, np.nan], [np.nan, np.nan], [0.5, 0.5]])
    assert weighted(rewards, np.array([1.0, 2.0])).tolist() == pytest.approx([1.0, np.nan, 1.5], nan_ok=True)


def test_filtering_may_look_at_one_reward_alone() -> None:
    rewards = np.array([[1.0, 0.1], [1.0, 0.2], [1.0, 0.1], [0.0, 0.1]])
    both = Scored(2, [{}] * 4, rewards, np.ones(2))
    assert both.informative().tolist() == [True, True]
    assert Scored(2, [{}] * 4, rewards, np.ones(2), by=0).informative().tolist() == [False, True]


@given(st.lists(st.booleans(), min_size=1, max_size=6), st.lists(st.lists(st.booleans(), max_size=4), max_size=4))
def test_a_batch_is_filled_with_groups_that_teach_and_then_with_its_own_that_do_not(
    first: list[bool], further: list[list[bool]]
) -> None:
    def group(teaches: bool) -> list[float]:
        return [0.0, 1.0] if teaches else [1.0, 1.0]

    numbers = iter(range(len(first), 1000))
    rounds = [[(next(numbers), teaches) for teaches in one] for one in further if one]
    left, asked = iter(rounds), []

    def more(missing: int) -> Scored | None:
        asked.append(missing)
        one = next(left, None) if missing > 0 else None
        return None if one is None else batch_of(*[group(teaches) for _, teaches in one], first=one[0][0])

    result = filled(batch_of(*map(group, first)), len(first), more)
    teaching = [number for number, teaches in enumerate(first) if teaches]
    for one in rounds[: max(0, len(asked) - 1)]:
        teaching += [number for number, teaches in one if teaches]
    expected = teaching[: len(first)]
    assert result.groups == len(first)
    assert groups_of(result)[: len(expected)] == expected
    assert set(groups_of(result)[len(expected) :]) <= {number for number, teaches in enumerate(first) if not teaches}
    assert asked[-1] <= 0 or next(left, None) is None


def test_scores_are_those_of_each_function_and_nothing_is_given_where_a_row_is_left_out() -> None:
    rows = [{"prompt": "p", "completion": "c", "value": value, "out": value == 3.0} for value in (1.0, None, 3.0)]
    functions = [
        RewardFunction("value", 1.0, False, lambda value, **_: list(value)),
        RewardFunction("one", 1.0, False, lambda prompts, **_: [1.0] * len(prompts)),
    ]
    rewards = score(functions, rows, {}, lambda row: row["out"])
    assert rewards.tolist() == [pytest.approx(row, nan_ok=True) for row in ([1.0, 1.0], [np.nan, 1.0], [np.nan] * 2)]


def test_a_function_that_gives_too_few_rewards_ends_the_run() -> None:
    rows = [{"prompt": "p", "completion": "c"}] * 2
    with pytest.raises(TrainingError, match=r"stingy.*1 rewards for 2"):
        score([RewardFunction("stingy", 1.0, False, lambda **_: [1.0])], rows, {}, lambda row: False)


@pytest.mark.parametrize("wrong", ["12", b"12", None, 3.0, {0: 1.0, 1: 2.0}, ["1", "2"], [1.0, math.inf], [1.0, [2.0]]])
def test_what_is_no_reward_for_each_response_is_told(wrong: Any) -> None:
    with pytest.raises(ValueError, match=r"^gave "):
        values_of(wrong, 2)


@given(st.lists(st.one_of(st.none(), st.floats(allow_infinity=False), st.booleans(), st.integers(-9, 9))))
def test_numbers_are_taken_as_they_are_and_none_is_nan(given_values: list[float | None]) -> None:
    expected = [math.nan if value is None else float(value) for value in given_values]
    for form in (list, tuple, iter):
        assert values_of(form(given_values), len(expected)) == pytest.approx(expected, abs=0.0, nan_ok=True)
