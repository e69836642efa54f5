"""Requests and views over the wire: what is written is read back as the same."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from gen_service.settings import ColumnNames, OrderSettings, SamplingSettings, SteeringSettings, TruncationSettings
from gen_service.wire.jobs import (
    JobCounts,
    JobRates,
    JobRequest,
    JobView,
    OutputChoice,
    PromptSource,
    ServerLoad,
    VerificationChoice,
    WebhookChoice,
)
from gen_service.wire.openai import BatchRequest
from gen_service.wire.states import STATES

WORDS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=20)
NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,30}", fullmatch=True)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=5,
)
COUNTS = st.integers(0, 2**53)
WHICH = st.one_of(
    st.fixed_dictionaries({"rows": st.lists(st.dictionaries(WORDS, VALUES, max_size=3), min_size=1, max_size=3)}),
    st.fixed_dictionaries({"file_id": NAMES}),
    st.fixed_dictionaries({"path": WORDS}),
    st.fixed_dictionaries({"dataset": st.just("owner/name")}),
)
SOURCES = st.builds(
    lambda which, more: PromptSource.model_validate(which | more),
    WHICH,
    st.fixed_dictionaries(
        {},
        optional={
            "format": st.sampled_from(["auto", "jsonl", "parquet", "csv", "dataset"]),
            "columns": st.builds(ColumnNames, prompt=WORDS, answer=WORDS),
            "system": st.none() | WORDS,
            "template": WORDS.map(lambda text: f"{text}{{prompt}}"),
            "limit": st.none() | st.integers(1, 2**53),
        },
    ),
)
REQUESTS = st.builds(
    JobRequest,
    name=st.none() | NAMES,
    prompts=SOURCES,
    samples=st.integers(1, 100_000),
    model=st.none() | WORDS,
    sampling=st.builds(
        SamplingSettings,
        temperature=st.floats(0, 2),
        top_p=st.floats(0.01, 1),
        max_tokens=st.integers(1, 10**6),
        stop=st.lists(WORDS, max_size=2).map(tuple),
        seed=st.none() | st.integers(0, 2**31),
    ),
    truncation=st.builds(TruncationSettings, policy=st.sampled_from(["keep", "drop", "continue"])),
    order=st.builds(OrderSettings, policy=st.sampled_from(["longest_first", "as_read"]), window=st.integers(1, 9999)),
    steering=st.builds(SteeringSettings, correct=st.none() | st.integers(1, 9), verified=st.none() | st.integers(1, 9)),
    verification=st.builds(
        VerificationChoice, kind=st.sampled_from(["math", "exact"]), options=st.dictionaries(WORDS, VALUES, max_size=3)
    ),
    output=st.builds(OutputChoice, path=st.none() | WORDS, shard_rows=st.integers(1, 10**6)),
    priority=st.integers(-10, 10),
    weight=st.floats(0.01, 100),
    max_in_flight=st.none() | st.integers(1, 10**6),
    webhook=st.none() | st.just(WebhookChoice(url="https://example.org/hook", secret="s" * 16)),
    metadata=st.dictionaries(WORDS, WORDS, max_size=3),
)


@given(REQUESTS)
def test_a_request_comes_back_as_it_was_sent(request: JobRequest) -> None:
    text = request.model_dump_json()
    assert JobRequest.model_validate_json(text) == request
    assert JobRequest.model_validate(request.model_dump(mode="json")) == request
    assert JobRequest.model_validate_json(text).model_dump_json() == text


@given(
    st.builds(
        JobView,
        id=NAMES,
        name=st.none() | NAMES,
        tenant=NAMES,
        kind=st.sampled_from(["native", "batch"]),
        state=st.sampled_from(STATES),
        reason=st.none() | WORDS,
        model=st.none() | WORDS,
        priority=st.integers(-10, 10),
        weight=st.floats(0.01, 100),
        created_at=st.floats(0, 4e9).map(lambda at: datetime.fromtimestamp(at, UTC)),
        started_at=st.none(),
        finished_at=st.none(),
        counts=st.builds(
            JobCounts, samples=st.none() | COUNTS, published=COUNTS, verdicts=st.dictionaries(WORDS, COUNTS)
        ),
        rates=st.none() | st.builds(JobRates, traces_per_s=st.floats(0, 1e6), eta_s=st.none() | st.floats(0, 1e9)),
        servers=st.lists(
            st.builds(ServerLoad, url=WORDS, state=WORDS, job_in_flight=COUNTS, in_flight=COUNTS, limit=COUNTS),
            max_size=2,
        ),
        output=st.none() | WORDS,
        metadata=st.dictionaries(WORDS, WORDS, max_size=2),
        request=st.dictionaries(WORDS, VALUES, max_size=3),
    )
)
def test_a_view_comes_back_as_it_was_shown(view: JobView) -> None:
    assert JobView.model_validate_json(view.model_dump_json()) == view


@given(st.integers(1, 9999), st.sampled_from("hd"), st.none() | st.dictionaries(NAMES, WORDS, max_size=3))
def test_a_batch_request_comes_back_as_it_was_sent(number: int, unit: str, metadata: dict[str, str] | None) -> None:
    request = BatchRequest(
        input_file_id="file-1",
        endpoint="/v1/chat/completions",
        completion_window=f"{number}{unit}",
        metadata=metadata,
    )
    assert BatchRequest.model_validate_json(request.model_dump_json()) == request


@given(st.sets(st.sampled_from(["rows", "file_id", "path", "dataset"])))
def test_prompts_come_from_exactly_one_place(given_: set[str]) -> None:
    all_: dict[str, Any] = {"rows": [{"prompt": "x"}], "file_id": "file-1", "path": "/a.jsonl", "dataset": "owner/name"}
    document = {name: all_[name] for name in given_}
    if len(given_) == 1:
        assert PromptSource.model_validate(document).model_dump(exclude_defaults=True).keys() == given_
    else:
        with pytest.raises(ValidationError, match="exactly one of rows, file_id, path and dataset"):
            PromptSource.model_validate(document)


@pytest.mark.parametrize("kind", ["os:system", "my.module:grade", "../x", "", "Math"])
def test_a_kind_that_could_name_a_function_is_refused(kind: str) -> None:
    with pytest.raises(ValidationError):
        VerificationChoice(kind=kind)


@pytest.mark.parametrize("field", ["endpoints", "pool", "api_key"])
def test_a_client_names_no_servers(field: str) -> None:
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        JobRequest.model_validate({"prompts": {"path": "/a.jsonl"}, field: "http://127.0.0.1:8000"})
