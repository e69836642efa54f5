"""Every worked solution is true line by line, ends in its gold, and the two splits never meet."""

from __future__ import annotations

import math
import re
from fractions import Fraction
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gen_service.errors import SpecError
from gen_service.tiny_model.problems import (
    KINDS,
    Kind,
    Problem,
    Split,
    boxed,
    latex,
    problems,
    prompt_rows,
    split_of,
    value_of,
)

TERM = re.compile(r"(-?\d+)?(x)?")
CANONICAL_FRACTIONS = re.compile(r"\\frac\{(\d+)\}\{(\d+)\} ([+-]) \\frac\{(\d+)\}\{(\d+)\}")

seeds = st.integers(min_value=0, max_value=2**32)
splits: st.SearchStrategy[Split] = st.sampled_from(("train", "held_out"))
kinds: st.SearchStrategy[Kind] = st.sampled_from(KINDS)


@st.composite
def drawn(draw: st.DrawFn) -> Problem:
    return next(problems(draw(splits), 1, draw(seeds), (draw(kinds),)))


def worth(side: str, x: Fraction | None) -> Fraction:
    """The value of one side of a step: terms joined by spaced operators, evaluated from left to right."""
    divisor = re.fullmatch(r"gcd\((\d+), (\d+)\)", side)
    if divisor:
        return Fraction(math.gcd(int(divisor[1]), int(divisor[2])))
    first, *rest = side.split(" ")
    value = term(first, x)
    for operator, written in zip(rest[::2], rest[1::2], strict=True):
        other = term(written, x)
        value = {"+": value + other, "-": value - other, "*": value * other, "/": value / (other or 1)}[operator]
    return value


def term(written: str, x: Fraction | None) -> Fraction:
    found = TERM.fullmatch(written)
    assert found is not None, written
    number, unknown = found.groups()
    if unknown is None:
        return Fraction(number)
    assert x is not None, "an unknown where nothing is asked for"
    return Fraction(number or 1) * x


def asked_value(problem: Problem) -> Fraction:
    """The answer worked out from the question's words alone."""
    if problem.kind == "fractions":
        found = CANONICAL_FRACTIONS.search(problem.question)
        assert found is not None
        left, right = Fraction(int(found[1]), int(found[2])), Fraction(int(found[4]), int(found[5]))
        return left + right if found[3] == "+" else left - right
    numbers = [int(digits) for digits in re.findall(r"(?<![\d])-?\d+", problem.question.replace("- ", "-"))]
    if problem.kind == "addition":
        return Fraction(sum(numbers))
    factor, offset, right_side = numbers
    return Fraction(right_side - offset, factor)


@given(drawn())
def test_the_gold_is_what_the_question_asks(problem: Problem) -> None:
    assert value_of(problem.answer) == asked_value(problem)
    assert problem.answer == latex(asked_value(problem))


@given(drawn())
def test_every_solution_ends_in_the_gold_exactly(problem: Problem) -> None:
    for solution in problem.solutions:
        answer = boxed(solution.text)
        assert answer == solution.answer
        assert value_of(answer) == value_of(problem.answer)


@given(drawn())
def test_every_step_is_true(problem: Problem) -> None:
    x = value_of(problem.answer) if problem.kind == "linear" else None
    for solution in problem.solutions:
        assert solution.steps
        for step in solution.steps:
            left, right = step.split(" = ")
            assert worth(left, x) == worth(right, x), step


@given(drawn())
def test_the_reasoning_is_between_its_tags_and_the_answer_after_them(problem: Problem) -> None:
    for solution in problem.solutions:
        assert solution.text.startswith("<think>\n")
        reasoning, answer = solution.text.removeprefix("<think>\n").split("\n</think>\n")
        assert tuple(reasoning.split("\n")) == solution.steps
        assert "boxed" not in reasoning
        assert answer == f"The answer is \\boxed{{{solution.answer}}}."


@given(seed=seeds)
def test_some_fractions_have_a_second_answer_that_is_equal_and_written_otherwise(seed: int) -> None:
    twofold = [problem for problem in problems("train", 40, seed, ("fractions",)) if len(problem.solutions) == 2]
    assert twofold
    assert all(problem.solutions[1].answer != problem.answer for problem in twofold)


@given(splits, seeds, st.integers(min_value=0, max_value=60))
def test_the_same_arguments_give_the_same_problems_without_duplicates(split: Split, seed: int, count: int) -> None:
    first = list(problems(split, count, seed))
    assert first == list(problems(split, count, seed))
    assert len({problem.problem_id for problem in first}) == len(first) == count
    assert [problem.kind for problem in first] == [KINDS[number % len(KINDS)] for number in range(count)]


