"""Traces to store."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from gen_service.records import Completion, Message, Prompt, Sample, Trace, Verdict

MakeTrace = Callable[..., Trace]


def _make_trace(number: int, *, chars: int = 40, verdict: str | None = None, error: str | None = None) -> Trace:
    messages = (Message(role="user", content=f"What is {number} + 1?"),)
    prompt = Prompt(f"p{number}", messages, str(number + 1), "sums", number + 1)
    sample = Sample(f"s{number:06}", "job", prompt, 0)
    outcome = None if verdict is None else Verdict(verdict, "by test", str(number + 1))  # type: ignore[arg-type]
    if error is not None:
        return Trace(sample, None, outcome, error, ("unreachable",))
    tokens = np.random.default_rng(number).integers(0, 150_000, size=max(1, chars // 4), dtype=np.int32)
    completion = Completion(
        reasoning=f"{number} plus one. " * (chars // 16),
        content=f"\\boxed{{{number + 1}}}",
        finish_reason="stop",
        prompt_tokens=12,
        completion_tokens=len(tokens),
        token_ids=tokens,
        model="tiny",
        endpoint="http://127.0.0.1:8000",
        continued=0,
        retries=("stalled",) if number % 7 == 0 else (),
        started_at=1_700_000_000.25 + number,
        first_token_s=0.5,
        total_s=2.5,
    )
    return Trace(sample, completion, outcome)


@pytest.fixture
def make_trace() -> MakeTrace:
    """A trace by its number: the same number makes the same trace."""
    return _make_trace
