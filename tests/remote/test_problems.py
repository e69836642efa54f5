"""What services and proxies say becomes the error of its status, whatever the body is."""

from __future__ import annotations

import email.utils
import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gen_service import errors
from gen_service.remote.problems import CONNECTION_LOST, problem, seconds_of
from gen_service.remote.transport import may_pass

KINDS = {
    400: errors.InvalidRequest,
    401: errors.Unauthenticated,
    403: errors.Forbidden,
    404: errors.NotFound,
    409: errors.Conflict,
    413: errors.TooLarge,
    415: errors.UnsupportedMedia,
    422: errors.InvalidRequest,
    429: errors.TooManyRequests,
    503: errors.Unavailable,
}


@pytest.mark.parametrize(("status", "kind"), KINDS.items())
def test_problem_details_keep_words_field_code_and_wait(status: int, kind: type[errors.RequestError]) -> None:
    body = {
        "type": "about:blank",
        "title": "t",
        "status": status,
        "detail": "why",
        "code": "c",
        "field": "prompts.path",
    }
    error = problem(status, "7", json.dumps(body).encode())
    assert type(error) is kind
    assert (str(error), error.field, error.code, error.retry_after_s) == ("why", "prompts.path", "c", 7.0)


@pytest.mark.parametrize(("status", "kind"), KINDS.items())
def test_openai_errors_keep_words_param_and_code(status: int, kind: type[errors.RequestError]) -> None:
    body = {"error": {"message": "why", "type": "invalid_request_error", "param": "purpose", "code": None}}
    error = problem(status, None, json.dumps(body).encode())
    assert type(error) is kind
    assert (str(error), error.field, error.code, error.retry_after_s) == ("why", "purpose", kind.default_code, None)


def test_other_bodies_are_told_as_they_are() -> None:
    assert str(problem(404, None, b"<html>no</html>")) == "<html>no</html>"
    assert str(problem(404, None, b"", "Not Found")) == "Not Found"
    assert str(problem(418, None, b"", "")) == "HTTP 418: no reason given"
    assert problem(418, None, b"").code == "http_418"


@given(
    status=st.integers(300, 599),
    body=st.one_of(
        st.binary(max_size=300),
        st.recursive(
            st.none() | st.text() | st.integers(),
            lambda inner: (
                st.lists(inner)
                | st.dictionaries(st.sampled_from(["error", "detail", "code", "field", "message"]), inner)
            ),
        ).map(lambda tree: json.dumps(tree).encode()),
    ),
    retry_after=st.none() | st.text(),
)
def test_any_answer_is_one_of_our_errors_with_words(status: int, body: bytes, retry_after: str | None) -> None:
    error = problem(status, retry_after, body)
    assert isinstance(error, KINDS.get(status, errors.RequestError))
    assert str(error)
    assert error.code
    assert error.retry_after_s is None or error.retry_after_s >= 0


def test_retry_after_is_seconds_or_a_date() -> None:
    assert seconds_of("1.5") == 1.5
    assert seconds_of("-3") == 0.0
    assert [seconds_of(text) for text in (None, "", "soon", "inf", "nan")] == [None] * 5
    ahead = seconds_of(email.utils.formatdate(time.time() + 600, usegmt=True))
    assert ahead is not None
    assert 0 < ahead <= 600


@pytest.mark.parametrize(
    ("error", "passes_repeatable", "passes_once"),
    [
        (errors.TooManyRequests("slow down"), True, True),
        (errors.Unavailable("draining"), True, True),
        (errors.Unavailable("gone", code=CONNECTION_LOST), True, False),
        (problem(502, None, b"bad gateway"), True, False),
        (problem(504, None, b"gateway timeout"), True, False),
        (errors.Conflict("no"), False, False),
        (problem(500, None, b"bug"), False, False),
        (ValueError(), False, False),
    ],
)
def test_only_what_may_pass_is_tried_again(error: Exception, passes_repeatable: bool, passes_once: bool) -> None:
    assert may_pass(error, is_repeatable=True) is passes_repeatable
    assert may_pass(error, is_repeatable=False) is passes_once
