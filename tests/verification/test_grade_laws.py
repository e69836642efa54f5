"""Laws of grading that hold for every answer of a small grammar: symmetry, spelling, extraction, one verdict."""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction
from itertools import pairwise
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gen_service.verification.extract import extract
from gen_service.verification.grade import fast, gold_problem, grade
from gen_service.verification.mathematics.compare import same
from gen_service.verification.mathematics.notation import ROW_BREAK, normalised
from gen_service.verification.mathematics.reading import read
from gen_service.verification.mathematics.symbolic import compared
from gen_service.verification.mathematics.values import Rationals

SMALL = st.integers(min_value=-9, max_value=9)
COUNT = st.integers(min_value=2, max_value=9)
LETTERS = st.sampled_from("xyabnt")


def _built(template: str, *parts: st.SearchStrategy[object]) -> st.SearchStrategy[str]:
    return st.tuples(*parts).map(lambda values: template % values)


def _list_of(parts: st.SearchStrategy[str], least: int = 2) -> st.SearchStrategy[str]:
    return st.lists(parts, min_size=least, max_size=3).map(",".join)


INTEGERS = st.one_of(SMALL, st.integers(-(10**9), 10**9)).map(str)
DECIMALS = st.one_of(_built("%d.%d", SMALL, COUNT), _built("-0.%d%d", COUNT, COUNT), _built("%d.%06d", SMALL, COUNT))
FRACTIONS = st.one_of(
    _built(r"\frac{%d}{%d}", SMALL, COUNT), _built("%d/%d", SMALL, COUNT), _built(r"-\frac{%d}{%d}", COUNT, COUNT)
)
MIXED = st.one_of(_built(r"%d\frac{1}{%d}", COUNT, COUNT), _built("%d 1/%d", COUNT, COUNT))
PERCENTS = st.one_of(_built(r"%d\%%", COUNT), _built(r"%d.%d\%%", COUNT, COUNT))
RADICALS = st.one_of(
    _built(r"%d\sqrt{%d}", COUNT, COUNT),
    _built(r"\frac{%d+\sqrt{%d}}{%d}", SMALL, COUNT, COUNT),
    _built(r"\sqrt[3]{%d}", COUNT),
    _built(r"%d-\sqrt{%d}", SMALL, COUNT),
)
PI_MULTIPLES = st.one_of(_built(r"%d\pi", COUNT), _built(r"\frac{%d\pi}{%d}", COUNT, COUNT), _built(r"-\pi/%d", COUNT))
POLYNOMIALS = st.one_of(
    _built("%dx^2-%dx+%d", COUNT, COUNT, COUNT),
    _built("(x-%d)(x+%d)", COUNT, COUNT),
    _built("%s^%d+%d", LETTERS, COUNT, COUNT),
    _built(r"\frac{%s+1}{%d}", LETTERS, COUNT),
    _built("%d%s", COUNT, LETTERS),
)
SHORT = st.one_of(SMALL.map(str), DECIMALS, FRACTIONS)
EXPRESSIONS = st.one_of(RADICALS, PI_MULTIPLES, POLYNOMIALS)
TUPLES = st.one_of(_built("(%s)", _list_of(SHORT)), _built("(%s,%s)", EXPRESSIONS, SHORT))
SETS = st.one_of(_built(r"\{%s\}", _list_of(SHORT, 1)), _list_of(SMALL.map(str)), _built(r"\{%s,0\}", RADICALS))
INTERVALS = st.one_of(
    st.tuples(st.sampled_from("(["), SMALL, COUNT, st.sampled_from(")]")).map(
        lambda ends: f"{ends[0]}{ends[1]},{ends[1] + ends[2]}{ends[3]}"
    ),
    _built(r"(-\infty,%d]", SMALL),
)
HALF_LINES = _built(r"[\sqrt{%d},\infty)", COUNT)
UNIONS = st.one_of(_built(r"%s\cup%s", INTERVALS, INTERVALS), _built(r"(-\infty,-%d)\cup%s", COUNT, HALF_LINES))
INEQUALITIES = st.one_of(
    _built(r"x%s%d", st.sampled_from(["<", ">", r"\le ", r"\ge ", r"\ne "]), SMALL),
    st.tuples(SMALL, COUNT).map(lambda ends: rf"{ends[0]}<x\le{ends[0] + ends[1]}"),
    _built(r"%dx+%d\ge%d", COUNT, COUNT, SMALL),
)
EQUATIONS = st.one_of(
    _built("%s=%s", LETTERS, SHORT), _built("y=%dx+%d", COUNT, COUNT), _built("%dx+%dy=%d", COUNT, COUNT, SMALL)
)
MATRICES = _built(r"\begin{pmatrix}%s&%s\\%s&%s\end{pmatrix}", SHORT, SHORT, SHORT, st.one_of(SHORT, RADICALS))
WORDS = st.sampled_from(["Monday", "even", "no solution", "blue", "undefined", "True", "yes", "Alice", "odd"])
TEXTS = st.one_of(WORDS, _built(r"\text{%s}", WORDS))
CHOICES = st.one_of(*(_built(form, st.sampled_from("ABCDE")) for form in ("%s", "(%s)", r"\text{%s}", r"\text{(%s)}")))
QUANTITIES = st.one_of(
    *(_built(f"%d{unit}", COUNT) for unit in (r"\text{ cm}", r"\text{ km}", r"^\circ", " apples", r"\mathrm{kg}")),
    _built(r"\$%d", COUNT),
    _built(r"%d\text{ cm}^2", COUNT),
)
KINDS = {
    "integer": INTEGERS,
    "decimal": DECIMALS,
    "fraction": FRACTIONS,
    "mixed": MIXED,
    "percent": PERCENTS,
    "radical": RADICALS,
    "pi": PI_MULTIPLES,
    "polynomial": POLYNOMIALS,
    "tuple": TUPLES,
    "set": SETS,
    "interval": INTERVALS | HALF_LINES,
    "union": UNIONS,
    "inequality": INEQUALITIES,
    "equation": EQUATIONS,
    "matrix": MATRICES,
    "words": TEXTS,
    "choice": CHOICES,
    "quantity": QUANTITIES,
}
ANSWERS = st.one_of(*KINDS.values())
PAIRS = st.one_of(*(st.tuples(kind, kind) for kind in KINDS.values()), st.tuples(ANSWERS, ANSWERS))

