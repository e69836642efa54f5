"""What is asked: the job's own sampling, or a batch line in its own words, from the beginning and from tokens."""

from __future__ import annotations

import array
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gen_service.endpoints.draft import Draft
from gen_service.endpoints.question import CHAT, COMPLETIONS, NOT_HONOURED, Question, Questions
from gen_service.errors import RequestRefused
from gen_service.records import BatchLine, Message, Prompt, Sample
from gen_service.settings import SamplingSettings

MESSAGES = [{"role": "user", "content": "What is 1 + 2?"}]


def question(line: BatchLine | None, sampling: SamplingSettings | None = None, **sample: Any) -> Question:
    prompt = Prompt("p", (Message(role="user", content="What is 1 + 2?"),), None, "s", 1, line)
    return Questions(sampling or SamplingSettings()).of(Sample("s", "job", prompt, **({"index": 0} | sample)))


def chat(**body: Any) -> BatchLine:
    return BatchLine(CHAT, {"messages": MESSAGES, **body})


def asked(one: Question, draft: Draft | None = None, budget: int | None = None) -> tuple[str, dict[str, Any]]:
    url, body = one.request("m", draft or Draft(one.is_plain), budget)
    return url, orjson.loads(body)


def begun(tokens: int) -> Draft:
    draft = Draft()
    draft.prompt_ids = array.array("i", [7, 8])
    for token in range(tokens):
        draft.take_text_choice({"text": "x", "token_ids": [token]})
    return draft


HOW = {"stream": True, "stream_options": {"include_usage": True}, "return_token_ids": True, "model": "m"}


def test_a_prompt_is_asked_with_the_jobs_sampling() -> None:
    sampling = SamplingSettings(temperature=0.5, top_p=0.9, top_k=20, max_tokens=100, extra={"min_p": 0.1})
    one = question(None, sampling, seed=5)
    parameters = {"temperature": 0.5, "top_p": 0.9, "top_k": 20, "min_p": 0.1, "seed": 5}
    assert asked(one) == (CHAT, {**HOW, **parameters, "messages": MESSAGES, "max_tokens": 100})
    going_on = (COMPLETIONS, {**HOW, **parameters, "prompt": [7, 8, 0, 1, 2], "max_tokens": 97})
    assert asked(one, begun(3), 100) == going_on
    assert (one.budget, one.is_exact, one.is_plain) == (100, True, False)


def test_a_line_is_asked_as_it_stands() -> None:
    body = {"temperature": 0, "logit_bias": {"5": 1}, "max_completion_tokens": 50, "stream": False, "vendor": [1]}
    one = question(chat(**body), SamplingSettings(max_tokens=9, top_p=0.5), seed=3)
    url, sent = asked(one, budget=one.budget)
    expected = {"temperature": 0, "logit_bias": {"5": 1}, "max_completion_tokens": 50, "vendor": [1]}
    assert (url, sent) == (CHAT, {**HOW, **expected, "messages": MESSAGES})
    assert one.budget == 50
    url, sent = asked(one, begun(3), 50)
    expected = {"temperature": 0, "logit_bias": {"5": 1}, "vendor": [1], "max_tokens": 47}
    assert (url, sent) == (COMPLETIONS, {**HOW, **expected, "prompt": [7, 8, 0, 1, 2]})


def test_a_plain_line_is_asked_at_its_own_door() -> None:
    one = question(BatchLine(COMPLETIONS, {"prompt": "Once", "max_tokens": 5, "stop": None}))
    assert asked(one) == (COMPLETIONS, {**HOW, "prompt": "Once", "max_tokens": 5, "stop": None})
    assert (one.budget, one.is_plain, one.is_exact) == (5, True, True)


@pytest.mark.parametrize(
    ("line", "budget"),
    [
        (chat(), None),
        (chat(max_tokens=7), 7),
        (chat(max_tokens=7, max_completion_tokens=9), 9),
        (chat(max_tokens="many"), None),
        (chat(max_tokens=True), None),
        (chat(max_tokens=0), None),
        (BatchLine(COMPLETIONS, {"prompt": "x"}), 16),
        (BatchLine(COMPLETIONS, {"prompt": "x", "max_tokens": 3}), 3),
    ],
)
def test_the_budget_is_what_the_line_says(line: BatchLine, budget: int | None) -> None:
    assert question(line).budget == budget
    sent = asked(question(line), budget=budget)[1]
    assert {name: sent.get(name) for name in ("max_tokens", "max_completion_tokens")} == {
        name: line.body.get(name) for name in ("max_tokens", "max_completion_tokens")
    }


