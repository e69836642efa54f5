"""Exact numbers and the fast path: never against arithmetic."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gen_service.verification.grade import fast
from gen_service.verification.mathematics.notation import normalised
from gen_service.verification.mathematics.rational import SIGNIFICANT_DIGITS, Rational, rational, same_number

INTEGERS = st.integers(min_value=-(10**12), max_value=10**12)
POSITIVE = st.integers(min_value=1, max_value=10**6)


def _grouped(value: int) -> str:
    return f"{value:,}".replace(",", "{,}")


@st.composite
def written(draw: st.DrawFn) -> tuple[Fraction, str]:
    """A rational number and one of the exact ways to write it."""
    top, bottom = draw(INTEGERS), draw(POSITIVE)
    places = draw(st.integers(min_value=1, max_value=6))
    sign = "-" if top < 0 else ""
    return draw(
        st.sampled_from(
            [
                (Fraction(top), str(top)),
                (Fraction(top), f" ${top}$ "),
                (Fraction(top), _grouped(top)),
                (Fraction(top), f"{top}.0"),
                (Fraction(top, bottom), f"{top}/{bottom}"),
                (Fraction(top, bottom), rf"\frac{{{top}}}{{{bottom}}}"),
                (Fraction(top, bottom), rf"{sign}\dfrac{{{abs(top)}}}{{ {bottom} }}"),
                (Fraction(top, bottom), rf"\left. {sign}\tfrac {{{abs(top)}}} {{{bottom}}}".removeprefix(r"\left. ")),
                (Fraction(top, 10**places), f"{sign}{abs(top) // 10**places}.{abs(top) % 10**places:0{places}d}"),
            ]
        )
    )


@given(written())
def test_reads_what_was_written(number: tuple[Fraction, str]) -> None:
    value, text = number
    read = rational(normalised(text))
    assert read is not None
    assert read.value == value


@given(written(), written())
def test_fast_path_never_contradicts_arithmetic(gold: tuple[Fraction, str], answer: tuple[Fraction, str]) -> None:
    decided = fast(gold[1], answer[1])
    if decided is not None:
        assert (decided.outcome == "correct") == (gold[0] == answer[0])
    if gold[0] == answer[0]:
        assert decided is not None


ANYTHING = st.one_of(
    st.text(max_size=20), written().map(lambda number: number[1]), st.sampled_from(["1,234", "1,2", "12"])
)


@given(ANYTHING, ANYTHING)
def test_fast_path_is_symmetric(first: str, second: str) -> None:
    right = [
        decided is not None and decided.outcome == "correct" for decided in (fast(first, second), fast(second, first))
    ]
    assert right[0] == right[1]


DIGITS = st.text("0123456789", min_size=1, max_size=9)
DECIMALS = st.one_of(
    DIGITS, st.tuples(DIGITS, DIGITS).map(".".join), st.tuples(POSITIVE, POSITIVE).map("%d/%d".__mod__)
)


def _read(text: str) -> Rational:
    read = rational(text)
    assert read is not None
    return read


@given(DECIMALS, DECIMALS)
def test_whether_two_numbers_are_the_same_does_not_depend_on_their_order(first: str, second: str) -> None:
    one, other = _read(first), _read(second)
    assert same_number(one, other) == same_number(other, one)
    assert same_number(one, one)


@given(INTEGERS, INTEGERS)
def test_different_integers_are_never_the_same(first: int, second: int) -> None:
    assert same_number(_read(str(first)), _read(str(second))) == (first == second)


@given(st.integers(0, 10**9), st.integers(-2, 2), st.integers(1, 9))
def test_decimals_of_as_many_places_are_the_same_only_when_equal(value: int, apart: int, places: int) -> None:
    texts = [f"{number // 10**places}.{number % 10**places:0{places}d}" for number in (value, max(value + apart, 0))]
    assert same_number(_read(texts[0]), _read(texts[1])) == (value == max(value + apart, 0))


@given(st.integers(1, 10**6), st.integers(-3, 3), st.integers(1, 12))
def test_an_integer_is_never_the_same_as_a_decimal_beside_it(value: int, apart: int, places: int) -> None:
    decimal = Rational(Fraction(value) + Fraction(apart, 10**places), Fraction(1, 10**places))
    assert same_number(Rational(Fraction(value)), decimal) == (apart == 0)


@given(POSITIVE, POSITIVE, st.integers(1, 12), st.sampled_from([math.floor, round, math.ceil]))
def test_a_rounded_decimal_stands_for_a_fraction_from_six_significant_digits_on(
    top: int, bottom: int, places: int, rounded: Callable[[Fraction], int]
) -> None:
    value = Fraction(top, bottom)
    digits = rounded(value * 10**places)
    decimal = Rational(Fraction(digits, 10**places), Fraction(1, 10**places))
    expected = digits >= 10 ** (SIGNIFICANT_DIGITS - 1) or decimal.value == value
    assert same_number(decimal, Rational(value)) == expected


@given(POSITIVE, POSITIVE, st.integers(1, 12), st.sampled_from([-1, 2]))
def test_a_decimal_two_units_off_stands_for_nothing(top: int, bottom: int, places: int, units: int) -> None:
    value = Fraction(top, bottom)
    digits = math.floor(value * 10**places) + units
    decimal = Rational(Fraction(digits, 10**places), Fraction(1, 10**places))
    assert same_number(decimal, Rational(value)) == (decimal.value == value)


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ("0.333333", "1/3", True),
        ("0.333334", "1/3", True),  # one unit in the last place
        ("0.333335", "1/3", False),
        ("0.33333", "1/3", False),
        ("0.666666", "2/3", True),
        ("0.666667", "2/3", True),
        ("0.999999", "1", False),
        ("1.000001", "1", False),
        ("123456.7", "123456.71", True),
        ("12345.7", "12345.71", True),
        ("1234.7", "1234.71", False),
        ("0.0000123456", "0.00001234561", True),
        ("0.000012", "0.0000121", False),
        ("3.140", "3.14", True),
        ("3.14", "22/7", False),
        ("100000", "100000.4", False),
    ],
)
def test_decimals_and_what_they_stand_for(first: str, second: str, same: bool) -> None:
    assert same_number(_read(first), _read(second)) is same


@given(ANYTHING)
def test_a_text_is_never_wrong_against_itself(text: str) -> None:
    decided = fast(text, text)
    assert decided is None or decided.outcome == "correct"


@given(INTEGERS, POSITIVE, st.sampled_from(["", " ", "  ", r"\,", r"\;", "~"]), st.sampled_from("dtc"))
def test_spacing_and_the_kind_of_fraction_do_not_matter(top: int, bottom: int, space: str, kind: str) -> None:
    plain = rf"\frac{{{top}}}{{{bottom}}}+x"
    other = rf"{space}\{kind}frac{space}{{{top}{space}}}{{{bottom}}}{space}+{space}x{space}"
    assert normalised(plain) == normalised(other)


@pytest.mark.parametrize(
    ("gold", "answer", "outcome"),
    [
        ("204", "204", "correct"),
        ("204", "205", "incorrect"),
        ("-7", "+7", "incorrect"),
        ("10000", r"10\,000", "correct"),
        ("10000", "10{,}000", "correct"),
        ("1,234", "1234", "correct"),
        (r"\frac12", "0.5", "correct"),
        (r"-\frac{1}{2}", r"\frac{-1}{2}", "correct"),
        (r"\$5", "5", "correct"),
        (r"\left(1,2\right)", "(1, 2)", "correct"),
        ("0.5", "0.05", "incorrect"),
        ("0{,}125", "125", "incorrect"),
        ("510^3", "132651000", "correct"),
        ("510^3", "5000", "incorrect"),
        ("2 x 10^3", "2000", "correct"),
        ("100,200", "200,100", "correct"),  # as lists
        ("1,234", "5", "incorrect"),
        ("50\\%", "0.5", "correct"),
        (r"\frac13", "0.333333", "correct"),
        (r"\frac13", "0.33333", "incorrect"),
        ("1", "0.999999", "incorrect"),
        ("2 1/3", r"\frac73", "correct"),
        ("16 384", "16384", "correct"),
        (r"1.2\times 10^{-4}", "0.00012", "correct"),
        (r"0.\overline{142857}", r"\frac17", "correct"),
        ("52_8", "42", "correct"),
        ("007", "7", "correct"),
    ],
)
def test_decides(gold: str, answer: str, outcome: str) -> None:
    decided = fast(gold, answer)
    assert decided is not None
    assert decided.outcome == outcome


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        ("1 2", "12"),
        ("1/0", "1"),
        ("x", "y"),
        ("", ""),
        ("٣", "3"),
        ("1" * 401, "1" * 402),
    ],
)
def test_leaves_open(gold: str, answer: str) -> None:
    assert fast(gold, answer) is None
