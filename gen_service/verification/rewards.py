"""What a verdict is worth to training: the one table."""

from __future__ import annotations

from typing import Final

from gen_service.records import Outcome
from gen_service.settings import RewardSettings

_BY_DEFAULT: Final = RewardSettings()
_REWARDS: Final[dict[Outcome, float | None]] = {
    "correct": 1.0,
    "incorrect": 0.0,
    "unparsable": None,
    "timeout": None,
    "ungradable": None,
    "error": None,
    "unverified": None,
}


def reward(outcome: Outcome, settings: RewardSettings = _BY_DEFAULT) -> float | None:
    """The reward of a sample; None excludes it, which is no reward of 0.

    | outcome                                             | reward                                       |
    |-----------------------------------------------------|----------------------------------------------|
    | correct                                             | 1.0                                          |
    | incorrect                                           | 0.0                                          |
    | no_answer                                           | 0.0 when `settings.no_answer` is `incorrect` |
    | truncated                                           | 0.0 when `settings.truncated` is `incorrect` |
    | unparsable, timeout, ungradable, error, unverified  | None: the verifier's limits, not the model's |

    `no_answer` and `truncated` are None under `exclude`, which is the default.
    """
    match outcome:
        case "no_answer":
            return 0.0 if settings.no_answer == "incorrect" else None
        case "truncated":
            return 0.0 if settings.truncated == "incorrect" else None
        case _:
            return _REWARDS[outcome]
