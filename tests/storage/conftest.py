"""Traces to store."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import strategies as st

from gen_service.records import NO_TOKENS, BatchLine, Completion, Message, Prompt, Sample, Trace, Verdict

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


_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
_ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=30)
_SECONDS = st.floats(0, 4e9).map(lambda seconds: round(seconds * 1_000_000) / 1_000_000)


def _traces(text: st.SearchStrategy[str]) -> st.SearchStrategy[Trace]:
    messages = st.lists(st.builds(Message, role=text, content=text), max_size=3).map(tuple)
    values = st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(-1e9, 1e9) | text
    nested = st.recursive(values, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(text, inner, max_size=2))
    bodies = st.dictionaries(text | st.sampled_from(["messages", "prompt"]), nested, max_size=3)
    requests = st.builds(BatchLine, st.sampled_from(["/v1/chat/completions", "/v1/completions"]), bodies)
    prompts = st.builds(Prompt, text, messages, st.none() | text, text, st.integers(1, 2**40), st.none() | requests)
    samples = st.builds(
        Sample, text, text, prompts, st.integers(0, 2**31 - 1), st.none() | st.integers(-(2**63) + 1, 2**63 - 1)
    )
    retries = st.lists(text, max_size=3).map(tuple)
    tokens = st.lists(st.integers(0, 2**31 - 1), max_size=20).map(lambda ids: np.array(ids, dtype=np.int32))
    completions = st.builds(
        Completion,
        reasoning=st.none() | text,
        content=text,
        finish_reason=text,
        prompt_tokens=st.integers(0, 2**31 - 1),
        completion_tokens=st.integers(0, 2**31 - 1),
        token_ids=tokens,
        model=text,
        endpoint=text,
        continued=st.integers(0, 9),
        retries=retries,
        started_at=_SECONDS,
        first_token_s=st.none() | _SECONDS,
        total_s=_SECONDS,
    )
    verdicts = st.builds(
        Verdict,
        st.sampled_from(["correct", "error", "unverified"]),
        reason=text,
        extracted=st.none() | text,
        normalised=st.none() | text,
        how=st.sampled_from(["boxed", "none"]),
        path=st.sampled_from(["number", "plugin", "none"]),
        cpu_s=st.floats(0, 9),
        verifier=text,
    )
    return st.builds(Trace, samples, st.none() | completions, st.none() | verdicts, st.none() | text, retries)


@pytest.fixture(scope="session")
def traces() -> st.SearchStrategy[Trace]:
    """Any trace that can be written as UTF-8."""
    return _traces(_TEXT)


@pytest.fixture(scope="session")
def wild_traces() -> st.SearchStrategy[Trace]:
    """Any trace that a server's JSON can lead to, lone surrogates included."""
    return _traces(_ANY_TEXT)


def _assert_same(left: Trace, right: Trace) -> None:
    assert (left.completion is None) == (right.completion is None)
    if left.completion is not None and right.completion is not None:
        assert left.completion.token_ids.dtype == right.completion.token_ids.dtype == np.int32
        assert left.completion.token_ids.tolist() == right.completion.token_ids.tolist()
        left = dataclasses.replace(left, completion=dataclasses.replace(left.completion, token_ids=NO_TOKENS))
        right = dataclasses.replace(right, completion=dataclasses.replace(right.completion, token_ids=NO_TOKENS))
    assert left == right


@pytest.fixture(scope="session")
def assert_same() -> Callable[[Trace, Trace], None]:
    """Asserts that two traces are equal, token ids included."""
    return _assert_same


@pytest.fixture
def quick_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder where fsync costs nothing, for tests of many small runs."""
    memory = Path("/dev/shm")
    if not memory.is_dir():
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        yield Path(folder)