_TOKEN = re.compile(
    r"\\(?:text|mathrm)\{[^{}]*\}|\\(?:begin|end)\{[a-z]+\}|\\\\|\\[a-zA-Z]+|\\.|[0-9.]+|[a-zA-Z]+(?: [a-zA-Z]+)*|."
)
_SPACES = st.sampled_from(["", "", "", " ", "  ", "~", r"\,", r"\;"])
_TAKES_ARGUMENT = (r"\frac", r"\sqrt", "^", "_")
_TURNED = {"(": r"\left(", "[": r"\left[", r"\{": r"\left\{", ")": r"\right)", "]": r"\right]", r"\}": r"\right\}"}


def _spaced(draw: st.DrawFn, tokens: list[str]) -> str:
    """The tokens with spaces where TeX lets them stand; an index in square brackets belongs to its root."""
    text = tokens[0]
    for before, token in pairwise(tokens):
        space = draw(_SPACES)
        if " " in (before, token):
            space = ""
        elif before in _TAKES_ARGUMENT or token in ("{", "^", "_") or (before, token) == ("]", "{"):
            space = " " if space.isspace() and before not in ("^", "_") else ""
        if re.fullmatch(r"\\[a-zA-Z]+", before) and token[0].isalpha():
            space = " " + space
        text += space + token
    return text


@st.composite
def decorated(draw: st.DrawFn, answer: str) -> str:
    """The same answer as another hand would set it."""
    tokens = _TOKEN.findall(answer)
    if draw(st.booleans()) and r"\sqrt[" not in answer:
        tokens = [_TURNED.get(token, token) for token in tokens]
    fraction = draw(st.sampled_from([r"\frac", r"\dfrac", r"\tfrac", r"\cfrac"]))
    text = _spaced(draw, [fraction if token == r"\frac" else token for token in tokens])
    if re.fullmatch("[A-Za-z ]{3,}", text) and draw(st.booleans()):
        text = rf"\text{{{text}}}"
    text = draw(st.sampled_from(["", "", r"\displaystyle "])) + text
    dollars = draw(st.sampled_from(["", "$", "$$"]))
    return f"{dollars}{text}{dollars}{draw(st.sampled_from(['', '.']))}"


BOTH = ANSWERS.flatmap(lambda answer: st.tuples(st.just(answer), decorated(answer)))


@settings(max_examples=400)
@given(PAIRS)
def test_grading_is_symmetric(pair: tuple[str, str]) -> None:
    one, other = grade(*pair), grade(*pair[::-1])
    assert (one.outcome == "correct") == (other.outcome == "correct")


@settings(max_examples=200)
@given(ANSWERS)
def test_an_answer_is_right_against_itself_and_a_gold(answer: str) -> None:
    assert grade(answer, answer).outcome == "correct"
    assert gold_problem(answer) is None


@settings(max_examples=400)
@given(BOTH)
def test_how_an_answer_is_set_does_not_matter(both: tuple[str, str]) -> None:
    answer, other = both
    assert grade(answer, other).outcome == "correct"
    assert grade(other, answer).outcome == "correct"


@settings(max_examples=200)
@given(
    BOTH, st.sampled_from([r"\boxed{%s}", r"So the answer is $\boxed{%s}$.", "We get\n\\[\\boxed{ %s }\\]\nas asked."])
)
def test_a_box_gives_back_what_was_put_in(both: tuple[str, str], around: str) -> None:
    for text in both:
        found = extract(None, around % text, "stop")
        assert (found.answer, found.how) == (text, "boxed")


