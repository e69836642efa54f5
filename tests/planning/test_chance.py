"""Verdicts by chance are right as often as was said, and alike within a prompt."""

from __future__ import annotations

from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gen_service.errors import SpecError
from gen_service.planning.chance import ChanceVerifier
from gen_service.records import NO_TOKENS, Completion, Message, Prompt, Sample, Trace


def trace(prompt: int, index: int, finish: str | None = "stop") -> Trace:
    asked = Prompt(f"p{prompt}", (Message(role="user", content="?"),), None, "sums", prompt + 1)
    sample = Sample(f"{prompt}-{index}", "job", asked, index)
    if finish is None:
        return Trace(sample, None, error="no server")
    return Trace(sample, Completion(None, "", finish, 1, 9, NO_TOKENS, "m", "http://x", 0, (), 1.0, 0.1, 1.0))


@pytest.mark.parametrize("p_correct", [0.1, 0.5, 0.8])
async def test_the_share_of_right_answers_is_what_was_asked_for(p_correct: float) -> None:
    verifier = ChanceVerifier(p_correct, seed=1)
    rights = [
        [(await verifier.verify(trace(prompt, index))).outcome == "correct" for index in range(4)]
        for prompt in range(2000)
    ]
    assert fmean(fmean(row) for row in rights) == pytest.approx(p_correct, abs=0.03)
    both = fmean(row[0] and row[1] for row in rights)
    # E[p^2] of the beta distribution with a + b = 1.
    assert both == pytest.approx(p_correct * (p_correct + 1) / 2, abs=0.03)


@given(st.integers(0, 5), st.integers(0, 5), st.floats(0.01, 0.99), st.integers(0, 3))
async def test_the_same_sample_has_the_same_verdict(prompt: int, index: int, p_correct: float, seed: int) -> None:
    one, other = (ChanceVerifier(p_correct, seed) for _ in range(2))
    assert await one.verify(trace(prompt, index)) == await other.verify(trace(prompt, index))
    assert 0 <= one.chance(f"p{prompt}") <= 1


async def test_what_has_no_answer_is_never_right() -> None:
    verifier = ChanceVerifier(0.99, seed=1)
    assert {(await verifier.verify(trace(n, 0, "length"))).outcome for n in range(50)} == {"truncated"}
    assert {(await verifier.verify(trace(n, 0, None))).outcome for n in range(50)} == {"error"}
    assert (await ChanceVerifier(None, 1).verify(trace(0, 0))).outcome == "unverified"


@pytest.mark.parametrize("wrong", [0.0, 1.0, -1.0, 7.0])
def test_what_is_no_share_is_refused(wrong: float) -> None:
    with pytest.raises(SpecError, match="p-correct"):
        ChanceVerifier(wrong, 1)
