"""Lengths of simulated answers: R1's shape, siblings alike."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gen_service.endpoints.simulated.lengths import Lengths


def drawn(lengths: Lengths, prompts: int, samples: int) -> np.ndarray:
    return np.array([[lengths.tokens(f"p{prompt}", f"s{one}") for one in range(samples)] for prompt in range(prompts)])


def test_they_have_the_mean_the_tail_and_the_cap_of_r1() -> None:
    lengths = Lengths()
    tokens = drawn(lengths, 4000, 4)
    assert lengths.moment(1) == pytest.approx(6000.0)
    assert tokens.mean() == pytest.approx(6000.0, rel=0.04)
    assert tokens.max() == 32768
    assert (tokens >= 30_000).mean() == pytest.approx(lengths.share_from(30_000), abs=0.004)
    assert lengths.share_from(30_000) > 0.005
    assert lengths.share_from(32_769) == 0.0


def test_a_running_sequence_has_as_many_tokens_as_the_moments_say() -> None:
    lengths = Lengths()
    tokens = drawn(lengths, 4000, 4).astype(float)
    assert lengths.mean_live_tokens() == pytest.approx(5302.0, rel=0.001)
    assert (tokens**2).mean() / 2 / tokens.mean() == pytest.approx(5302.0, rel=0.05)


@pytest.mark.parametrize("rho", [0.0, 0.3, 0.7, 1.0])
def test_siblings_are_as_alike_as_asked_and_strangers_are_not(rho: float) -> None:
    logs = np.log(drawn(Lengths(cap=10**9, sibling_correlation=rho), 3000, 2))
    assert np.corrcoef(logs[:, 0], logs[:, 1])[0, 1] == pytest.approx(rho, abs=0.05)
    assert np.corrcoef(logs[:-1, 0], logs[1:, 1])[0, 1] == pytest.approx(0.0, abs=0.06)


@given(st.floats(1.0, 1e5), st.floats(0.05, 2.5), st.floats(1.01, 1e3))
def test_any_mean_below_the_cap_is_met(mean: float, sigma: float, room: float) -> None:
    lengths = Lengths(mean=mean, cap=math.ceil(mean * room), sigma=sigma)
    assert lengths.moment(1) == pytest.approx(mean, rel=1e-6)


@given(st.integers(), st.text(), st.text())
def test_the_same_sample_is_always_as_long(seed: int, prompt: str, sample: str) -> None:
    lengths = Lengths(seed=seed)
    assert lengths.tokens(prompt, sample) == Lengths(seed=seed).tokens(prompt, sample)
    assert 1 <= lengths.tokens(prompt, sample) <= lengths.cap
