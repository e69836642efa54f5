"""Words in answers: on one line, without secrets, naming the field and what is right."""

from __future__ import annotations

import unicodedata
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from gen_service.errors import InvalidRequest, RequestError
from gen_service.web.plain_words import LONGEST, invalid_request, plain
from gen_service.wire.jobs import JobRequest

JOB: dict[str, Any] = {"prompts": {"rows": [{"prompt": "1 + 1?"}]}}


def complaint(**changes: object) -> RequestError:
    with pytest.raises(ValidationError) as caught:
        JobRequest.model_validate(JOB | changes)
    return invalid_request(caught.value.errors())


@given(text=st.text(st.characters(), max_size=2000))
def test_plain_words_hold_nothing_that_controls(text: str) -> None:
    said = plain(text)
    assert not [mark for mark in said if unicodedata.category(mark) in ("Cc", "Zl", "Zp", "Cs")]
    assert len(said) <= LONGEST + 3
    assert said.encode("utf-8").decode() == said


def test_plain_words_stay_as_they_are() -> None:
    assert plain("samples: got 'äé 数'; expected 1") == "samples: got 'äé 数'; expected 1"


@pytest.mark.parametrize(
    ("changes", "field", "words"),
    [
        ({"samples": 0}, "samples", "samples: got 0; expected greater than or equal to 1"),
        ({"name": "a b"}, "name", "name: got 'a b'; expected"),
        ({"prompts": {}}, "prompts", "exactly one of rows, file_id, path and dataset"),
        ({"sampling": {"temprature": 1}}, "sampling.temprature", "no such field; check its spelling"),
        ({"prompts": {"rows": [1]}}, "prompts.rows.0", "prompts.rows.0: got 1; expected a valid dictionary"),
        ({"endpoints": ["http://10.0.0.1"]}, "endpoints", "servers and their keys are set by the operator"),
        ({"urls": ["http://10.0.0.1"]}, "urls", "servers and their keys are set by the operator"),
        ({"api_key": "sk-secret-of-mine"}, "api_key", "servers and their keys are set by the operator"),
    ],
)
def test_a_wrong_field_is_named_with_what_is_right(changes: dict[str, Any], field: str, words: str) -> None:
    error = complaint(**changes)
    assert isinstance(error, InvalidRequest)
    assert error.field == field
    assert words in str(error)
    assert "sk-secret" not in str(error)


@pytest.mark.parametrize(
    "webhook",
    [
        {"url": "https://a", "secret": "s3cret"},
        {"url": "https://a", "secert": "s3cret-s3cret-s3cret"},
        {"url": "http://user:s3cret@a"},
        "s3cret",
        ["s3cret"],
    ],
)
def test_what_is_said_of_a_webhook_does_not_repeat_it(webhook: object) -> None:
    error = complaint(webhook=webhook)
    assert "s3cret" not in str(error)
    assert (error.field or "").startswith("webhook")


def test_a_long_value_is_cut() -> None:
    assert len(str(complaint(samples="9" * 5000))) < 400


def test_json_that_is_none_is_a_bad_request() -> None:
    error = invalid_request([{"type": "json_invalid", "loc": ("body", 3), "msg": "x", "ctx": {"error": "it ends"}}])
    assert (error.status, error.code, str(error)) == (400, "malformed_json", "the body cannot be read as JSON: it ends")
