"""One request inside a simulated engine, and the engine's own time."""

from __future__ import annotations

import math
from typing import Final, Protocol

from gen_service.errors import SpecError

WAITING: Final = "waiting"
PREFILL: Final = "prefill"
DECODE: Final = "decode"
ENDED: Final = "ended"


class Steps(Protocol):
    """Counts the steps of an engine."""

    @property
    def steps(self) -> int:
        """Steps completed."""
        ...


class EngineSequence:
    """One request: it ends when it has made `target_tokens`.

    Args:
        sequence_id: for the caller.
        prefix_key: sequences of one key share their prompt's blocks (siblings of a prompt).
        prompt_tokens: length of the prompt.
        target_tokens: completion tokens in all, those it comes with among them.
        made: completion tokens it comes with: a continued answer. They are prefilled like the prompt.

    Attributes:
        given: what `made` was at first.
        state: `waiting`, `prefill`, `decode` or `ended`.
        preemptions: how often it was put back to be computed again.
    """

    __slots__ = (
        "_engine",
        "_joined_step",
        "_made",
        "admitted",
        "given",
        "last_token_at",
        "preemptions",
        "prefix_key",
        "prompt_tokens",
        "sequence_id",
        "slot",
        "state",
        "target_tokens",
        "to_compute",
        "watch",
    )

    def __init__(
        self, sequence_id: str, prefix_key: str, prompt_tokens: int, target_tokens: int, made: int = 0
    ) -> None:
        if prompt_tokens < 1:
            raise SpecError("sequence.prompt_tokens", prompt_tokens, "at least 1")
        if not 0 <= made < target_tokens:
            raise SpecError("sequence.made", made, f"at least 0 and below target_tokens, which is {target_tokens}")
        self.sequence_id = sequence_id
        self.prefix_key = prefix_key
        self.prompt_tokens = prompt_tokens
        self.target_tokens = target_tokens
        self.given = made
        self.preemptions = 0
        # From here on the engine's books: admissions so far, prefill left, growth, what to report, when it last made
        # a token before the present run of steps.
        self.state: str = WAITING
        self.admitted = 0
        self.to_compute = 0
        self.slot: int | None = None
        self.watch: int | None = None
        self.last_token_at: float | None = None
        self._made = made
        self._joined_step = 0
        self._engine: Steps | None = None

    @property
    def made(self) -> int:
        """Completion tokens it has, at the time its engine was last advanced to."""
        return self._made if self._engine is None else self._made + self._engine.steps - self._joined_step

    @property
    def tokens(self) -> int:
        """Prompt and completion tokens it has."""
        return self.prompt_tokens + self.made

    def step_of(self, made: int) -> int:
        """The engine's step count when a decoding sequence will have made so many tokens."""
        return self._joined_step + made - self._made

    def runs(self, engine: Steps) -> None:
        """Its prefill is computed, which makes a token; from now on each step of the engine makes one."""
        self.state = DECODE
        self._made += 1
        self._joined_step = engine.steps
        self._engine = engine

    def rests(self, state: str) -> None:
        """It makes no tokens any more, or for a while."""
        self._made = self.made
        self._engine = None
        self.state = state


class BusyClock:
    """Maps the caller's time to the seconds that an engine has worked at full speed, and back."""

    __slots__ = ("_busy_s", "_now", "rate")

    def __init__(self) -> None:
        self.rate = 1.0
        self._now = self._busy_s = 0.0

    def set_rate(self, rate: float, now: float) -> None:
        """From `now` on a second of time is `rate` seconds of work."""
        self._busy_s = self.busy_s(now)
        self._now = now
        self.rate = rate

    def busy_s(self, now: float) -> float:
        """Work done by a time."""
        return self._busy_s + (now - self._now) * self.rate

    def at(self, busy_s: float) -> float:
        """When so much work is done; inf where it never will be at the present rate."""
        if self.rate == 0.0:
            return math.inf if busy_s > self._busy_s else self._now
        return self._now + (busy_s - self._busy_s) / self.rate
