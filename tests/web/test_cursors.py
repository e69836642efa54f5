"""Cursors come back as they went out, and what is none is refused in words, whatever it is."""

from __future__ import annotations

import base64
import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gen_service.errors import InvalidRequest
from gen_service.web.cursors import decode_list_cursor, decode_row_cursor, encode_cursor

times = st.floats(min_value=0, max_value=4e9)
ids = st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1, max_size=40)


@given(created_at=times, job_id=ids)
def test_a_place_in_a_list_comes_back(created_at: float, job_id: str) -> None:
    assert decode_list_cursor(encode_cursor(created_at, job_id)) == (created_at, job_id)


@given(part=st.integers(0, 2**53), row=st.integers(0, 2**53))
def test_a_place_in_results_comes_back(part: int, row: int) -> None:
    cursor = encode_cursor(part, row)
    assert decode_row_cursor(cursor) == (part, row)
    assert cursor.isascii()
    assert not set("+/=&?#% ") & set(cursor)


@given(cursor=st.text(max_size=60) | st.binary(max_size=40).map(lambda raw: base64.urlsafe_b64encode(raw).decode()))
@example("")
@example("ö")
@example("A")
def test_what_was_not_made_here_is_refused(cursor: str) -> None:
    for decode in (decode_list_cursor, decode_row_cursor):
        with pytest.raises(InvalidRequest) as caught:
            decode(cursor)
        assert caught.value.field == "cursor"


@pytest.mark.parametrize(
    "value", [[-1, 0], [0, -1], [0], [0, 0, 0], [0, "x"], ["x", 0], {"a": 1}, None, [1.5, 2], [[], []], [True, None]]
)
def test_a_cursor_of_something_else_is_no_place_in_results(value: object) -> None:
    with pytest.raises(InvalidRequest):
        decode_row_cursor(base64.urlsafe_b64encode(json.dumps(value).encode()).decode())


@pytest.mark.parametrize("value", [["x", "y"], [1, 2], [1e400, "x"], [1, "a\0b"], [1], [], "x", None])
def test_a_cursor_of_something_else_is_no_place_in_a_list(value: object) -> None:
    with pytest.raises(InvalidRequest):
        decode_list_cursor(base64.urlsafe_b64encode(json.dumps(value).encode()).decode())