@pytest.mark.parametrize(
    "body",
    [
        {"stop": ["END"]},
        {"stop": "END"},
        {"response_format": {"type": "json_object"}},
        {"structured_outputs": {"regex": "[0-9]+"}},
        {"guided_json": {"type": "object"}},
        {"presence_penalty": 0.5},
        {"frequency_penalty": -0.5},
        {"bad_words": ["never"]},
        {"repetition_detection": {"max_pattern_size": 4}},
        {"truncate_prompt_tokens": 100},
    ],
)
def test_what_looks_back_at_the_answers_beginning_is_not_taken_up_in_its_middle(body: dict[str, Any]) -> None:
    assert not question(chat(**body)).is_exact
    if "stop" not in body:
        assert not question(None, SamplingSettings(extra=body)).is_exact


def test_penalties_of_nothing_and_a_least_length_are_taken_up() -> None:
    """vLLM counts `min_tokens` from where it begins itself."""
    one = question(chat(min_tokens=5, presence_penalty=0.0, frequency_penalty=0, repetition_penalty=1.1))
    assert one.is_exact
    assert asked(one)[1]["min_tokens"] == 5
    assert asked(one, begun(3))[1]["min_tokens"] == 2
    assert asked(one, begun(9))[1]["min_tokens"] == 0


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("stream", True),
        ("n", 2),
        ("tools", [{"type": "function"}]),
        ("tool_choice", "auto"),
        ("functions", [{"name": "f"}]),
        ("function_call", "auto"),
        ("logprobs", True),
        ("logprobs", 0),
        ("top_logprobs", 5),
        ("best_of", 2),
        ("echo", True),
        ("suffix", "end"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(field: str, value: object) -> None:
    assert field in NOT_HONOURED
    with pytest.raises(RequestRefused, match=rf"body\.{field}: got ") as caught:
        question(chat(**{field: value}))
    assert caught.value.status == 400


@pytest.mark.parametrize(
    ("field", "value"),
    [("stream", False), ("n", 1), ("tools", []), ("tool_choice", "none"), ("logprobs", None), ("best_of", 1)],
)
def test_what_asks_for_nothing_is_fine(field: str, value: object) -> None:
    assert question(chat(**{field: value})).url == CHAT


def test_one_line_is_one_prompt() -> None:
    with pytest.raises(RequestRefused, match=r"body\.prompt: got '2 prompts'"):
        question(BatchLine(COMPLETIONS, {"prompt": ["a", "b"]}))
    for prompt in ("a", ["a"], [1, 2, 3]):
        assert asked(question(BatchLine(COMPLETIONS, {"prompt": prompt})))[1]["prompt"] == prompt


def test_several_completions_of_a_line_with_a_seed_differ() -> None:
    seeds = [asked(question(chat(seed=40), index=index))[1]["seed"] for index in range(3)]
    assert seeds == [40, 41, 42]


def test_what_is_no_json_is_refused() -> None:
    with pytest.raises(RequestRefused, match="cannot be written as JSON"):
        asked(question(chat(user="half \ud83d")))


values = st.none() | st.booleans() | st.integers(-(2**31), 2**31) | st.floats(-9, 9) | st.text("ab", max_size=3)
fields = st.sampled_from(["temperature", "stop", "seed", "user", "max_tokens", *NOT_HONOURED])


@given(st.dictionaries(fields, values | st.lists(values, max_size=2), max_size=4), st.sampled_from([CHAT, COMPLETIONS]))
def test_any_line_is_asked_or_refused(body: dict[str, Any], url: str) -> None:
    beginning: dict[str, Any] = {"messages": MESSAGES} if url == CHAT else {"prompt": "x"}
    try:
        one = question(BatchLine(url, {**body, **beginning}))
    except RequestRefused:
        assert body.keys() & set(NOT_HONOURED)
        return
    path, sent = asked(one, budget=one.budget)
    assert path == url
    assert all(sent[name] == value for name, value in body.items() if name != "stream")
