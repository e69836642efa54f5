"""Whole completions made to work a search hard, and false answers that a careless comparison calls right."""

from __future__ import annotations

HARMLESS = "y+3"


def whole_texts() -> dict[str, str]:
    """Whole completions that make the search itself work; none holds the right answer as its last box."""
    return {
        "1,000 boxes": r"\boxed{1}, " * 1_000,
        "20,000 boxes": r"\boxed{1}" * 20_000,
        "14,000 nested boxes": r"\boxed{" * 14_000 + "4" + "}" * 14_000,
        "20,000 unfinished boxes": r"\boxed{" * 20_000,
        "boxes and braces": (r"\boxed{" + "{" * 50) * 3_000,
        "200 KB of backslashes": r"\boxed{" + "\\" * 199_000,
        "200 KB of prose": "so the answer is not yet known and " * 6_000 + r"\boxed{5}",
        "200 KB of answers": "the answer is " * 14_000,
        "200 KB of headings": "#### Answer\n" * 16_000,
        "200 KB of formulas": "$x$ " * 50_000 + r"\boxed{5}",
        "a megabyte of thinking": "<think>" + "so $y+3$, no. " * 70_000 + r"</think>\boxed{y+4}",
        "all options at once": r"\boxed{y+3} or \boxed{y+4} or \boxed{y+5}",
        "box in a wrong answer": r"\boxed{y+4 \text{ not } \boxed{y+3}}",
    }


def false_answers() -> dict[str, tuple[str, str]]:
    """Wrong answers that a careless comparison calls right: (gold, answer)."""
    return {
        "powers that underflow": (r"\frac{1}{2^{99}}", r"\frac{1}{2^{98}}"),
        "powers that overflow": ("10^{400}", "10^{401}"),
        "towers that differ by one": ("2^{2^{2^{2^{2^2}}}}", "2^{2^{2^{2^{2^2}}}}+1"),
        "factorials that differ": ("(10^9)!", "(10^9+1)!"),
        "decimal exponents that differ": ("1e999999999", "1e999999998"),
        "nearly zero": ("0", "10^{-400}"),
        "nearly one": ("1", "1-10^{-50}"),
        "nearly pi": (r"\pi", r"\frac{355}{113}"),
        "nearly an integer": ("640320^3+744", r"e^{\pi\sqrt{163}}"),
        "partial sum": (r"\frac{\pi^2}{6}", r"\sum_{k=1}^{1000} \frac{1}{k^2}"),
        "giants that differ by one": ("9" * 300, "9" * 299 + "8"),
        "floors that differ": (r"\lfloor 10^{20}\pi \rfloor", r"\lfloor 10^{20}\pi \rfloor + 1"),
        "polynomials that differ high up": ("x^{10000}+x", "x^{10001}+x"),
        "true": (HARMLESS, "True"),
        "tautology": (HARMLESS, "0=0"),
        "identity": (HARMLESS, "y+3=y+3+z"),
        "either": (HARMLESS, "y+3 or y+4"),
        "either, in text": (HARMLESS, r"y+3 \text{ or } y+4"),
        "set of both": (HARMLESS, r"\{y+3, y+4\}"),
        "plus or minus": (HARMLESS, r"y \pm 3"),
        "anything": (HARMLESS, r"y+3+\text{anything}"),
        "wildcard": (HARMLESS, ".*"),
        "placeholder": (HARMLESS, "y+c"),
        "undefined": (HARMLESS, r"\frac{0}{0}"),
        "infinite": (HARMLESS, r"\infty-\infty"),
        "not a number": ("5", "nan"),
        "all reals": ("x>2", r"x \in \mathbb{R}"),
        "every number": ("7", ",".join(map(str, range(20)))),
        "number among words": ("42", r"\text{it may be } 42 \text{ or another}"),
        "empty set": ("5", r"\emptyset"),
        "comparison": ("5", "5 > 4"),
        "choice with all letters": ("B", "ABCD"),
        "verdict": (HARMLESS, "correct"),
        "name of the gold": (HARMLESS, "gold"),
    }