@given(splits, seeds)
def test_another_seed_gives_other_problems(split: Split, seed: int) -> None:
    assert list(problems(split, 12, seed)) != list(problems(split, 12, seed + 1))


@given(seeds, seeds)
def test_the_splits_are_disjoint_whatever_the_seeds(seed: int, other: int) -> None:
    trained = {posed_alike(problem) for problem in problems("train", 90, seed)}
    held_out = {posed_alike(problem) for problem in problems("held_out", 90, other)}
    assert not trained & held_out


def posed_alike(problem: Problem) -> tuple[str, ...]:
    """Equal for two ways to pose one problem: the numbers, and for a sum not their order."""
    if problem.kind == "fractions":
        found = CANONICAL_FRACTIONS.search(problem.question)
        assert found is not None
        fractions = [f"{found[1]}/{found[2]}", f"{found[4]}/{found[5]}"]
        return (found[3], *(sorted(fractions) if found[3] == "+" else fractions))
    numbers = re.findall(r"[-+]? ?\d+", problem.question)
    return tuple(sorted(number.strip(" +") for number in numbers)) if problem.kind == "addition" else tuple(numbers)


def test_each_kind_holds_out_two_thousand_problems() -> None:
    for kind in KINDS:
        canonical = {posed_alike(problem) for problem in problems("held_out", 2000, 3, (kind,))}
        assert len(canonical) == 2000


@pytest.mark.parametrize(
    ("canonical", "split"),
    [("10+12", "train"), ("10+13", "train"), ("4x + 11 = -33", "held_out"), ("(1, 2)+(1, 3)", "train")],
)
def test_a_problem_held_out_once_stays_held_out(canonical: str, split: Split) -> None:
    assert split_of(canonical) == split


def test_asking_for_more_than_there_is_says_how_many_there_are() -> None:
    with pytest.raises(SpecError, match="held_out has about 2") as refused:
        list(problems("held_out", 5000, 1, ("fractions",)))
    assert refused.value.field == "count"


@pytest.mark.parametrize(
    ("field", "arguments"),
    [
        ("split", {"split": "test", "count": 1}),
        ("kinds", {"split": "train", "count": 1, "kinds": ("geometry",)}),
        ("kinds", {"split": "train", "count": 1, "kinds": ()}),
        ("count", {"split": "train", "count": -1}),
    ],
)
def test_a_wrong_argument_is_named(field: str, arguments: dict[str, object]) -> None:
    with pytest.raises(SpecError) as refused:
        next(problems(seed=0, **arguments))  # type: ignore[arg-type]
    assert refused.value.field == field


@given(splits, seeds)
def test_rows_are_the_same_problems(split: Split, seed: int) -> None:
    for row, problem in zip(prompt_rows(split, 9, seed), problems(split, 9, seed), strict=True):
        assert row == {
            "id": problem.problem_id,
            "prompt": problem.question,
            "answer": problem.answer,
            "source": f"tiny/{problem.kind}",
        }


def test_problems_are_made_as_they_are_read() -> None:
    assert len(list(islice(problems("train", 10**9, 0), 5))) == 5


@given(st.fractions())
def test_a_number_survives_its_latex(value: Fraction) -> None:
    assert value_of(latex(value)) == value


@given(st.integers(), st.integers(min_value=1), st.integers(min_value=2, max_value=99))
def test_an_unreduced_fraction_has_the_same_value(top: int, bottom: int, factor: int) -> None:
    sign = "-" if top < 0 else ""
    assert value_of(f"{sign}\\frac{{{abs(top) * factor}}}{{{bottom * factor}}}") == Fraction(top, bottom)


@pytest.mark.parametrize("text", ["", "x", "1.5", "\\frac{1}{0}", "\\frac{1}2", "--1", "1 2", "\\frac{-1}{2}"])
def test_what_is_no_number_has_no_value(text: str) -> None:
    assert value_of(text) is None


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<think>\n\\boxed{1}\n</think>\n\\boxed{2}", "2"),
        ("<think>\n\\boxed{1}\n</think>\nnothing", None),
        ("\\boxed{1} or \\boxed{\\frac{1}{2}}", "\\frac{1}{2}"),
        ("\\boxed{\\frac{1}{2}", None),
        ("", None),
    ],
)
def test_the_box_is_read_after_the_reasoning(text: str, answer: str | None) -> None:
    assert boxed(text) == answer
