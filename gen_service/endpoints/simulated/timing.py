"""How long a simulated answer takes: distributions drawn by quantile, and the pace of one answer's tokens."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import NormalDist
from typing import Final

_Z99: Final = NormalDist().inv_cdf(0.99)


@dataclass(frozen=True, slots=True)
class Fixed:
    """Always the same value."""

    value: float

    def at(self, quantile: float) -> float:
        return self.value


@dataclass(frozen=True, slots=True)
class LogNormal:
    """Lognormal with this median and 99th percentile; values past `cap` become `cap`."""

    median: float
    p99: float
    cap: float = math.inf

    @classmethod
    def with_mean(cls, mean: float, sigma: float, cap: float = math.inf) -> LogNormal:
        """From the mean before the cap and the standard deviation of the logarithm."""
        median = mean / math.exp(sigma * sigma / 2)
        return cls(median=median, p99=median * math.exp(sigma * _Z99), cap=cap)

    def at(self, quantile: float) -> float:
        sigma = math.log(self.p99 / self.median) / _Z99
        return min(self.cap, self.median * math.exp(sigma * NormalDist().inv_cdf(quantile)))


Distribution = Fixed | LogNormal


@dataclass(frozen=True, slots=True)
class Pace:
    """When the tokens of one answer come.

    Attributes:
        first_s: seconds from admission to the first token.
        token_s: seconds from each token to the next.
    """

    first_s: float
    token_s: float

    def seconds(self, tokens: int) -> float:
        """Seconds until `tokens` tokens have come."""
        return self.first_s + max(0, tokens - 1) * self.token_s

    def writes(self, tokens: int, interval: int, tick_s: float) -> Iterator[tuple[int, float]]:
        """What is written when: yields (tokens written so far, seconds since admission).

        The first write holds one interval. Then as many whole intervals share one write as become due within `tick_s`,
        so that a fast stream costs few writes. Each write comes when its last token is due.
        """
        if self.token_s <= 0.0:
            yield tokens, self.first_s
            return
        done = min(tokens, interval)
        yield done, self.seconds(done)
        in_tick = min(float(tokens), tick_s / self.token_s)
        step = interval * max(1, int(in_tick / interval))
        while done < tokens:
            done = min(tokens, done + step)
            yield done, self.seconds(done)


@dataclass(frozen=True, slots=True)
class TokenRate:
    """The first token after `first_token_s`, then `tokens_per_s` for each sequence, however many are running."""

    first_token_s: Distribution = Fixed(0.0)
    tokens_per_s: float = math.inf

    def pace(self, quantile: float, tokens: int) -> Pace:
        return Pace(self.first_token_s.at(quantile), 1.0 / self.tokens_per_s)


@dataclass(frozen=True, slots=True)
class TotalLatency:
    """The whole answer takes `seconds`, its tokens evenly spread; a part of it takes its share."""

    seconds: Distribution

    def pace(self, quantile: float, tokens: int) -> Pace:
        """The pace that brings the last of `tokens` tokens after `seconds`."""
        token_s = self.seconds.at(quantile) / tokens
        return Pace(token_s, token_s)


Timing = TokenRate | TotalLatency

HEAVY_TAIL: Final = TotalLatency(LogNormal(median=0.5, p99=3.4, cap=4.1))
