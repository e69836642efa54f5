"""Exact numbers and the fast path: never against arithmetic."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gen_service.verification.grade import fast
from gen_service.verification.mathematics.notation import normalised
from gen_service.verification.mathematics.rational import rational

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
    one, other = fast(first, second), fast(second, first)
    assert (one and (one.outcome, one.path)) == (other and (other.outcome, other.path))


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
