"""Rewards of a batch of responses: what each reward function says, and what is left out of learning."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from gen_service.errors import TrainingError
from gen_service.records import Verdict
from gen_service.training.rewards import RewardFunction
from gen_service.training.rollout import Rollout
from gen_service.training.variance import Mask, Rewards, informative, weighted

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Response(Rollout):
    """What was sampled for a row; `completion` is the same as TRL has it, a list of one message."""

    completion: Any


def response_row(prompt: Row, response: Response, verdict: Verdict | None) -> Row:
    """A response with all that is known of it: what reward functions get, and what the completions show.

    Args:
        prompt: the prompt's columns, as `grpo_prompts.prompt_row` gives them.
        verdict: None where nothing is verified.
    """
    judged = {
        "verdict": verdict.outcome if verdict is not None else "unverified",
        "verdict_reason": verdict.reason if verdict is not None else "",
        "extracted": verdict.extracted if verdict is not None else None,
    }
    return prompt | {one.name: getattr(response, one.name) for one in fields(response)} | judged


def columns_of(rows: Sequence[Row]) -> dict[str, list[Any]]:
    """Rows as reward functions get them: by column, with `prompts` and `completions` as TRL names them."""
    columns: dict[str, list[Any]] = {name: [row[name] for row in rows] for name in rows[0]}
    columns["prompts"], columns["completions"] = columns.pop("prompt"), columns.pop("completion")
    return columns


def calls(trainer_state: Any, log_metric: Callable[[str, float], None]) -> dict[str, Any]:
    """Arguments of TRL's that are one for the whole batch."""
    return {"trainer_state": trainer_state, "log_metric": log_metric, "log_extra": lambda *_: None}


def values_of(given: Any, count: int) -> list[float]:
    """What a reward function gave, as numbers; NaN for None.

    Args:
        count: of the responses that it was asked for.

    Raises:
        ValueError: it gave something else than one finite number or None for each of them; says what, as `gave ...`.
    """
    if isinstance(given, str | bytes | Mapping) or not isinstance(given, Iterable):
        raise ValueError(f"gave {_shown(given)}, which is no list")
    values = list(given)
    if len(values) != count:
        raise ValueError(f"gave {len(values)} rewards for {count} responses")
    return [math.nan if value is None else _number(value) for value in values]


def _number(value: Any) -> float:
    try:
        number = math.inf if isinstance(value, str | bytes) else float(value)
    except (TypeError, ValueError, RuntimeError):  # RuntimeError: torch's, of a tensor with several numbers
        number = math.inf
    if math.isinf(number):
        raise ValueError(f"gave {_shown(value)} for a response, which is no finite number and not None")
    return number


def _shown(value: Any) -> str:
    words = repr(value)
    return words if len(words) <= 80 else f"{words[:77]}..."


@dataclass(slots=True)
class Scored:
    """Responses with their rewards; a group is `size` consecutive ones, those of one prompt.

    Attributes:
        rows: one for each response, as `response_row` makes them.
        rewards: (responses, functions); NaN where a function gave none.
        by: the column of `rewards` that filtering looks at; None for the weighted sum.
    """

    size: int
    rows: list[Row]
    rewards: Rewards
    weights: Rewards
    by: int | None = None
    total: Rewards = field(init=False)

    def __post_init__(self) -> None:
        self.total = weighted(self.rewards, self.weights)

    @property
    def groups(self) -> int:
        """How many groups there are."""
        return len(self.rows) // self.size

    def informative(self) -> Mask:
        """Which groups have rewards that differ, (groups,)."""
        looked_at = self.total if self.by is None else self.rewards[:, self.by]
        return informative(looked_at.reshape(-1, self.size)) & informative(self.total.reshape(-1, self.size))

    def of(self, groups: Sequence[int]) -> Scored:
        """Some of the groups, in that order."""
        places = [group * self.size + index for group in groups for index in range(self.size)]
        return Scored(self.size, [self.rows[place] for place in places], self.rewards[places], self.weights, self.by)

    def and_then(self, more: Scored) -> Scored:
        """These groups and those after them."""
        rewards = np.concatenate([self.rewards, more.rewards])
        return Scored(self.size, self.rows + more.rows, rewards, self.weights, self.by)


def score(
    functions: Sequence[RewardFunction], rows: Sequence[Row], extra: Mapping[str, Any], left_out: Callable[[Row], bool]
) -> Rewards:
    """What each function gives each response, (responses, functions); NaN for None, and where a row is left out.

    Args:
        extra: arguments of TRL's that are one for the whole batch.

    Raises:
        TrainingError: a function gave something else than a number or None for each response.
    """
    columns = columns_of(rows)
    rewards = np.full((len(rows), len(functions)), np.nan)
    for index, function in enumerate(functions):
        given = function(**columns, **extra)
        try:
            rewards[:, index] = values_of(given, len(rows))
        except ValueError as error:
            raise TrainingError(f"reward {function.__name__}: {error}") from error
    rewards[[left_out(row) for row in rows]] = np.nan
    return rewards


def filled(first: Scored, wanted: int, more: Callable[[int], Scored | None]) -> Scored:
    """A batch of `wanted` informative groups, as far as `more` brings them; the first ones without variance fill it up.

    Args:
        more: samples at least so many other groups; None when no more are to be had.
    """
    found = np.flatnonzero(first.informative()).tolist()
    spare = [group for group in range(first.groups) if group not in set(found)]
    batch = first.of(found)
    while (other := more(wanted - batch.groups)) is not None:
        batch = batch.and_then(other.of(np.flatnonzero(other.informative()).tolist()))
    batch = batch.of(range(min(wanted, batch.groups)))
    return batch.and_then(first.of(spare[: wanted - batch.groups]))
