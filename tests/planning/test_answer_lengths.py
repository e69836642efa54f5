"""Lengths of planned answers: the mean, the cut and the likeness of siblings are what was asked for."""

from __future__ import annotations

import asyncio
import math
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gen_service.endpoints.simulated.lengths import Lengths
from gen_service.errors import SpecError
from gen_service.planning.answer_lengths import AnswerLengths, CappedLognormal, Empirical, like, supposed
from gen_service.records import NO_TOKENS, Completion, Message, Prompt, Sample, Trace, Verdict
from gen_service.settings import OutputSettings
from gen_service.storage.job_folder import open_job_folder


def drawn(lengths: AnswerLengths, prompts: int, samples: int) -> np.ndarray:
    return np.array(
        [[lengths.tokens(f"p{prompt}", f"s{prompt}-{index}") for index in range(samples)] for prompt in range(prompts)]
    )


def test_supposed_lengths_have_the_mean_when_they_are_cut_at_the_cap() -> None:
    wanted = drawn(supposed(6000, 0.95, 32768), 5000, 4)
    assert wanted.max() == 32769
    made = np.minimum(wanted, 32768)
    assert made.mean() == pytest.approx(6000, rel=0.03)
    assert np.log(made[made < 32768]).std() == pytest.approx(0.95, rel=0.1)


def test_siblings_are_alike_and_strangers_are_not() -> None:
    made = np.log(drawn(supposed(4000, 0.8, 10**9), 5000, 2))
    assert np.corrcoef(made[:, 0], made[:, 1])[0, 1] == pytest.approx(0.7, abs=0.03)
    assert np.corrcoef(made[:-1, 0], made[1:, 0])[0, 1] == pytest.approx(0.0, abs=0.05)


@given(st.floats(1, 20_000), st.floats(0.05, 2.0), st.integers(25_000, 200_000))
def test_any_mean_below_the_cap_is_met(mean: float, sigma: float, cap: int) -> None:
    marginal = supposed(mean, sigma, cap).marginal
    assert isinstance(marginal, CappedLognormal)
    capped = Lengths(mean=mean, cap=cap, sigma=sigma)
    assert marginal == CappedLognormal(capped.mu, sigma, cap)
    assert capped.moment(1) == pytest.approx(mean, rel=1e-6)


@given(st.text(max_size=5), st.text(max_size=5), st.integers(0, 9))
def test_the_same_sample_is_always_as_long_and_at_least_one_token(prompt: str, sample: str, seed: int) -> None:
    lengths = replace(supposed(1.5, 1.0, 50), seed=seed)
    assert lengths.tokens(prompt, sample) == lengths.tokens(prompt, sample)
    assert 1 <= lengths.tokens(prompt, sample) <= 51


@given(st.lists(st.floats(1, 1e6), min_size=2, max_size=50).map(sorted), st.floats(0, 1), st.floats(0, 1))
def test_empirical_quantiles_rise_from_the_least_to_the_most(lengths: list[float], one: float, other: float) -> None:
    empirical = Empirical(lengths)
    low, high = sorted((one, other))
    assert lengths[0] <= empirical.quantile(low) <= empirical.quantile(high) * (1 + 1e-12) <= lengths[-1] * (1 + 1e-9)
    assert empirical.quantile(0.0) == lengths[0]
    assert empirical.quantile(1.0) == pytest.approx(lengths[-1])


@pytest.mark.parametrize(
    ("mean", "sigma", "cap", "field"), [(6000, 0.0, 32768, "sigma"), (900, 1.0, 900, "mean-tokens")]
)
def test_what_cannot_be_is_refused(mean: float, sigma: float, cap: int, field: str) -> None:
    with pytest.raises(SpecError) as refused:
        supposed(mean, sigma, cap)
    assert refused.value.field == field


def row(prompt: int, index: int, tokens: int, finish: str = "stop") -> Trace:
    asked = Prompt(f"p{prompt}", (Message(role="user", content="?"),), "1", "sums", prompt + 1)
    completion = Completion(None, "1", finish, 9, tokens, NO_TOKENS, "m", "http://x", 0, (), 1.0, 0.1, 1.0)
    return Trace(Sample(f"s{prompt}-{index}", "job", asked, index), completion)


def published(folder: Path, rows: list[Trace]) -> str:
    async def publish() -> None:
        output = OutputSettings(path=str(folder), shard_rows=500)
        async with open_job_folder(output, "job", {}, {}, "{}", lambda _: None) as job:
            positions = await asyncio.gather(*map(job.record, rows))
            for position, one in zip(positions, rows, strict=True):
                await job.publish(position, replace(one, verdict=Verdict("correct", "by test")))

    asyncio.run(publish())
    return str(folder / "job")


def test_lengths_are_learned_from_an_earlier_jobs_traces(tmp_path: Path) -> None:
    dice, rows = random.Random(4), []
    for prompt in range(250):
        own = dice.gauss(6.0, 0.8 * math.sqrt(0.5))
        for index in range(4):
            tokens = min(2000, round(math.exp(own + dice.gauss(0, 0.8 * math.sqrt(0.5)))))
            rows.append(row(prompt, index, tokens, "length" if tokens == 2000 else "stop"))
    seen = np.array([one.completion.completion_tokens for one in rows if one.completion])
    lengths = like(published(tmp_path, rows), 1500)
    made = drawn(lengths, 5000, 2)
    assert lengths.correlation == pytest.approx(0.5, abs=0.1)
    assert made.max() == 1501
    assert np.minimum(made, 1500).mean() == pytest.approx(np.minimum(seen, 1500).mean(), rel=0.05)
    assert np.median(made) == pytest.approx(np.median(seen), rel=0.05)
    assert "as 1,000 answers of" in lengths.words


def test_without_siblings_their_likeness_is_supposed(tmp_path: Path) -> None:
    lengths = like(published(tmp_path, [row(prompt, 0, 100 + prompt) for prompt in range(40)]), 10_000)
    assert lengths.correlation == 0.7
    assert "(supposed)" in lengths.words


def test_an_earlier_job_with_few_answers_is_refused(tmp_path: Path) -> None:
    path = published(tmp_path, [row(prompt, 0, 100) for prompt in range(19)])
    with pytest.raises(SpecError, match="at least 20 published answers; it has 19"):
        like(path, 10_000)
    with pytest.raises(SpecError, match="a job folder"):
        like(str(tmp_path / "none"), 10_000)
