"""A closed loop of requests on a simulated engine alone: no HTTP, no event loop, no clock."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from gen_service.endpoints.simulated.engine import Engine, EngineProfile, EngineSequence


@dataclass(frozen=True, slots=True)
class Asked:
    """One request: its prompt (equal keys, equal prompts) and the tokens that it makes."""

    key: str
    prompt_tokens: int
    tokens: int


@dataclass(frozen=True, slots=True)
class Ran:
    """What a workload came to.

    Attributes:
        seconds: from the first request to the last token.
        tokens: completion tokens.
        preemptions: sequences that were put back.
        mean_running: of the seconds, how many sequences were computed on average.
        order: numbers of the requests, in the order in which they ended.
    """

    seconds: float
    tokens: int
    preemptions: int
    mean_running: float
    order: tuple[int, ...]

    @property
    def tokens_per_s(self) -> float:
        """Completion tokens per second, prefill and tail included."""
        return self.tokens / self.seconds


def run_closed_loop(profile: EngineProfile, workload: Sequence[Asked], in_flight: int, gap_s: float = 0.0) -> Ran:
    """Send `in_flight` requests at time 0, and another whenever one ends.

    Args:
        gap_s: seconds from the end of one to the arrival of the next: what client and network take.
    """
    engine = Engine(profile)
    arrivals = [(0.0, number) for number in range(min(in_flight, len(workload)))]
    coming, number_of = len(arrivals), dict[EngineSequence, int]()
    order: list[int] = []
    now = running_s = 0.0
    while len(order) < len(workload):
        event = engine.next_event()
        at = min(math.inf if event is None else event, arrivals[0][0] if arrivals else math.inf)
        running_s += engine.running * (at - now)
        now = at
        for sequence in engine.advance(now):
            order.append(number_of.pop(sequence))
            if coming < len(workload):
                arrivals.append((now + gap_s, coming))
                coming += 1
        while arrivals and arrivals[0][0] <= now:
            _, number = arrivals.pop(0)
            asked = workload[number]
            sequence = EngineSequence(str(number), asked.key, asked.prompt_tokens, asked.tokens)
            number_of[sequence] = number
            engine.submit(sequence, now)
    tokens = sum(asked.tokens for asked in workload)
    return Ran(now, tokens, engine.preemptions, running_s / now, tuple(order))
