"""How long the next answer to a prompt will be: learned from the job's own finished answers.

The model is a random intercept on the logarithm of an answer's tokens y, since lengths of reasoning traces are close to
lognormal: y = x.w + u + e, with u ~ N(0, tau2) of the prompt and e ~ N(0, sigma2) of the answer. The features x of a
prompt are 1, the logarithm of its characters, and which source it comes from. w is a ridge regression, so a source with
few answers is shrunk to no offset. With k answers of the prompt known, the posterior of x.w + u is the usual
(x.w / tau2 + sum y / sigma2) / (1 / tau2 + k / sigma2) (Gelman and Hill, Data Analysis Using Regression and
Multilevel Models, 2007, chapter 12).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from gen_service.records import Prompt

MOST_SOURCES = 32
"""Sources with an offset of their own, the first ones met; the others share none."""

_SOME_TOKENS = math.log(2000)
_SOME_CHARACTERS = math.log(200)
_LONGEST = math.log(2**31)
# What is believed before anything is observed: answers of one prompt correlate by 0.7, and the spread of R1's lengths.
_WITHIN, _TOTAL = 0.3, 1.0
# How many observations those beliefs are worth, and how sure it is that characters and sources say nothing.
_BELIEF = 8
_PRECISIONS = (0.01, 4.0)
_SOURCE_PRECISION = 4.0
# The first residuals measure the regression's ignorance, not the spread of lengths.
_WARMING = 8
# Learned values are worked out anew after a quarter more observations, not before one for each 32 estimates that are
# asked for then (2 us each), and at least each so many.
_SHARE, _ESTIMATES, _MOST_BETWEEN = 4, 32, 1024


@dataclass(slots=True)
class _Prompt:
    """An open prompt: where its features lie, and what its finished and running answers say, in logarithms."""

    characters: float
    column: int | None
    count: int = 0
    mean: float = 0.0
    at_least: float | None = None


class LengthEstimate:
    """Expected completion tokens of a prompt's next sample. Pure and deterministic; each call is O(1).

    What was learned of all prompts changes only in `relearn`, so between two calls of it an estimate is monotone in the
    lengths of the prompt's own answers. Memory: one small record of each prompt that was met and not forgotten.
    An answer that was cut off counts with the tokens it has. Short answers finish first, so early estimates are low;
    they are low of all prompts alike, and only their order counts.
    """

    def __init__(self) -> None:
        width = len(_PRECISIONS) + MOST_SOURCES
        self._open: dict[str, _Prompt] = {}
        self._columns: dict[str, int] = {}
        # Lists: an observation touches nine numbers of them, which in arrays would take 7 us.
        self._information: list[list[float]] = np.diag([*_PRECISIONS, *[_SOURCE_PRECISION] * MOST_SOURCES]).tolist()
        self._moments = [0.0] * width
        self._weights = [0.0] * width
        self._within, self._between = _WITHIN, _TOTAL - _WITHIN
        self._sigma, self._siblings = _BELIEF * _WITHIN, float(_BELIEF)
        self._total, self._prompts = _BELIEF * _TOTAL, float(_BELIEF)
        self._count = self._learned = 0

    def due(self, estimates: int = 0) -> bool:
        """Whether enough was observed since the last `relearn` for another to be worth its time, and that of so many
        estimates, which are then to be asked for anew."""
        wanted = max(1, self._learned // _SHARE, estimates // _ESTIMATES)
        return self._count - self._learned >= min(_MOST_BETWEEN, wanted)

    @property
    def correlation(self) -> float:
        """Of two answers to one prompt, in the logarithm, beyond what the prompt's features say."""
        return self._between / (self._between + self._within)

    def expected(self, prompt: Prompt) -> float:
        """Tokens that the prompt's next sample is expected to take, at least 1. It is the mean of the lognormal,
        exp(mean + variance / 2), and not its median: what is scheduled are tokens, and what is less known may become
        longer."""
        mean, variance = self._posterior(self._opened(prompt))
        return math.exp(min(_LONGEST, max(0.0, mean + (variance + self._within) / 2)))

    def observe(self, prompt: Prompt, tokens: int) -> None:
        """A sample of the prompt took so many completion tokens."""
        known = self._opened(prompt)
        length = _logarithm(tokens)
        if known.at_least is not None and length >= known.at_least:
            known.at_least = None
        self._measure_spread(known, length)
        self._add_to_regression(known, length)
        known.count += 1
        known.mean += (length - known.mean) / known.count
        self._count += 1

    def at_least(self, prompt: Prompt, tokens: int) -> None:
        """A sample of the prompt that still runs has so many tokens already. The longest one counts, until an answer
        that is as long is observed."""
        known = self._opened(prompt)
        known.at_least = max(known.at_least or 0.0, _logarithm(tokens))

    def forget(self, prompt_id: str) -> None:
        """No more is asked or told of the prompt; what it taught of the others stays."""
        self._open.pop(prompt_id, None)

    def relearn(self) -> None:
        """Work out the regression and both variances from all that was observed. Takes about 0.1 ms."""
        width = len(_PRECISIONS) + len(self._columns)
        solved = np.linalg.solve([row[:width] for row in self._information[:width]], self._moments[:width])
        self._weights[:width] = solved.tolist()
        self._within = self._sigma / self._siblings
        self._between = max(0.01 * self._within, self._total / self._prompts - self._within)
        self._learned = self._count

    def _opened(self, prompt: Prompt) -> _Prompt:
        known = self._open.get(prompt.prompt_id)
        if known is None:
            characters = sum(len(message["content"]) for message in prompt.messages)
            column = self._columns.get(prompt.source)
            if column is None and len(self._columns) < MOST_SOURCES:
                column = self._columns[prompt.source] = len(_PRECISIONS) + len(self._columns)
            known = self._open[prompt.prompt_id] = _Prompt(math.log1p(characters) - _SOME_CHARACTERS, column)
        return known

    def _prior(self, known: _Prompt) -> float:
        offset = 0.0 if known.column is None else self._weights[known.column]
        return _SOME_TOKENS + self._weights[0] + self._weights[1] * known.characters + offset

    def _posterior(self, known: _Prompt) -> tuple[float, float]:
        """Mean and variance of the prompt's own mean."""
        precision = 1 / self._between + known.count / self._within
        prior = self._prior(known) / self._between
        mean, variance = (prior + known.count * known.mean / self._within) / precision, 1 / precision
        if known.at_least is None:
            return mean, variance
        # E[mean | y > a] is linear in E[y | y > a], which the inverse Mills ratio gives.
        spread = math.sqrt(variance + self._within)
        return mean + variance / spread * _mills((known.at_least - mean) / spread), variance

    def _measure_spread(self, known: _Prompt, length: float) -> None:
        if known.count:
            self._sigma += (length - known.mean) ** 2 * known.count / (known.count + 1)
            self._siblings += 1
        elif self._count >= _WARMING:
            self._total += (length - self._prior(known)) ** 2
            self._prompts += 1

    def _add_to_regression(self, known: _Prompt, length: float) -> None:
        """Generalised least squares by innovations: given its k siblings, an answer tells of x.w only what they did
        not. y - c mean(siblings) has the mean (1 - c) x.w, with c = tau2 / (tau2 + sigma2 / k)."""
        share = self._between / (self._between + self._within / known.count) if known.count else 0.0
        variance = self._within + self._between * (1 - share)
        target = (length - _SOME_TOKENS) - share * (known.mean - _SOME_TOKENS) if known.count else length - _SOME_TOKENS
        features = [(0, 1 - share), (1, (1 - share) * known.characters)]
        if known.column is not None:
            features.append((known.column, 1 - share))
        for row, value in features:
            self._moments[row] += value * target / variance
            information = self._information[row]
            for column, other in features:
                information[column] += value * other / variance


def _logarithm(tokens: int) -> float:
    return math.log(min(max(tokens, 1), 2**31))


def _mills(bound: float) -> float:
    """phi(z) / (1 - Phi(z)): by how many deviations the mean of a normal above `bound` lies over its own."""
    if bound > 25:
        return bound + 1 / bound
    return math.exp(-bound * bound / 2) / math.sqrt(2 * math.pi) / (0.5 * math.erfc(bound / math.sqrt(2)))
