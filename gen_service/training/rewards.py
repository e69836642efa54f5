"""Reward functions by name, in the form TRL calls them: ours, and `module:function` for a user's own.

TRL calls each with keyword arguments of one value a response, and takes one reward a response, None for none. Ours use
`verdict`, `finish_reason`, `reasoning`, `content`, `completion_ids` and `prompt_id`; a user's own gets all of these,
TRL's `prompts` and `completions`, and the prompt's `answer` and `source`; `scoring.response_row` has all columns. It is
tried on made-up responses before training (`reward_trial`).
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any, Final

from gen_service.errors import SpecError
from gen_service.records import Outcome
from gen_service.settings import RewardSettings
from gen_service.training import reward_functions as field
from gen_service.training_settings import RewardFunctionSettings
from gen_service.verification.rewards import reward as reward_of

Rewards = list[float | None]
_Maker = Callable[..., Callable[..., Rewards]]


class RewardFunction:
    """A reward function with a name, as TRL wants it.

    Attributes:
        weight: its factor in the sum.
        needs_verdict: whether it asks if the answer is right.
    """

    def __init__(self, name: str, weight: float, needs_verdict: bool, function: Callable[..., Any]) -> None:
        self.__name__ = name
        self.weight = weight
        self.needs_verdict = needs_verdict
        self._function = function

    def __call__(self, **columns: Any) -> Any:
        """Whatever the function gives: one that is not ours may give anything, which `scoring.values_of` looks at."""
        return self._function(**columns)


def build(settings: Sequence[RewardFunctionSettings], policy: RewardSettings, max_tokens: int) -> list[RewardFunction]:
    """The reward functions of a run, or of one of its stages.

    Args:
        policy: what a truncated response and one without an answer are worth.
        max_tokens: the longest response, for rewards that go by length.

    Raises:
        SpecError: no such function, or it does not take such options.
    """
    return [_made(index, one, policy, max_tokens) for index, one in enumerate(settings)]


def needs_verdict(name: str) -> bool:
    """Whether the reward function of this name asks if the answer is right."""
    return name in _OURS and _OURS[name][1]


def _made(index: int, one: RewardFunctionSettings, policy: RewardSettings, max_tokens: int) -> RewardFunction:
    place = f"rewards.{index}"
    if ":" in one.name:
        return RewardFunction(one.name.rpartition(":")[2], one.weight, False, _users_own(place, one))
    if one.name not in _OURS:
        raise SpecError(f"{place}.name", one.name, f"one of {', '.join(_OURS)}, or `module:function` for your own")
    maker, needs_verdict = _OURS[one.name]
    try:
        function = maker(policy, max_tokens, **one.options)
    except (TypeError, ValueError) as error:
        raise SpecError(
            f"{place}.options", one.options, f"options of {one.name}: {_options(maker)} ({error})"
        ) from error
    return RewardFunction(one.name, one.weight, needs_verdict, function)


def _users_own(place: str, one: RewardFunctionSettings) -> Callable[..., Any]:
    module, _, name = one.name.partition(":")
    try:
        function = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise SpecError(f"{place}.name", one.name, f"a function that can be imported ({error})") from error
    if not callable(function) or inspect.iscoroutinefunction(function):
        raise SpecError(f"{place}.name", one.name, "a plain function")
    return lambda **columns: function(**columns, **one.options)


def _options(maker: _Maker) -> str:
    names = [name for name, one in inspect.signature(maker).parameters.items() if one.kind is one.KEYWORD_ONLY]
    return ", ".join(names) or "none"


def _right(policy: RewardSettings, verdict: Outcome) -> bool | None:
    value = reward_of(verdict, policy)
    return None if value is None else value > 0.5


def _accuracy(policy: RewardSettings, max_tokens: int) -> Callable[..., Rewards]:
    return lambda verdict, **_: [reward_of(one, policy) for one in verdict]


def _format(policy: RewardSettings, max_tokens: int) -> Callable[..., Rewards]:
    def function(reasoning: list[str | None], content: list[str], finish_reason: list[str], **_: Any) -> Rewards:
        return [field.well_formed(*one) for one in zip(reasoning, content, finish_reason, strict=True)]

    return function


def _cosine(
    policy: RewardSettings,
    max_tokens: int,
    *,
    correct_short: float = 1.0,
    correct_long: float = 0.5,
    wrong_short: float = -1.0,
    wrong_long: float = -0.5,
    exceeded: float | None = None,
) -> Callable[..., Rewards]:
    """`exceeded` is for what was cut off at the limit; None leaves it to the policy for truncated responses."""
    values = {
        "correct_short": float(correct_short),
        "correct_long": float(correct_long),
        "wrong_short": float(wrong_short),
        "wrong_long": float(wrong_long),
    }

    def function(
        verdict: list[Outcome], completion_ids: list[list[int]], finish_reason: list[str], **_: Any
    ) -> Rewards:
        return [
            float(exceeded)
            if exceeded is not None and finish == "length"
            else field.cosine(_right(policy, one), len(ids), max_tokens, **values)
            for one, ids, finish in zip(verdict, completion_ids, finish_reason, strict=True)
        ]

    return function


def _overlong(policy: RewardSettings, max_tokens: int, *, cache: int | None = None) -> Callable[..., Rewards]:
    """`cache` is how many tokens before the limit the punishment begins; a fifth of it by default, as DAPO has it."""
    tokens = max(1, max_tokens // 5) if cache is None else int(cache)
    if not 1 <= tokens <= max_tokens:
        raise ValueError(f"cache is {tokens}, not from 1 to max_tokens, {max_tokens}")
    return lambda completion_ids, **_: [field.overlong(len(ids), max_tokens, tokens) for ids in completion_ids]


def _length(policy: RewardSettings, max_tokens: int) -> Callable[..., Rewards]:
    def function(verdict: list[Outcome], completion_ids: list[list[int]], prompt_id: list[str], **_: Any) -> Rewards:
        rewards: Rewards = []
        for _, places in groupby(range(len(prompt_id)), key=lambda place: prompt_id[place]):
            group = list(places)
            rights = [_right(policy, verdict[place]) for place in group]
            rewards += field.length_penalties(rights, [len(completion_ids[place]) for place in group])
        return rewards

    return function


def _repetition(
    policy: RewardSettings, max_tokens: int, *, size: int = 3, most: float = -1.0
) -> Callable[..., Rewards]:
    if size < 1 or most > 0:
        raise ValueError("size is at least 1, most at most 0")

    def function(reasoning: list[str | None], content: list[str], **_: Any) -> Rewards:
        return [
            field.repetition(f"{thought or ''} {answer}", size, float(most))
            for thought, answer in zip(reasoning, content, strict=True)
        ]

    return function


# Each name with what makes the function, and whether it asks for verdicts.
_OURS: Final[dict[str, tuple[_Maker, bool]]] = {
    "accuracy": (_accuracy, True),
    "format": (_format, False),
    "cosine": (_cosine, True),
    "overlong": (_overlong, False),
    "length": (_length, True),
    "repetition": (_repetition, False),
}
