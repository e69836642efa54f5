"""What sympy never sees."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gen_service.verification.guard import DEEPEST_EXPONENT, refusal


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("2^{2^{2^{2}}}", "tower"),
        ("2^2^2^2", "tower"),
        ("2**2**2**2", "tower"),
        (r"e^{x^{\frac{y^2}{3}}}", "tower"),
        (r"\left(2^{2^{2^{2}}}\right)+1", "tower"),
        ("2 ^ { 3 ^ { 9 } }", "tower"),
        ("10^{10^{10}}", "tower"),
        ("e^{e^{e^e}}", "tower"),
        ("2^{10^9}", "tower"),
        ("2^{1000000}", "exponent"),
        ("2^ 99999999999999999999", "exponent"),
        ("2**1000000", "exponent"),
        ("(10^9)!", "factorial"),
        ("1000000!", "factorial"),
        ("((3!)!)!", "factorial"),
        (r"\binom{10^9}{5}", "binomial"),
        (r"\binom { 1000000 } { 5 }", "binomial"),
        (r"\sum_{k=1}^{1000000} k", "bound"),
        ("(" * 100 + "x" + ")" * 100, "nested"),
        (r"\frac{1}{" * 50 + "x" + "}" * 50, "nested"),
        ("9" * 500, "digits"),
        (",".join(map(str, range(500))), "numbers"),
        ("&".join("x" * 200), "matrix"),
        ("x" * 3000, "characters"),
        ("1\0", "NUL"),
    ],
)
def test_refuses_and_says_why(text: str, named: str) -> None:
    reason = refusal(text)
    assert reason is not None
    assert named in reason


@pytest.mark.parametrize(
    "text",
    [
        "42",
        "x^2+1",
        "2^{2005}",
        "10^{-21}",
        "10^{100}",
        "2^{2^n}",
        "a^3-3a^2b+3ab^2-b^3",
        "{a^2}^2+{b^2}^2",
        r"\cos 20^\circ\cos 40^\circ\cos 80^\circ",
        "e^{6(x^2+y^2)}",
        "e^{x^2+y^2+z^2+t^2}",
        "2^{3}2^{3}2^{3}2^{3}",
        "x^2^2",
        "e^{x^2}",
        "n!",
        r"\frac{1}{2004!}",
        r"\binom{100}{50}",
        r"\sum_{k=1}^{n} k^2",
        r"\sqrt{1+\sqrt{2+\sqrt{3}}}",
        r"\begin{pmatrix}1&2\\3&4\end{pmatrix}",
    ],
)
def test_lets_ordinary_answers_pass(text: str) -> None:
    assert refusal(text) is None


@given(st.text(alphabet="^{}()!0123456789 \\binomfrac*&,-", max_size=2000))
def test_any_text_is_judged(text: str) -> None:
    reason = refusal(text)
    assert reason is None or reason


@given(st.integers(min_value=1, max_value=8), st.sampled_from(["^{%s}", "**{%s}", "^ { %s }"]))
def test_exponents_in_exponents_are_counted(height: int, form: str) -> None:
    text = "2"
    for _ in range(height):
        text = "2" + form % text
    assert (refusal(text) is None) == (height <= DEEPEST_EXPONENT)
    assert (refusal("+".join([text] * 3)) is None) == (height <= DEEPEST_EXPONENT)
