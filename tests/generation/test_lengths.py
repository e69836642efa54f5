"""The estimate of lengths learns what there is to learn, and stays a number whatever it is told."""

from __future__ import annotations

import math
import random
from itertools import pairwise
from statistics import fmean

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gen_service.generation.lengths import MOST_SOURCES, LengthEstimate
from gen_service.records import Message, Prompt


def prompt(name: str, characters: int = 100, source: str = "sums") -> Prompt:
    return Prompt(name, (Message(role="user", content="x" * characters),), None, source, 1)


def ranks(values: list[float]) -> np.ndarray:
    return np.argsort(np.argsort(np.array(values), kind="stable"), kind="stable").astype(float)


def rank_correlation(one: list[float], other: list[float]) -> float:
    return float(np.corrcoef(ranks(one), ranks(other))[0, 1])


def learned_from(observed: list[tuple[Prompt, int]]) -> LengthEstimate:
    lengths = LengthEstimate()
    for one, tokens in observed:
        lengths.observe(one, tokens)
        if lengths.due():
            lengths.relearn()
    lengths.relearn()
    return lengths


def test_with_nothing_observed_all_are_equal() -> None:
    lengths = LengthEstimate()
    expected = [lengths.expected(prompt(str(size), size, str(size % 3))) for size in range(0, 3000, 100)]
    assert expected == [pytest.approx(2000 * math.exp(0.5))] * 30
    assert not lengths.due()


some = st.tuples(st.integers(0, 5), st.integers(0, 400), st.sampled_from("abc"), st.integers(-5, 2**40))


@given(st.lists(some, max_size=60), st.lists(some, max_size=10))
def test_it_is_a_number_of_at_least_one_whatever_is_observed(
    ended: list[tuple[int, int, str, int]], running: list[tuple[int, int, str, int]]
) -> None:
    lengths = learned_from([(prompt(str(name), size, source), tokens) for name, size, source, tokens in ended])
    for name, size, source, tokens in running:
        lengths.at_least(prompt(str(name), size, source), tokens)
    for name, size, source, _ in [*ended, *running, (99, 7, "new", 0)]:
        expected = lengths.expected(prompt(str(name), size, source))
        assert 1 <= expected <= 2**31 * (1 + 1e-9)
    assert 0 < lengths.correlation < 1


@given(st.lists(some, max_size=40), st.lists(st.integers(1, 10**6), max_size=4), st.lists(st.integers(0, 10**6)))
def test_a_longer_sibling_never_makes_the_next_one_shorter(
    others: list[tuple[int, int, str, int]], siblings: list[int], lasts: list[int]
) -> None:
    expected = []
    for last in sorted(lasts):
        lengths = learned_from([(prompt(str(name), size, source), tokens) for name, size, source, tokens in others])
        for tokens in [*siblings, last]:
            lengths.observe(prompt("one"), tokens)
        expected.append(lengths.expected(prompt("one")))
    assert all(before <= after for before, after in pairwise(expected))


@given(st.lists(some, max_size=40), st.lists(st.integers(1, 10**6), min_size=1, max_size=6))
def test_the_longer_a_sibling_runs_the_longer_the_next_one(
    others: list[tuple[int, int, str, int]], running: list[int]
) -> None:
    lengths = learned_from([(prompt(str(name), size, source), tokens) for name, size, source, tokens in others])
    expected = [lengths.expected(prompt("one"))]
    for tokens in running:
        lengths.at_least(prompt("one"), tokens)
        expected.append(lengths.expected(prompt("one")))
    assert all(before <= after for before, after in pairwise(expected))
    lengths.observe(prompt("one"), max(running))
    assert lengths.expected(prompt("one")) == twice(others, max(running))


def twice(others: list[tuple[int, int, str, int]], tokens: int) -> float:
    lengths = learned_from([(prompt(str(name), size, source), tokens) for name, size, source, tokens in others])
    lengths.observe(prompt("one"), tokens)
    return lengths.expected(prompt("one"))


@given(st.lists(some, max_size=60))
def test_the_same_observations_make_the_same_estimate(observed: list[tuple[int, int, str, int]]) -> None:
    told = [(prompt(str(name), size, source), tokens) for name, size, source, tokens in observed]
    one, other = learned_from(told), learned_from(told)
    assert [one.expected(each) for each, _ in told] == [other.expected(each) for each, _ in told]


