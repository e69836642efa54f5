"""Small arithmetic problems with worked solutions: what the tiny model learns, and what it is asked.

Three kinds, each with a space of problems large enough that learning the method beats learning the answers. A problem
belongs to `train` or `held_out` by a hash of its canonical form, so no seed and no phrasing can move it across.
"""

from __future__ import annotations

import hashlib
import math
import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, TypedDict, get_args

from gen_service.errors import SpecError

Split = Literal["train", "held_out"]
Kind = Literal["addition", "fractions", "linear"]

KINDS: tuple[Kind, ...] = get_args(Kind)
SPLITS: tuple[Split, ...] = get_args(Split)

_HELD_OUT_SHARE = 4  # one canonical problem in four is held out
_PATIENCE = 20_000  # draws without a new problem before a space counts as used up
_PROPER = tuple((top, bottom) for bottom in range(2, 13) for top in range(1, 13) if math.gcd(top, bottom) == 1)
_NUMBER = re.compile(r"(-?)(?:(\d+)|\\frac\{(\d+)\}\{(\d+)\})")
_BOXED = re.compile(r"\\boxed\{((?:[^{}]|\{[^{}]*\})*)\}")


@dataclass(frozen=True, slots=True)
class Solution:
    """One way to work a problem out: a true statement per step, then the answer in LaTeX."""

    steps: tuple[str, ...]
    answer: str

    @property
    def text(self) -> str:
        """What the model should write after the question: the reasoning in its tags, then the boxed answer."""
        reasoning = "\n".join(self.steps)
        return f"<think>\n{reasoning}\n</think>\nThe answer is \\boxed{{{self.answer}}}."


@dataclass(frozen=True, slots=True)
class Problem:
    """A question with its gold answer.

    Attributes:
        problem_id: kind and a hash of the question.
        kind: which method solves it.
        question: the sentence that is asked.
        answer: the gold, LaTeX, in lowest terms.
        solutions: the worked chain to the gold first; where a fraction can be reduced, also the chain that stops
            before, whose answer is equal and written otherwise.
    """

    problem_id: str
    kind: Kind
    question: str
    answer: str
    solutions: tuple[Solution, ...]


class PromptRow(TypedDict):
    """A problem as a row of a prompt source."""

    id: str
    prompt: str
    answer: str
    source: str


@dataclass(frozen=True, slots=True)
class _Draft:
    """A drawn problem before it is known to be new: `canonical` is equal for all ways to pose the same problem."""

    canonical: str
    question: str
    solutions: tuple[Solution, ...]


def problems(split: Split, count: int, seed: int, kinds: tuple[Kind, ...] = KINDS) -> Iterator[Problem]:
    """Yield `count` problems of one split, the kinds in turn; the same for the same arguments.

    No canonical problem comes twice in a call, and none is in both splits whatever the seeds.

    Raises:
        SpecError: an unknown split or kind, a negative count, or more problems than the split has.
    """
    _check(split, count, kinds)
    draws = random.Random(f"{seed}:{split}")
    seen: set[str] = set()
    for number in range(count):
        kind = kinds[number % len(kinds)]
        draft = _new_draft(kind, split, draws, seen)
        if draft is None:
            raise SpecError("count", count, f"fewer problems: {split} has about {number} of {', '.join(kinds)}")
        digest = hashlib.sha256(draft.question.encode()).hexdigest()[:12]
        yield Problem(f"{kind}-{digest}", kind, draft.question, draft.solutions[0].answer, draft.solutions)


def prompt_rows(split: Split, count: int, seed: int, kinds: tuple[Kind, ...] = KINDS) -> Iterator[PromptRow]:
    """The same problems as `problems`, as rows of a prompt source; `source` is `tiny/<kind>`."""
    for problem in problems(split, count, seed, kinds):
        yield PromptRow(
            id=problem.problem_id, prompt=problem.question, answer=problem.answer, source=f"tiny/{problem.kind}"
        )


def split_of(canonical: str) -> Split:
    """The split a canonical problem belongs to, for ever."""
    return "held_out" if hashlib.sha256(canonical.encode()).digest()[0] % _HELD_OUT_SHARE == 0 else "train"


def latex(value: Fraction) -> str:
    """An integer, or a fraction in lowest terms with its sign in front."""
    return _fraction(value.numerator, value.denominator)


def value_of(answer: str) -> Fraction | None:
    """The number that `latex`, or an unreduced fraction in the same form, writes; None for any other text."""
    found = _NUMBER.fullmatch(answer.strip())
    if found is None:
        return None
    sign, whole, top, bottom = found.groups()
    if whole is None and int(bottom) == 0:
        return None
    value = Fraction(int(whole)) if whole is not None else Fraction(int(top), int(bottom))
    return -value if sign else value


def boxed(text: str) -> str | None:
    r"""What the last `\boxed{}` after the reasoning holds, or None; braces may nest once."""
    found = _BOXED.findall(text.rpartition("</think>")[2])
    return str(found[-1]) if found else None


def _check(split: Split, count: int, kinds: tuple[Kind, ...]) -> None:
    if split not in SPLITS:
        raise SpecError("split", split, f"one of {', '.join(SPLITS)}")
    if not kinds or any(kind not in KINDS for kind in kinds):
        raise SpecError("kinds", kinds, f"at least one of {', '.join(KINDS)}")
    if count < 0:
        raise SpecError("count", count, "0 or more")


