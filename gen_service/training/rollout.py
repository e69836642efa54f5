"""Rollouts: what a policy sampled, and where they come from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from gen_service.records import Prompt

# The finish reason of a rollout that no server could make: it has no tokens, and nothing is learned from it.
FAILED: Final = "error"


@dataclass(frozen=True, slots=True)
class Rollout:
    """One completion of a prompt, sampled to be learned from.

    Attributes:
        prompt_ids: the prompt's token ids, as the server rendered it.
        completion_ids: the sampled ids, with the end of turn where it came; empty where `finish_reason` is `error`.
        logprobs: of the sampled tokens under the distribution they were drawn from, natural logarithms, one for each
            of `completion_ids`; None where the source has none, and then no importance correction is made.
        finish_reason: `stop`, `length`, ... as the server gave it; `error` where no server could make the rollout.
        reasoning: the chain of thought, without its tags; None when there was none.
        content: the answer's text after the reasoning.
        version: of the weights that it was sampled with; the oldest, where it went on elsewhere.
        endpoint: base URL of the server that ended it.
    """

    prompt_ids: list[int]
    completion_ids: list[int]
    logprobs: list[float] | None
    finish_reason: str
    reasoning: str | None
    content: str
    version: int
    endpoint: str


class RolloutSource(Protocol):
    """Samples from the newest weights it was given. Its methods may be called from several threads at once."""

    def publish(self, folder: Path, version: int) -> None:
        """Bring the weights in `folder`, a saved checkpoint, to every server.

        Returns when enough servers have them; those that lack them get no request of a `sample` that begins later. A
        later version has a greater number. Samples that are under way may end with the old weights or with the new.

        Raises:
            GenServiceError: no server took the weights.
        """

    def sample(self, prompts: Sequence[Prompt], generations: int, max_tokens: int) -> list[list[Rollout]]:
        """One list for each prompt, in order, with exactly `generations` rollouts of at most `max_tokens` tokens each.

        Blocks until all are there. One server's death raises nothing: what it had goes on elsewhere, and what no server
        could make is a rollout that says so.
        """

    def measures(self) -> dict[str, float]:
        """Its own figures by name for the run's metrics: what it counted since the last call, and how it is now."""

    def close(self) -> None:
        """Give up what is under way and let go of the servers. Closing again does nothing."""


class AskedElsewhere:
    """The RolloutSource of all training processes but the first, which asks for all and tells the others."""

    def publish(self, folder: Path, version: int) -> None:
        """Never called."""
        raise AssertionError("the first process publishes")

    def sample(self, prompts: Sequence[Prompt], generations: int, max_tokens: int) -> list[list[Rollout]]:
        """Never called."""
        raise AssertionError("the first process samples")

    def measures(self) -> dict[str, float]:
        """Never called."""
        raise AssertionError("the first process measures")

    def close(self) -> None:
        """Holds nothing."""
