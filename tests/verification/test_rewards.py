"""The table of rewards."""

from __future__ import annotations

from typing import get_args

import pytest

from gen_service.records import Outcome
from gen_service.settings import RewardPolicy, RewardSettings
from gen_service.verification.rewards import reward

POLICIES: tuple[RewardPolicy, ...] = get_args(RewardPolicy)


@pytest.mark.parametrize("outcome", get_args(Outcome))
@pytest.mark.parametrize("no_answer", POLICIES)
@pytest.mark.parametrize("truncated", POLICIES)
def test_every_outcome_has_its_reward(outcome: Outcome, no_answer: RewardPolicy, truncated: RewardPolicy) -> None:
    expected = {
        "correct": 1.0,
        "incorrect": 0.0,
        "no_answer": 0.0 if no_answer == "incorrect" else None,
        "truncated": 0.0 if truncated == "incorrect" else None,
    }
    assert reward(outcome, RewardSettings(no_answer=no_answer, truncated=truncated)) == expected.get(outcome)


def test_by_default_only_a_judged_answer_is_a_reward() -> None:
    assert {outcome for outcome in get_args(Outcome) if reward(outcome) is not None} == {"correct", "incorrect"}
