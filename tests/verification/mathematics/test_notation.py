"""One spelling for what is written in many ways."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gen_service.verification.mathematics.notation import ROW_BREAK, normalised, plain_words


@pytest.mark.parametrize(
    ("written", "spelled"),
    [
        (r"\dfrac12", r"\frac{1}{2}"),
        (r"\frac{1}2", r"\frac{1}{2}"),
        (r"\frac1{2}", r"\frac{1}{2}"),
        (r"\displaystyle\cfrac 12", r"\frac{1}{2}"),
        (r"\sqrt2", r"\sqrt{2}"),
        (r"\sqrt[3]2", r"\sqrt[3]{2}"),
        ("sqrt(x+1)/2", r"\sqrt{x+1}/2"),
        ("√(x+1)", r"\sqrt{x+1}"),
        ("x**2", "x^{2}"),
        ("x²", "x^{2}"),
        ("x⁻¹", "x^{-1}"),
        ("x₁₂", "x_{12}"),
        ("x_1", "x_{1}"),
        ("2½", r"2\frac{1}{2}"),
        ("\u22123\u00d74", r"-3\times 4"),
        ("2π", r"2\pi"),
        ("pi/2", r"\pi/2"),
        ("sin x", r"\sin x"),
        ("3 ≤ x", r"3\le x"),
        ("x>=3", r"x\ge 3"),
        (r"x\neq 2", r"x\ne 2"),
        (r"\varnothing", r"\emptyset"),
        ("**42**", "42"),
        ("42.", "42"),
        ("$$5$$", "5"),
        (r"\(5\)", "5"),
        (r"\$5", "5"),
        ("€5", "5"),
        ("\u200b5", "5"),
        ("\uff15", "5"),
        (r"5 \ %", "5%"),
        (r"\left(1,2\right]", "(1,2]"),
        (r"\big(x\big)", "(x)"),
        ("1{,}000", "1000"),
        (r"1\,000", "1000"),
        ("0{,}5", "0.5"),
        (r"\mathrm{cm}", r"\text{cm}"),
        (r"5\mathrm{m}", r"5\text{m}"),
        (r"\mathbf{x}", "x"),
        (r"\mathbf{i}", r"\hat{i}"),
        (r"\textbf{(B)}", r"\text{(B)}"),
        (r"\text{2}", "2"),
        (r"30^{\circ}", r"30^\circ"),
        ("30°", r"30^\circ"),
        (r"\log_28", r"\log_{2}8"),
        (r"\lg x", r"\log_{10}x"),
        (r"101_{\text{two}}", "101_{2}"),
        (r"{n \choose k}", r"\binom{n}{k}"),
        ("_{5}C_{2}", r"\binom{5}{2}"),
        (r"\\frac{1}{2}", r"\frac{1}{2}"),
        (r"\begin{pmatrix}1\\2\end{pmatrix}", rf"\begin{{pmatrix}}1{ROW_BREAK}2\end{{pmatrix}}"),
    ],
)
def test_spells(written: str, spelled: str) -> None:
    assert normalised(written) == spelled


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("1 2", "12"),
        ("x y", "xy"),
        ("1,000", "1000"),  # may be a list
        ("0..", "0"),
        ("0,5", "0.5"),
        (r"\text{m}", "m"),
        (r"1\,00", "100"),
        ("C", "c"),
    ],
)
def test_keeps_apart(first: str, second: str) -> None:
    assert normalised(first) != normalised(second)


def test_words_lose_their_command_and_their_spare_spaces() -> None:
    assert plain_words(normalised(r"\text{ no  real }\textbf{roots}")) == "no real roots"


@given(st.text(max_size=300))
def test_what_cannot_be_seen_does_not_count(text: str) -> None:
    assert normalised("\u200b" + text + "\ufeff") == normalised(text)
    assert ROW_BREAK not in normalised(ROW_BREAK + text.replace(r"\begin", ""))


@given(st.text(max_size=300), st.sampled_from(["left", "right", "displaystyle", "bigl", "Bigr"]))
def test_size_and_style_of_type_do_not_count(text: str, command: str) -> None:
    word = rf"\{command}(x)"
    assert normalised(word) == "(x)"
    assert normalised(rf"x+\{command} (y)") == "x+(y)"
    assert normalised(text) == normalised(f" {text} ")
