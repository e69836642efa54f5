"""How long the answers of a planned job are: drawn from a distribution, siblings alike as they are in life."""

from __future__ import annotations

import hashlib
import math
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean
from typing import Protocol

from gen_service.endpoints.simulated.lengths import SIBLING_CORRELATION, Lengths
from gen_service.errors import SpecError
from gen_service.storage.traces import read_batches

_NORMAL = NormalDist()
_QUANTILES = 4096
_FEWEST = 20
_COLUMNS = ("prompt_id", "completion_tokens", "finish_reason")


class Marginal(Protocol):
    """The distribution of all answers' lengths."""

    def quantile(self, share: float) -> float:
        """The tokens that this share of the answers does not exceed."""
        ...


@dataclass(frozen=True, slots=True)
class AnswerLengths:
    """Completion tokens of each sample, a pure function of seed, prompt and sample.

    A Gaussian copula: the normal scores of two answers to one prompt correlate by `correlation`, whatever the shape of
    the marginal (Nelsen, An Introduction to Copulas, 2006, section 2.3).

    Attributes:
        words: what is assumed, for people.
        correlation: of siblings, 0 to 1.
    """

    marginal: Marginal
    correlation: float
    words: str
    seed: int = 0

    def tokens(self, prompt_id: str, sample_id: str) -> int:
        """At least 1."""
        own, shared = self._score(sample_id), self._score(prompt_id)
        score = math.sqrt(self.correlation) * shared + math.sqrt(1.0 - self.correlation) * own
        return max(1, round(self.marginal.quantile(_NORMAL.cdf(score))))

    def _score(self, key: str) -> float:
        digest = hashlib.blake2b(f"{self.seed}\x1f{key}".encode(), digest_size=8).digest()
        return _NORMAL.inv_cdf((int.from_bytes(digest) + 0.5) / 2**64)


@dataclass(frozen=True, slots=True)
class CappedLognormal:
    """Lognormal; longer than `cap` is `cap` + 1: a server that is asked for `cap` tokens cuts it off. `location` and
    `sigma` are of the logarithm before the cut."""

    location: float
    sigma: float
    cap: int

    def quantile(self, share: float) -> float:
        """See Marginal."""
        score = _NORMAL.inv_cdf(min(max(share, 1e-12), 1 - 1e-12))
        return min(self.cap + 1.0, math.exp(self.location + self.sigma * score))


@dataclass(frozen=True, slots=True)
class Empirical:
    """Lengths that were seen, `sorted`; between two of them linear."""

    sorted: Sequence[float]

    def quantile(self, share: float) -> float:
        """See Marginal."""
        place = share * (len(self.sorted) - 1)
        below = min(int(place), len(self.sorted) - 2)
        return self.sorted[below] + (place - below) * (self.sorted[below + 1] - self.sorted[below])


def supposed(mean_tokens: float, sigma: float, cap: int, seed: int = 0) -> AnswerLengths:
    """Lognormal lengths.

    Args:
        mean_tokens: mean of what is made, the cut-off answers with what they have.
        sigma: deviation of the logarithm before the cut.
        cap: most tokens of an answer.

    Raises:
        SpecError: no such distribution has this mean.
    """
    if not sigma > 0:
        raise SpecError("sigma", sigma, "above 0")
    if not 1 <= mean_tokens <= 0.95 * cap:
        raise SpecError("mean-tokens", mean_tokens, f"from 1 to {0.95 * cap:.0f}: the cap is {cap} tokens")
    location = Lengths(mean=mean_tokens, cap=cap, sigma=sigma).mu
    words = (
        f"lognormal, mean {mean_tokens:,.0f} tokens, sigma {sigma:g}, cap {cap:,}; "
        f"siblings correlate by {SIBLING_CORRELATION}"
    )
    return AnswerLengths(CappedLognormal(location, sigma, cap), SIBLING_CORRELATION, words, seed)


def like(path: str, cap: int, seed: int = 0) -> AnswerLengths:
    """Lengths as an earlier job's published traces have them.

    Args:
        path: the earlier job's folder or URL.
        cap: most tokens of an answer in the planned job; longer ones are cut off. Answers that the earlier job cut
            off count as they are.

    Raises:
        SpecError: no job is there, or it has fewer than 20 answers.
    """
    prompts: defaultdict[str, list[int]] = defaultdict(list)
    cut = 0
    for batch in read_batches(path, _COLUMNS):
        for row in batch.to_pylist():
            if row["completion_tokens"]:
                prompts[row["prompt_id"]].append(row["completion_tokens"])
                cut += row["finish_reason"] == "length"
    lengths = sorted(tokens for each in prompts.values() for tokens in each)
    if len(lengths) < _FEWEST:
        raise SpecError("like", path, f"a job with at least {_FEWEST} published answers; it has {len(lengths)}")
    correlation = _correlation(prompts.values(), lengths)
    known = SIBLING_CORRELATION if correlation is None else correlation
    step = (len(lengths) - 1) / (min(_QUANTILES, len(lengths)) - 1)
    kept = [float(min(cap + 1, lengths[round(place * step)])) for place in range(min(_QUANTILES, len(lengths)))]
    words = (
        f"as {len(lengths):,} answers of {path}: mean {fmean(lengths):,.0f} tokens, {cut / len(lengths):.1%} cut off; "
        f"siblings correlate by {known:.2f}{' (supposed)' if correlation is None else ''}"
    )
    return AnswerLengths(Empirical(kept), known, words, seed)


def _correlation(prompts: Iterable[list[int]], lengths: Sequence[int]) -> float | None:
    """Of the siblings' normal scores, by one-way analysis of variance; None where there are too few siblings."""
    groups = [[_normal_score(tokens, lengths) for tokens in each] for each in prompts]
    total, free = len(lengths), len(lengths) - len(groups)
    if len(groups) < 2 or free < _FEWEST:
        return None
    mean = fmean(score for group in groups for score in group)
    between = sum(len(group) * (fmean(group) - mean) ** 2 for group in groups) / (len(groups) - 1)
    within = sum((score - fmean(group)) ** 2 for group in groups for score in group) / free
    size = (total - sum(len(group) ** 2 for group in groups) / total) / (len(groups) - 1)
    spread = between + (size - 1) * within
    return min(0.99, max(0.0, (between - within) / spread)) if spread > 0 else None


def _normal_score(tokens: int, lengths: Sequence[int]) -> float:
    """Of a length among all, `lengths` sorted; equal ones have the score of their middle."""
    place = (bisect_left(lengths, tokens) + bisect_right(lengths, tokens)) / 2
    return _NORMAL.inv_cdf(place / len(lengths))
