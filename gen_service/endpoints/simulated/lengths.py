"""How long simulated answers are: lognormal as R1's, longer on some prompts than on others."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import Final

from gen_service.errors import SpecError

# Of R1 on competition problems: the mean of the Open-R1 post; spread and correlation of siblings are estimates.
MEAN_TOKENS: Final = 6000.0
SIGMA: Final = 0.8
SIBLING_CORRELATION: Final = 0.7
_NORMAL: Final = NormalDist()
_BISECTIONS: Final = 100


@dataclass(frozen=True, slots=True)
class Lengths:
    """Completion lengths in tokens, a pure function of seed, prompt and sample.

    log length = mu + sigma (sqrt(rho) z_prompt + sqrt(1 - rho) z_sample), cut at `cap`; mu is chosen so that the mean
    after the cut is `mean`. R1's answers to competition problems took 6,000 tokens on average and some over 30,000
    (the Open-R1 post): at sigma 0.8 it is 0.8% of them, and 0.6% meet the cap. rho says how much of the variance of
    the logarithm is the prompt's; 0.7 is an assumption, no published number was found.

    Attributes:
        mean: mean length after the cap.
        cap: longest answer.
        sigma: standard deviation of the logarithm.
        sibling_correlation: rho, from 0 to 1.
        mu: mean of the logarithm.
    """

    mean: float = MEAN_TOKENS
    cap: int = 32768
    sigma: float = SIGMA
    sibling_correlation: float = SIBLING_CORRELATION
    seed: int = 0
    mu: float = field(init=False)

    def __post_init__(self) -> None:
        if not self.cap >= 1:
            raise SpecError("lengths.cap", self.cap, "at least 1 token")
        if not 1.0 <= self.mean < self.cap:
            raise SpecError("lengths.mean", self.mean, f"from 1 to below the cap, which is {self.cap}")
        if not 0.0 < self.sigma < math.inf:
            raise SpecError("lengths.sigma", self.sigma, "above 0")
        if not 0.0 <= self.sibling_correlation <= 1.0:
            raise SpecError("lengths.sibling_correlation", self.sibling_correlation, "from 0 to 1")
        object.__setattr__(self, "mu", self._solved())

    def tokens(self, prompt_id: str, sample: str | int) -> int:
        """Length of one answer: to the same sample of the same prompt always the same."""
        rho = self.sibling_correlation
        z = math.sqrt(rho) * self._z(prompt_id, "") + math.sqrt(1.0 - rho) * self._z(prompt_id, f"\0{sample}")
        return min(self.cap, max(1, round(math.exp(self.mu + self.sigma * z))))

    def moment(self, power: int) -> float:
        """E[L^power] after the cap, by the closed form of the lognormal's partial moments."""
        return _capped_moment(self.mu, self.sigma, self.cap, power)

    def mean_live_tokens(self) -> float:
        """Completion tokens that a running sequence has on average, E[L^2] / 2 E[L]: long ones are met more often."""
        return self.moment(2) / (2.0 * self.moment(1))

    def share_from(self, tokens: int) -> float:
        """Share of answers of at least so many tokens."""
        return 0.0 if tokens > self.cap else 1.0 - _NORMAL.cdf((math.log(tokens) - self.mu) / self.sigma)

    def _z(self, prompt_id: str, sample: str) -> float:
        digest = hashlib.blake2b(f"{self.seed}\0{prompt_id}{sample}".encode(), digest_size=8).digest()
        return _NORMAL.inv_cdf(((int.from_bytes(digest, "little") >> 12) + 0.5) / 2**52)

    def _solved(self) -> float:
        """mu for the asked mean: the mean after the cap rises with mu, from 0 to the cap."""
        low, high = math.log(self.mean) - self.sigma**2 - 1.0, math.log(self.cap) + 10.0 * self.sigma
        for _ in range(_BISECTIONS):
            middle = (low + high) / 2.0
            if _capped_moment(middle, self.sigma, self.cap, 1) < self.mean:
                low = middle
            else:
                high = middle
        return (low + high) / 2.0


def _capped_moment(mu: float, sigma: float, cap: float, power: int) -> float:
    z = (math.log(cap) - mu) / sigma
    below = math.exp(power * mu + (power * sigma) ** 2 / 2.0) * _NORMAL.cdf(z - power * sigma)
    return below + cap**power * (1.0 - _NORMAL.cdf(z))