@settings(max_examples=400)
@given(PAIRS)
def test_sympy_does_not_turn_round_what_arithmetic_decides(pair: tuple[str, str]) -> None:
    first, second = (read(normalised(text)) for text in pair)
    decided = same(first, second, Rationals())
    if decided is not None:
        assert compared(first, second) is decided


@settings(max_examples=300)
@given(PAIRS)
def test_the_fast_verdict_is_the_verdict(pair: tuple[str, str]) -> None:
    decided = fast(*pair)
    if decided is not None:
        assert grade(*pair) == decided
        assert compared(*(read(normalised(text)) for text in pair)) is (decided.outcome == "correct")


@settings(max_examples=300)
@given(BOTH)
def test_normalising_twice_changes_nothing(both: tuple[str, str]) -> None:
    for text in both:
        once = normalised(text)
        assert normalised(once.replace(ROW_BREAK, r"\\")) == once


@given(st.text(max_size=300), st.text(max_size=300))
def test_any_text_can_be_read(gold: str, answer: str) -> None:
    decided = fast(gold, answer)
    assert decided is None or decided.outcome in ("correct", "incorrect")
    assert read(normalised(gold)) == read(normalised(gold))


MARKS = st.lists(
    st.sampled_from(
        [
            *r"{}()[]^_&,;:|=<>+-*/.%$!?'~0123456789 abxyz",
            *(
                rf"\{name} "
                for name in (
                    *(
                        "frac",
                        "sqrt",
                        "text{",
                        "left",
                        "right",
                        "begin{cases}",
                        "end{cases}",
                        "begin{pmatrix}",
                        "end{pmatrix}",
                    ),
                    *(
                        "cup",
                        "in",
                        "mathbb{R}",
                        "infty",
                        "pm",
                        "le",
                        "{",
                        "}",
                        "\\",
                        "pi",
                        "circ",
                        "overline",
                        "boxed",
                        "mathrm{",
                    ),
                )
            ),
            " or ",
            " and ",
            "½",
            "√",
            "²",
            "∞",
            "\ue000",
        ]
    ),
    max_size=40,
).map("".join)


@settings(max_examples=300)
@given(MARKS, MARKS)
def test_any_heap_of_marks_can_be_read(gold: str, answer: str) -> None:
    decided = fast(gold, answer)
    assert decided is None or decided.outcome in ("correct", "incorrect")
    itself = fast(gold, gold)
    assert itself is None or itself.outcome == "correct"


NUMBERS = st.tuples(st.integers(-40, 40), st.integers(1, 12)).map(lambda pair: Fraction(*pair))
HOW_WRITTEN: tuple[Callable[[Fraction], str], ...] = (
    lambda value: f"{value.numerator}/{value.denominator}",
    lambda value: rf"\frac{{{value.numerator}}}{{{value.denominator}}}",
    lambda value: rf"\frac{{{3 * value.numerator}}}{{{3 * value.denominator}}}",
    str,
    lambda value: rf"{'-' if value < 0 else ''}\dfrac{{{abs(value.numerator)}}}{{{value.denominator}}}",
)
WRITTEN = st.sampled_from(HOW_WRITTEN)
FEW = st.lists(NUMBERS, min_size=2, max_size=4)


@given(FEW, st.randoms(use_true_random=False), WRITTEN, WRITTEN)
def test_order_counts_in_tuples_and_not_in_sets(
    values: list[Fraction], chance: Random, first: Callable[[Fraction], str], second: Callable[[Fraction], str]
) -> None:
    order = sorted(range(len(values)), key=lambda _: chance.random())
    shuffled = [values[index] for index in order]
    one, other = ",".join(map(first, values)), ",".join(map(second, shuffled))
    assert (grade(f"({one})", f"({other})").outcome == "correct") == (values == shuffled)
    assert grade(rf"\{{{one}\}}", rf"\{{{other}\}}").outcome == "correct"
    assert grade(one, other).outcome == "correct"


@given(FEW, FEW, WRITTEN, WRITTEN)
def test_sets_of_numbers_are_equal_when_their_members_are(
    values: list[Fraction], others: list[Fraction], first: Callable[[Fraction], str], second: Callable[[Fraction], str]
) -> None:
    one, other = ",".join(map(first, values)), ",".join(map(second, others))
    expected = set(values) == set(others)
    assert (grade(rf"\{{{one}\}}", rf"\{{{other}\}}").outcome == "correct") == expected


@pytest.mark.parametrize("kind", KINDS)
def test_the_grammar_makes_answers_of_each_kind(kind: str) -> None:
    seen: set[type] = set()

    @settings(max_examples=20, database=None)
    @given(KINDS[kind])
    def look(answer: str) -> None:
        seen.add(type(read(normalised(answer))))

    look()
    assert seen
