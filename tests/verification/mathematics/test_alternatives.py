"""Golds that list several right answers."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gen_service.verification.grade import grade
from gen_service.verification.mathematics.alternatives import alternatives


@pytest.mark.parametrize(
    ("gold", "listed"),
    [
        ("['0.5', '1/2']", ("0.5", "1/2")),
        ('["0.5"]', ("0.5",)),
        ("['5',]", ("5",)),
        (r"['\\frac{1}{2}']", (r"\frac{1}{2}",)),
        (r"['$f(n)=n$', 'it\'s']", ("$f(n)=n$", "it's")),
        ("[1, 2]", ("[1, 2]",)),
        ("['a', b]", ("['a', b]",)),
        ("f'(x)", ("f'(x)",)),
        ("[]", ("[]",)),
        ("x in ['a']", ("x in ['a']",)),
        ("", ("",)),
    ],
)
def test_lists(gold: str, listed: tuple[str, ...]) -> None:
    assert alternatives(gold) == listed


@given(st.lists(st.text(st.characters(codec="ascii", exclude_characters="\x7f", min_codepoint=32)), min_size=1))
def test_gives_back_what_was_quoted(items: list[str]) -> None:
    assert alternatives(json.dumps(items)) == tuple(item.strip() for item in items)


@given(st.text(max_size=100))
def test_any_other_text_is_one_answer(text: str) -> None:
    assert alternatives("x" + text) == ("x" + text,)


@pytest.mark.parametrize(
    ("answer", "outcome"), [("0.5", "correct"), (r"\frac12", "correct"), (r"\sqrt{3}", "correct"), ("3", "incorrect")]
)
def test_any_listed_answer_is_right(answer: str, outcome: str) -> None:
    assert grade(r"['1/2', '3^{1/2}']", answer).outcome == outcome
