"""The kinds `exact` and `multiple_choice`."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gen_service.verification.plain_kinds import LETTERS, exact, letter, multiple_choice

NAMING = [
    *("@", "(@)", "[@]", "@.", "@)", "@:", r"\text{@}", r"\textbf{(@)}", r"\textbf{(@) }\ 12", r"\mathrm{(@)}\ 12"),
    *("@: 12", "@) 12", "(@) 12", "@. Paris", "option @", "Option @.", "choice (@)", "**@**", "$@$", "The answer is @"),
    *("Answer: @", "the correct answer is (@)", r"\boldsymbol{\text{(@)}}", " @\n"),
]
NAMING_NONE = ["", "12", "K", "AB", "A man", "Cat", "(C", "C 12", "A, C", "A and C", "(B) or (C)", "B/C", "?", "CC"]


@pytest.mark.parametrize("text", NAMING)
def test_the_ways_to_name_a_letter(text: str) -> None:
    assert [letter(text.replace("@", one)) for one in ("C", "c", "A")] == ["C", "C", "A"]


@pytest.mark.parametrize("text", NAMING_NONE)
def test_what_names_no_one_letter(text: str) -> None:
    assert letter(text) is None


@given(st.sampled_from(NAMING), st.sampled_from(NAMING), st.sampled_from(LETTERS), st.sampled_from(LETTERS))
def test_right_is_the_same_letter_however_it_is_named(one: str, other: str, gold: str, answer: str) -> None:
    grade = multiple_choice({}).grade(one.replace("@", gold), other.replace("@", answer))
    assert grade.outcome == ("correct" if gold == answer else "incorrect")


@pytest.mark.parametrize(
    ("options", "gold", "answer", "outcome"),
    [
        ({}, "A", "A and B", "incorrect"),
        ({}, "A", "12", "unparsable"),
        ({}, "12", "A", "ungradable"),
        ({"letters": "abcd"}, "E", "A", "ungradable"),
        ({"letters": "abcd"}, "D", "E", "unparsable"),
        ({"letters": "xyz"}, "(x)", "X: 3", "correct"),
    ],
)
def test_the_letters_there_are(options: dict[str, object], gold: str, answer: str, outcome: str) -> None:
    kind = multiple_choice(options)
    assert kind.grade(gold, answer).outcome == outcome
    assert (kind.gold_problem(gold) is not None) == (outcome == "ungradable")
    assert kind.choices


@given(st.text())
def test_any_text_is_a_letter_or_none(text: str) -> None:
    assert letter(text) in {None, *LETTERS}


@given(st.text(), st.text())
def test_exact_is_the_same_text_in_unicode_and_space(gold: str, answer: str) -> None:
    kind = exact({})
    assert kind.grade(gold, f"\n {unicodedata.normalize('NFD', gold)}\t").outcome == "correct"
    same = unicodedata.normalize("NFC", gold).split() == unicodedata.normalize("NFC", answer).split()
    assert (kind.grade(gold, answer).outcome == "correct") == same
    assert kind.fast(gold, answer) == kind.grade(gold, answer)


@pytest.mark.parametrize(
    ("gold", "answer", "case_sensitive", "outcome"),
    [
        ("Paris", "paris", True, "incorrect"),
        ("Paris", "paris", False, "correct"),
        ("Stra\u00dfe", "STRASSE", False, "correct"),
        ("e\u0301", "\u00e9", True, "correct"),
        ("a  b", "a b", True, "correct"),
        ("ab", "a b", True, "incorrect"),
    ],
)
def test_case_counts_unless_told(gold: str, answer: str, case_sensitive: bool, outcome: str) -> None:
    assert exact({"case_sensitive": case_sensitive}).grade(gold, answer).outcome == outcome
