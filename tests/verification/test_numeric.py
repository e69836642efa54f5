"""The kind `numeric`."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gen_service.verification.numeric import kind, number

READ = {
    "12": "12",
    "-3.50": "-7/2",
    ".5": "1/2",
    "12.": "12",
    "\u22124": "-4",
    "1,234": "1234",
    "1{,}234": "1234",
    r"1\,234": "1234",
    "1_000": "1000",
    "1,234.5e3": "1234500",
    "3/4": "3/4",
    r"\frac{3}{4}": "3/4",
    r"-\dfrac34": "-3/4",
    r"\frac{-3}{4}": "-3/4",
    "1.5e3": "1500",
    "1.5E-3": "3/2000",
    r"1.5 \times 10^{3}": "1500",
    r"2\cdot10^3": "2000",
    "2 x 10^3": "2000",
    "10^{-3}": "1/1000",
    "50%": "1/2",
    r"12.5\%": "1/8",
    "$5$": "5",
    r"\(7\)": "7",
    "x = 5": "5",
    r"y \approx 2.5": "5/2",
    r"\text{42}": "42",
}
WITH_UNIT = {
    "5 cm": "5",
    r"5\text{ cm}": "5",
    r"\$5": "5",
    "\u20ac1,000": "1000",
    "5 m/s^2": "5",
    r"90^\circ": "90",
    r"3\,\mathrm{kg}": "3",
}
UNREAD = [
    "",
    "x",
    "1 2",
    "1 234",
    "3,14",
    "1,234,5",
    "12,34",
    "1/0",
    "1e999",
    "0x10",
    "1/2/3",
    "2^3",
    "--1",
    "1" * 300,
    "nan",
]


@pytest.mark.parametrize(("text", "value"), READ.items())
def test_a_number_is_read(text: str, value: str) -> None:
    assert number(text) == number(text, ignore_units=True) == Fraction(value)


@pytest.mark.parametrize(("text", "value"), WITH_UNIT.items())
def test_a_unit_is_ignored_only_when_asked(text: str, value: str) -> None:
    assert (number(text), number(text, ignore_units=True)) == (None, Fraction(value))


@pytest.mark.parametrize("text", UNREAD)
def test_anything_else_is_no_number(text: str) -> None:
    assert number(text) is None


@given(st.fractions(max_denominator=10**6))
def test_any_fraction_is_read_exactly(value: Fraction) -> None:
    assert number(str(value)) == number(rf"\frac{{{value.numerator}}}{{{value.denominator}}}") == value


@given(st.decimals(allow_nan=False, allow_infinity=False, places=6, min_value=-(10**12), max_value=10**12))
def test_any_decimal_is_read_exactly(value: object) -> None:
    assert number(str(value)) == number(f"{value:,}") == Fraction(str(value))


@given(st.text(max_size=60))
def test_any_text_is_a_number_or_none(text: str) -> None:
    assert number(text, ignore_units=True) is None or number(text) in (None, number(text, ignore_units=True))


@pytest.mark.parametrize(
    ("options", "gold", "answer", "outcome"),
    [
        ({}, "1", "1.000001", "correct"),
        ({}, "1", "1.0000011", "incorrect"),
        ({}, "0", "0.0000001", "incorrect"),
        ({"relative_tolerance": 0}, "1", "1.0000001", "incorrect"),
        ({"relative_tolerance": 0, "absolute_tolerance": 0.5}, "10", "10.5", "correct"),
        ({"relative_tolerance": 0, "absolute_tolerance": 0.5}, "10", "10.51", "incorrect"),
        ({"relative_tolerance": 0.1, "absolute_tolerance": 0.5}, "100", "110", "correct"),
        ({"relative_tolerance": 0.1}, "-100", "-90", "correct"),
        ({}, "50", "50%", "incorrect"),
        ({}, "5 cm", "5", "ungradable"),
        ({}, "5", "5 cm", "unparsable"),
        ({"ignore_units": True}, "5 cm", "5", "correct"),
    ],
)
def test_numbers_are_right_within_the_larger_tolerance(
    options: dict[str, object], gold: str, answer: str, outcome: str
) -> None:
    made = kind(options)
    assert made.grade(gold, answer).outcome == outcome
    assert (made.gold_problem(gold) is not None) == (outcome == "ungradable")