def _new_draft(kind: Kind, split: Split, draws: random.Random, seen: set[str]) -> _Draft | None:
    for _ in range(_PATIENCE):
        draft = _DRAW[kind](draws)
        if draft.canonical not in seen and split_of(draft.canonical) == split:
            seen.add(draft.canonical)
            return draft
    return None


def _addition(draws: random.Random) -> _Draft:
    """Two numbers of 2 to 4 digits, added column by column from the right, carrying."""
    left, right = (draws.randint(10 ** (digits - 1), 10**digits - 1) for digits in draws.choices((2, 3, 4), k=2))
    low, high = sorted((left, right))
    question = draws.choice((f"What is {left} + {right}?", f"Find the sum of {left} and {right}."))
    solution = Solution(_added(left, right), str(left + right))
    return _Draft(f"{low}+{high}", question, (solution,))


def _columns(left: int, right: int) -> tuple[str, ...]:
    """left + right digit by digit from the right: like signs are added, else the smaller is taken from the larger."""
    larger, smaller = sorted((abs(left), abs(right)), reverse=True)
    if (left < 0) != (right < 0) and right != 0:
        return _subtracted(larger, smaller)
    return _added(abs(left), abs(right))


def _added(left: int, right: int) -> tuple[str, ...]:
    steps: list[str] = []
    carry = 0
    while left or right:
        left, left_digit = divmod(left, 10)
        right, right_digit = divmod(right, 10)
        total = left_digit + right_digit + carry
        steps.append(f"{left_digit} + {right_digit}{' + 1' if carry else ''} = {total}")
        carry = total // 10
    return tuple(steps)


def _subtracted(larger: int, smaller: int) -> tuple[str, ...]:
    steps: list[str] = []
    borrowed = 0
    while larger:
        larger, upper = divmod(larger, 10)
        smaller, lower = divmod(smaller, 10)
        taken = lower + borrowed
        upper += 10 if upper < taken else 0
        steps.append(f"{upper} - {lower}{' - 1' if borrowed else ''} = {upper - taken}")
        borrowed = upper // 10
    return tuple(steps)


def _fractions(draws: random.Random) -> _Draft:
    """The sum or difference of two fractions over the product of their denominators, then reduced."""
    (left, below_left), (right, below_right) = draws.sample(_PROPER, 2)
    sign = draws.choice("+-")
    posed = f"\\frac{{{left}}}{{{below_left}}} {sign} \\frac{{{right}}}{{{below_right}}}"
    question = draws.choice((f"Compute {posed}.", f"What is {posed}?"))
    terms = (
        sorted(((left, below_left), (right, below_right)))
        if sign == "+"
        else [(left, below_left), (right, below_right)]
    )
    return _Draft(
        f"{terms[0]}{sign}{terms[1]}", question, _common_denominator(left, below_left, sign, right, below_right)
    )


def _common_denominator(left: int, below_left: int, sign: str, right: int, below_right: int) -> tuple[Solution, ...]:
    first, second, bottom = left * below_right, right * below_left, below_left * below_right
    top = first + second if sign == "+" else first - second
    divisor = math.gcd(top, bottom)
    steps = (
        f"{left} * {below_right} = {first}",
        f"{right} * {below_left} = {second}",
        *_columns(first, second if sign == "+" else -second),
        f"{first} {sign} {second} = {top}",
        f"{below_left} * {below_right} = {bottom}",
    )
    common = f"gcd({abs(top)}, {bottom}) = {divisor}"
    if divisor == 1:
        return (Solution((*steps, common), _fraction(top, bottom)),)
    reduced = (f"{top} / {divisor} = {top // divisor}", f"{bottom} / {divisor} = {bottom // divisor}")
    return (
        Solution((*steps, common, *reduced), _fraction(top // divisor, bottom // divisor)),
        Solution(steps, _fraction(top, bottom)),
    )


def _linear(draws: random.Random) -> _Draft:
    """a x + b = c with an integer solution: move b over, then divide by a."""
    factor, root = draws.randint(2, 9), draws.randint(-12, 12)
    offset = draws.choice((-1, 1)) * draws.randint(1, 30)
    right = factor * root + offset
    sign, opposite = ("+", "-") if offset > 0 else ("-", "+")
    equation = f"{factor}x {sign} {abs(offset)} = {right}"
    question = draws.choice((f"Solve {equation} for x.", f"If {equation}, what is x?"))
    steps = (
        f"{factor}x = {right} {opposite} {abs(offset)}",
        *_columns(right, -offset),
        f"{factor}x = {right - offset}",
        f"x = {right - offset} / {factor}",
        f"x = {root}",
    )
    return _Draft(equation, question, (Solution(steps, str(root)),))


def _fraction(top: int, bottom: int) -> str:
    if bottom == 1:
        return str(top)
    return f"{'-' if top < 0 else ''}\\frac{{{abs(top)}}}{{{bottom}}}"


_DRAW: dict[Kind, Callable[[random.Random], _Draft]] = {
    "addition": _addition,
    "fractions": _fractions,
    "linear": _linear,
}
