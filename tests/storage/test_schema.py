from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Callable
from datetime import UTC, datetime

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gen_service.records import Trace, Verdict
from gen_service.storage.schema import SCHEMA, VERSION_KEY, to_table


@given(data=st.data())
def test_every_field_of_a_trace_is_in_its_row(data: st.DataObject, traces: st.SearchStrategy[Trace]) -> None:
    drawn = data.draw(st.lists(traces, max_size=4))
    rows = [dataclasses.replace(trace, verdict=trace.verdict or Verdict("unverified", "")) for trace in drawn]
    file = io.BytesIO()
    pq.write_table(to_table(rows, '{"temperature":1}'), file)
    table = pq.read_table(file)
    assert table.schema.names == SCHEMA.names
    assert table.schema.metadata[VERSION_KEY] == b"2"
    for trace, row in zip(rows, table.to_pylist(), strict=True):
        _check_row(trace, row)


def _check_row(trace: Trace, row: dict[str, object]) -> None:
    sample, prompt, completion, verdict = trace.sample, trace.sample.prompt, trace.completion, trace.verdict
    assert verdict is not None
    expected: dict[str, object] = {
        "job_id": sample.job_id,
        "sample_id": sample.sample_id,
        "sample_index": sample.index,
        "seed": sample.seed,
        "prompt_id": prompt.prompt_id,
        "source": prompt.source,
        "messages": list(prompt.messages),
        "answer": prompt.answer,
        "verdict": verdict.outcome,
        "verdict_reason": verdict.reason,
        "verdict_path": verdict.path,
        "verdict_cpu_s": verdict.cpu_s,
        "verifier": verdict.verifier,
        "extracted": verdict.extracted,
        "extracted_how": verdict.how,
        "normalised": verdict.normalised,
        "error": trace.error,
        "token_ids": [] if completion is None else completion.token_ids.tolist(),
    }
    sampling = json.loads(str(row.pop("sampling")))
    body = {"temperature": 1} if prompt.request is None else prompt.request.body
    assert sampling == {name: value for name, value in body.items() if name not in ("messages", "prompt")}
    retries = trace.retries if completion is None else completion.retries
    expected |= {"retries": list(retries), "attempts": len(retries) + 1}
    for name in ("reasoning", "content", "finish_reason", "prompt_tokens", "completion_tokens", "model", "endpoint"):
        expected[name] = None if completion is None else getattr(completion, name)
    for name in ("continued", "first_token_s", "total_s"):
        expected[name] = None if completion is None else getattr(completion, name)
    started = row.pop("started_at")
    if completion is None:
        assert started is None
    else:
        assert isinstance(started, datetime)
        assert started.tzinfo is not None
        assert (started - datetime.fromtimestamp(0, UTC)).total_seconds() == pytest.approx(completion.started_at)
    assert row == expected


@given(data=st.data())
def test_any_text_can_be_written(data: st.DataObject, wild_traces: st.SearchStrategy[Trace]) -> None:
    trace = dataclasses.replace(data.draw(wild_traces), verdict=Verdict("error", "half \ud83d"))
    (row,) = to_table([trace], "{}").to_pylist()
    assert row["verdict_reason"] == "half \ufffd"


def test_a_trace_without_a_verdict_has_no_row(make_trace: Callable[..., Trace]) -> None:
    with pytest.raises(ValueError, match="no verdict"):
        to_table([make_trace(1)], "{}")
