from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gen_service.errors import EndpointError, Failure, Overloaded, RequestRefused, ServerFailed, Stalled, failure_of

KINDS = (RequestRefused, ServerFailed, Stalled)


@given(
    kind=st.sampled_from(KINDS),
    host=st.just("") | st.from_regex(r"\Ahttps?://[a-z0-9.:()\[\]-]{0,30}[a-z0-9]\Z"),
    words=st.text() | st.sampled_from(["(HTTP 400): no", ": a: b", "refused at http://x (HTTP 500): y"]),
    status=st.none() | st.integers(100, 599),
)
def test_what_an_endpoint_said_is_read_back_from_the_text_of_its_error(
    kind: type[EndpointError], host: str, words: str, status: int | None
) -> None:
    error = kind(host, words, status)
    assert failure_of(str(error)) == Failure(kind.cause, status, words)


@pytest.mark.parametrize("text", ["", "refused", "gave up", "refused at http://x", "at : x", "refused at a b: x"])
def test_other_text_is_no_failure(text: str) -> None:
    assert failure_of(text) is None


def test_an_overloaded_server_is_read_back_too() -> None:
    error = Overloaded("http://10.0.0.1:8000", "busy", 429, 3.0)
    assert failure_of(str(error)) == Failure("overloaded", 429, "busy")
