from __future__ import annotations

import dataclasses
from collections.abc import Callable

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gen_service.records import BatchLine, Trace
from gen_service.storage import codec

Same = Callable[[Trace, Trace], None]


@given(data=st.data())
def test_a_trace_comes_back_exactly(data: st.DataObject, traces: st.SearchStrategy[Trace], assert_same: Same) -> None:
    trace = data.draw(traces)
    assert_same(codec.decode(codec.encode(trace)), trace)
    assert_same(codec.decode(memoryview(b"x" + codec.encode(trace))[1:]), trace)


@given(data=st.data())
def test_lone_surrogates_are_replaced_and_the_rest_kept(
    data: st.DataObject, wild_traces: st.SearchStrategy[Trace], assert_same: Same
) -> None:
    trace = data.draw(wild_traces)
    once = codec.decode(codec.encode(trace))
    assert_same(codec.decode(codec.encode(once)), once)
    if trace.error is not None and once.error is not None:
        assert len(once.error) == len(trace.error)
        assert all(
            now == before or (now == "\ufffd" and "\ud800" <= before <= "\udfff")
            for now, before in zip(once.error, trace.error, strict=True)
        )


def test_a_lying_servers_token_counts_are_clamped(make_trace: Callable[..., Trace]) -> None:
    trace = make_trace(1)
    assert trace.completion is not None
    completion = dataclasses.replace(trace.completion, prompt_tokens=10**30, completion_tokens=-(10**30))
    back = codec.decode(codec.encode(dataclasses.replace(trace, completion=completion)))
    assert back.completion is not None
    assert (back.completion.prompt_tokens, back.completion.completion_tokens) == (2**31 - 1, -(2**31) + 1)


def test_a_verdict_of_version_1_has_the_fields_it_had(make_trace: Callable[..., Trace], assert_same: Same) -> None:
    trace = make_trace(1, verdict="correct")
    assert trace.verdict is not None
    record = codec.encode(trace)
    now = b'["correct","by test","2",null,"none","none",0.0,""]'
    assert now in record
    then = record.replace(now, b'["correct","by test","2"]').replace(b'"version":3', b'"version":1')
    length = codec._HEADER_LENGTH.unpack_from(record)[0] - (len(record) - len(then))
    assert_same(codec.decode(codec._HEADER_LENGTH.pack(length) + then[codec._HEADER_LENGTH.size :]), trace)


def test_a_record_of_version_2_has_no_request(make_trace: Callable[..., Trace], assert_same: Same) -> None:
    trace = make_trace(1, verdict="correct")
    record = codec.encode(trace)
    now = b'"request":null,"body":null,'
    assert now in record
    then = record.replace(now, b"").replace(b'"version":3', b'"version":2')
    length = codec._HEADER_LENGTH.unpack_from(record)[0] - len(now)
    assert_same(codec.decode(codec._HEADER_LENGTH.pack(length) + then[codec._HEADER_LENGTH.size :]), trace)


def test_a_body_as_deep_as_a_line_can_hold_is_written(make_trace: Callable[..., Trace], assert_same: Same) -> None:
    deep = b'{"body":{"x":' + b"[" * 252 + b"]" * 252 + b"}}"
    body = orjson.loads(deep)["body"]
    orjson.dumps({"body": body})
    trace = make_trace(1)
    prompt = dataclasses.replace(trace.sample.prompt, request=BatchLine("/v1/completions", body, 2))
    asked = dataclasses.replace(trace, sample=dataclasses.replace(trace.sample, prompt=prompt))
    assert_same(codec.decode(codec.encode(asked)), asked)


def test_a_record_of_a_later_version_is_refused(make_trace: Callable[..., Trace]) -> None:
    record = codec.encode(make_trace(1)).replace(b'"version":3', b'"version":9')
    with pytest.raises(ValueError, match="version 9 is newer"):
        codec.decode(record)
