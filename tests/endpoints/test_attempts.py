"""One sample over several attempts: from where the next one goes on, and within which budget."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gen_service.endpoints.attempts import Attempts
from gen_service.endpoints.endpoint import Endpoint
from gen_service.endpoints.question import Questions
from gen_service.errors import RequestRefused, StreamBroken
from gen_service.records import BatchLine, Partial, Prompt, Sample
from gen_service.settings import EndpointSettings, SamplingSettings

SERVER = Endpoint("http://a", 8, 3, 1.0)
LINE = BatchLine("/v1/chat/completions", {"messages": [{"role": "user", "content": "?"}]})


def attempts(
    *, budget: int = 100, line: BatchLine | None = None, more: int = 0, partial: Partial | None = None, **settings: Any
) -> Attempts:
    sample = Sample("s", "job", Prompt("p", ({"role": "user", "content": "?"},), None, "test", 1, line), 0)
    question = Questions(SamplingSettings(max_tokens=budget)).of(sample)
    return Attempts(question, EndpointSettings(urls=(SERVER.url,), **settings), more, partial)


def partial(tokens: int, **fields: Any) -> Partial:
    values = {"reasoning": "", "content": "x" * tokens, "raw": "", "continued": 2, "started_at": 50.0}
    ids = np.arange(tokens, dtype=np.int32)
    return Partial("s", np.array([7, 8], dtype=np.int32), ids, **(values | fields))


def write(one: Attempts, tokens: int, now: float = 1.0) -> None:
    """An attempt begins, and this many tokens come."""
    one.sent(SERVER, "m", now)
    one.draft.take_prompt_ids([7, 8])
    for _ in range(tokens):
        begun = len(one.draft.token_ids)
        if begun:
            one.draft.take_text_choice({"text": "x", "token_ids": [begun]})
        else:
            one.draft.take_chat_choice({"delta": {"content": "x"}, "token_ids": [0]})


def fail(one: Attempts) -> None:
    one.failed(StreamBroken(SERVER.url, "gone"), True, SERVER)


def test_a_broken_answer_goes_on_from_its_tokens() -> None:
    one = attempts()
    write(one, 10)
    fail(one)
    assert (len(one.draft.token_ids), one.can_continue, one.discarded_tokens) == (10, True, 0)
    write(one, 5, now=3.0)
    one.draft.finish_reason = "stop"
    done = one.completion(5.0)
    assert (done.continued, done.completion_tokens, done.retries, done.total_s) == (1, 15, ("stream_broken",), 4.0)


def test_with_restart_it_begins_anew_and_keeps_nothing() -> None:
    one = attempts(continuation="restart", partial=partial(5))
    assert len(one.draft.token_ids) == 0
    write(one, 10)
    assert one.partial() is None
    fail(one)
    assert (len(one.draft.token_ids), one.draft.can_continue, one.discarded_tokens) == (0, False, 10)


def test_a_truncated_answer_that_breaks_begins_anew_where_it_was_truncated() -> None:
    for continuation in ("continue", "restart"):
        one = attempts(budget=10, more=20, continuation=continuation)
        write(one, 10)
        one.draft.end_if_full(10)
        assert one.may_get_more
        one.get_more()
        assert (one.budget, one.may_get_more) == (30, False)
        write(one, 7)
        fail(one)
        assert len(one.draft.token_ids) == (17 if continuation == "continue" else 10)
        assert one.discarded_tokens == (0 if continuation == "continue" else 7)
        write(one, 1)
        assert one.draft.continued == (2 if continuation == "continue" else 1)


def test_further_tokens_that_cannot_be_had_are_given_up() -> None:
    one = attempts(budget=10, more=20)
    write(one, 10)
    one.draft.end_if_full(10)
    truncated = one.get_more()
    write(one, 7)
    one.take_back(truncated)
    done = one.completion(2.0)
    assert (done.finish_reason, done.completion_tokens, one.discarded_tokens) == ("length", 10, 7)


def test_a_partial_is_gone_on_from_with_its_time_and_count() -> None:
    one = attempts(partial=partial(40))
    assert (len(one.draft.token_ids), one.budget, one.is_longer) == (40, 100, False)
    write(one, 2, now=7.0)
    kept = one.partial()
    assert kept is not None
    assert (kept.started_at, kept.continued, len(kept.token_ids), kept.content + kept.raw) == (50.0, 3, 42, "x" * 42)
    done = one.completion(9.0)
    assert (done.started_at, done.total_s, done.continued, done.prompt_tokens) == (50.0, 2.0, 3, 2)


@pytest.mark.parametrize(("model", "begun"), [("m", 40), ("", 40), ("other", 0)])
def test_what_another_model_wrote_is_not_gone_on_from(model: str, begun: int) -> None:
    """Its tokens are not this one's."""
    one = attempts(partial=partial(40, model=model))
    one.sent(SERVER, "m", 1.0)
    assert (len(one.draft.token_ids), one.discarded_tokens) == (begun, 40 - begun)
    if begun:
        kept = one.partial()
        assert kept is not None
        assert kept.model == "m"