def synthetic(prompts: int, siblings: int, correlation: float, seed: int) -> list[tuple[Prompt, list[int]]]:
    """R1-like: lognormal of mean 6,000 tokens and deviation 0.9 in the logarithm; longer questions and one source have
    longer answers."""
    dice = random.Random(seed)
    made = []
    for number in range(prompts):
        source = dice.choice(["sums", "geometry", "proofs"])
        characters = round(math.exp(dice.gauss(math.log(300), 0.6)))
        mean = 8.2 + 0.4 * math.log(characters / 300) + {"sums": 0.0, "geometry": 0.3, "proofs": 0.8}[source]
        own = dice.gauss(0.0, 0.9 * math.sqrt(correlation))
        lengths = [mean + own + dice.gauss(0.0, 0.9 * math.sqrt(1 - correlation)) for _ in range(siblings)]
        made.append((prompt(str(number), characters, source), [round(math.exp(length)) for length in lengths]))
    return made


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_characters_and_sources_are_learned(seed: int) -> None:
    lengths = learned_from([(one, made[0]) for one, made in synthetic(2000, 1, 0.7, seed)])

    def mean(characters: int, source: str) -> float:
        return math.log(lengths.expected(prompt(f"new {characters} {source}", characters, source))) - 0.9**2 / 2

    assert mean(300, "sums") == pytest.approx(8.2, abs=0.1)
    assert mean(300, "proofs") - mean(300, "sums") == pytest.approx(0.8, abs=0.15)
    assert mean(300, "geometry") - mean(300, "sums") == pytest.approx(0.3, abs=0.15)
    assert mean(3000, "sums") - mean(300, "sums") == pytest.approx(0.4 * math.log(10), abs=0.2)


@pytest.mark.parametrize("correlation", [0.3, 0.7, 0.9])
def test_the_correlation_of_siblings_is_learned(correlation: float) -> None:
    told = [(one, tokens) for one, made in synthetic(2000, 4, correlation, 5) for tokens in made]
    random.Random(1).shuffle(told)
    assert learned_from(told).correlation == pytest.approx(correlation, abs=0.04)


@pytest.mark.parametrize("correlation", [0.5, 0.7, 0.9])
def test_after_one_sibling_the_order_of_the_next_is_as_good_as_it_can_be(correlation: float) -> None:
    """The best there is: the rank correlation of the true prior and the sibling, weighted as the model says."""
    made = synthetic(3000, 3, correlation, 11)
    lengths = learned_from([(one, tokens[0]) for one, tokens in made])
    estimated = [lengths.expected(one) for one, _ in made]
    offsets = {"sums": 0.0, "geometry": 0.3, "proofs": 0.8}
    priors = [8.2 + 0.4 * math.log(len(one.messages[0]["content"]) / 300) + offsets[one.source] for one, _ in made]
    best = [
        (1 - correlation) * prior + correlation * math.log(tokens[0])
        for prior, (_, tokens) in zip(priors, made, strict=True)
    ]
    truth = [float(tokens[1]) for _, tokens in made]
    reached, bound = rank_correlation(estimated, truth), rank_correlation(best, truth)
    assert bound > correlation - 0.1
    assert reached > bound - 0.02


def test_without_features_that_say_anything_the_bound_is_the_siblings_correlation() -> None:
    dice = random.Random(3)
    told, truth = [], []
    for number in range(3000):
        own = dice.gauss(8.3, 0.9 * math.sqrt(0.7))
        first, second = (round(math.exp(own + dice.gauss(0.0, 0.9 * math.sqrt(0.3)))) for _ in range(2))
        told.append((prompt(str(number), dice.randrange(50, 500)), first))
        truth.append(float(second))
    lengths = learned_from(told)
    expected = [lengths.expected(one) for one, _ in told]
    assert rank_correlation(expected, truth) == pytest.approx(6 / math.pi * math.asin(0.7 / 2), abs=0.03)
    assert fmean(expected) == pytest.approx(fmean(truth), rel=0.1)


def test_a_prompt_that_is_forgotten_has_only_its_features_left() -> None:
    lengths = learned_from([(one, made[0]) for one, made in synthetic(200, 1, 0.7, 1)])
    before = lengths.expected(prompt("newer"))
    lengths.observe(prompt("new"), 30_000)
    assert lengths.expected(prompt("new")) > 2 * before
    lengths.forget("new")
    lengths.forget("never met")
    assert lengths.expected(prompt("new")) == before


def test_more_sources_than_have_an_offset_are_no_error() -> None:
    told = [(prompt(str(number), 100, f"source {number % 100}"), 100 + number) for number in range(1000)]
    lengths = learned_from(told)
    late = [lengths.expected(prompt(f"new {number}", 100, f"source {number}")) for number in range(MOST_SOURCES, 100)]
    assert len(set(late)) == 1


@pytest.mark.parametrize(
    ("estimates", "first"), [(0, [1, 2, 3, 4, 5, 6, 7, 8, 10]), (500, [15, 30, 45, 60, 75]), (10**6, [1024])]
)
def test_it_is_relearned_often_at_first_where_little_hangs_on_it(estimates: int, first: list[int]) -> None:
    lengths, when = LengthEstimate(), []
    for number in range(20_000):
        lengths.observe(prompt("one"), number)
        if lengths.due(estimates):
            lengths.relearn()
            when.append(number + 1)
    assert when[: len(first)] == first
    assert max(after - before for before, after in pairwise(when)) == 1024