@pytest.mark.parametrize(
    ("tokens", "more", "left"),
    [(99, 0, 1), (100, 0, None), (101, 0, None), (100, 20, 20), (119, 20, 1), (120, 20, None)],
)
def test_a_partial_has_room_within_the_budget_or_the_further_tokens(tokens: int, more: int, left: int | None) -> None:
    """One that has its whole budget cannot be gone on from: no server can be asked for no token."""
    one = attempts(more=more, partial=partial(tokens))
    budget = one.budget_at(None)
    assert budget is not None
    if left is None:
        assert (len(one.draft.token_ids), budget, one.is_longer) == (0, 100, False)
    else:
        assert (len(one.draft.token_ids), budget - tokens, one.is_longer) == (tokens, left, tokens >= 100)
        one.draft.finish_reason = "length"
        assert one.may_get_more == (more > 0 and tokens < 100)


def test_a_whole_answer_is_not_kept() -> None:
    one = attempts(budget=10)
    write(one, 9)
    assert one.partial() is not None
    write(one, 1)
    assert one.partial() is None


def test_an_answer_without_a_budget_ends_with_the_context() -> None:
    one = attempts(line=LINE, partial=partial(40))
    assert one.budget_at(100) == 98
    write(one, 1)
    assert one.partial() is not None
    write(one, 57)
    assert one.partial() is None
    anew = attempts(line=LINE, partial=partial(40))
    assert anew.budget_at(42) is None
    assert (len(anew.draft.token_ids), anew.discarded_tokens) == (0, 40)


@pytest.mark.parametrize("more", [{"stop": ["END"]}, {"presence_penalty": 0.5}, {"response_format": {"type": "text"}}])
def test_what_may_not_be_taken_up_in_its_middle_begins_anew(more: dict[str, Any]) -> None:
    line = BatchLine(LINE.url, LINE.body | {"max_tokens": 100} | more)
    one = attempts(line=line, partial=partial(40))
    assert len(one.draft.token_ids) == 0
    write(one, 10)
    assert one.partial() is None
    fail(one)
    assert (len(one.draft.token_ids), one.discarded_tokens) == (0, 10)


def test_a_cut_answer_says_so_unless_it_is_whole() -> None:
    for reason, expected in ((None, "cancelled"), ("abort", "cancelled"), ("stop", "stop")):
        one = attempts()
        write(one, 3)
        one.draft.finish_reason = reason
        one.cut()
        assert (one.completion(2.0).finish_reason, one.completion(2.0).completion_tokens) == (expected, 3)


def test_never_sent_it_has_no_times_and_no_server() -> None:
    one = attempts()
    one.cut()
    done = one.completion(1000.0)
    assert (done.endpoint, done.started_at, done.total_s, done.first_token_s, done.completion_tokens) == (
        "",
        0.0,
        0.0,
        None,
        0,
    )


def test_time_begins_at_the_first_attempt_also_at_loop_time_zero() -> None:
    one = attempts()
    write(one, 1, now=0.0)
    fail(one)
    write(one, 1, now=5.0)
    assert one.completion(8.0).total_s == 8.0


def test_refusals_and_too_many_failures_are_final() -> None:
    one = attempts(attempts=2)
    broken = StreamBroken(SERVER.url, "gone")
    assert not one.may_try_again(RequestRefused(SERVER.url, "no", 400))
    for _ in range(2):
        assert one.may_try_again(broken)
        fail(one)
    assert not one.may_try_again(broken)
    patient = attempts(attempts=2)
    for _ in range(20):
        assert patient.may_try_again(broken)
        patient.failed(broken, False, SERVER)
    assert not patient.may_try_again(broken)
