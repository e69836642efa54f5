"""Answers to problems as models write them: a seeded mix of right ones in many spellings and wrong ones."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

from benchmarks.verification_problems import INTEGER, TEXT, Kind, Problem, kind_of
from benchmarks.workload import SEED

_FRACTION = re.compile(r"(-?)\\[dt]?frac\{([0-9]{1,9})\}\{([0-9]{1,9})\}")
_GROUPED = re.compile(r"[0-9],[0-9]{3}")
# Of the answers to a problem: as the gold is written, right in another spelling, and the rest are wrong.
_SAME, _RESPELLED = 0.4, 0.3
_ATTEMPTS = 20
_COMPLETIONS = (
    "The answer is $\\boxed{ANSWER}$.",
    "**Final Answer**\n\n\\[\n\\boxed{ANSWER}\n\\]",
    "Adding the two cases gives the total, so the final answer is\n\n$$\\boxed{ANSWER}$$",
    "We set up the equation, solve for the unknown and check it against the given condition. "
    "Since $2a + 3 = 11$ gives $a = 4$, the second relation holds as well.\n\nTherefore, the answer is "
    "\\(\\boxed{ANSWER}\\).",
    "### Step 1\nLet $n$ be the number that is asked for. By symmetry, only half of the cases count.\n\n"
    "### Step 2\nUsing $\\sum_{k=1}^{n} k = \\frac{n(n+1)}{2}$ and dividing by $n$, all terms but one cancel:\n"
    "\\[ \\frac{n+1}{2} - \\frac{n}{2} = \\frac{1}{2}. \\]\n\n"
    "### Step 3\nPutting this back into the first relation and simplifying gives the result.\n\n"
    "**Answer:** $\\boxed{ANSWER}$",
)

Respelling = Callable[[str], str | None]


@dataclass(frozen=True, slots=True)
class Item:
    """One completion to judge.

    Attributes:
        source: the problem's set.
        gold, content: the reference answer and the completion's text, which holds `answer` in a box.
        expected: whether the answer in it was made to be right.
    """

    source: str
    gold: str
    content: str
    answer: str
    expected: bool


def _split(gold: str) -> list[str]:
    """The parts between commas outside all brackets."""
    parts, depth = [""], 0
    for character in gold:
        depth += (character in "([{") - (character in ")]}")
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts]


def _display_fractions(gold: str) -> str | None:
    return gold.replace(r"\frac", r"\dfrac") if r"\frac" in gold else gold.replace(r"\dfrac", r"\frac")


def _slash(gold: str) -> str | None:
    return f"{match[1]}{match[2]}/{match[3]}" if (match := _FRACTION.fullmatch(gold)) else None


def _short_fraction(gold: str) -> str:
    return re.sub(r"\\frac\{([0-9])\}\{([0-9])\}", r"\\frac\1\2", gold)


def _decimal(gold: str) -> str | None:
    """The exact decimal of a fraction that has one of at most six places."""
    match = _FRACTION.fullmatch(gold)
    if match is None or int(match[3]) == 0:
        return f"{gold}.0" if INTEGER.fullmatch(gold) else None
    scaled = Fraction(int(match[2]), int(match[3])) * 10**6
    if scaled.denominator != 1:
        return None
    whole, rest = divmod(scaled.numerator, 10**6)
    return f"{match[1]}{whole}.{rest:06d}".rstrip("0")


def _grouped(gold: str) -> str | None:
    if not INTEGER.fullmatch(gold) or len(gold.lstrip("-")) < 4:
        return None
    return f"{int(gold):,}".replace(",", "{,}" if int(gold) % 2 else ",")


def _reordered(gold: str) -> str | None:
    inner = gold.removeprefix(r"\{").removesuffix(r"\}")
    is_set = len(inner) == len(gold) - 4
    parts = _split(inner)
    if len(parts) < 2 or _GROUPED.search(gold) or not (is_set or gold[:1] not in "([{<"):
        return None
    text = ", ".join(reversed(parts))
    return rf"\{{{text}\}}" if is_set else text


def _swapped(gold: str) -> str | None:
    parts = gold.split("+")
    if len(parts) != 2 or "-" in gold or "=" in gold or any(_unbalanced(part) for part in parts):
        return None
    return f"{parts[1].strip()}+{parts[0].strip()}"


def _unbalanced(text: str) -> bool:
    depths = [text.count(opening) - text.count(closing) for opening, closing in ("()", "[]", "{}")]
    return any(depths) or not text.strip()


def _spaced(gold: str) -> str | None:
    return None if _GROUPED.search(gold) or "\\!" in gold else re.sub(r"\s*([=+,])\s*", r" \1 ", gold).strip()


def _sized_brackets(gold: str) -> str | None:
    is_whole = gold.startswith("(") and gold.endswith(")") and gold.count("(") == 1 == gold.count(")")
    return rf"\left{gold[:-1]}\right)" if is_whole else None


def _braced(gold: str) -> str:
    return re.sub(r"\\sqrt([0-9])", r"\\sqrt{\1}", re.sub(r"\^([0-9a-z])(?![0-9])", r"^{\1}", gold))


def _in_text(gold: str) -> str | None:
    if match := TEXT.fullmatch(gold):
        return match[1]
    return rf"\text{{{gold}}}" if re.fullmatch(r"[A-Za-z][A-Za-z ]*", gold) else None


def _with_unit(gold: str) -> str | None:
    return rf"{gold}\text{{ cm}}" if INTEGER.fullmatch(gold) else None


def _assigned(gold: str) -> str | None:
    return f"x = {gold}" if kind_of(gold) in ("integer", "number") else None


RESPELLINGS: tuple[Respelling, ...] = (
    _display_fractions,
    _slash,
    _short_fraction,
    _decimal,
    _grouped,
    _reordered,
    _swapped,
    _spaced,
    _sized_brackets,
    _braced,
    _in_text,
    _with_unit,
    _assigned,
)


def respellings(gold: str) -> list[str]:
    """The gold in every other spelling that fits it; each means the same."""
    gold = gold.strip("$ ") if gold.count("$") <= 2 else gold
    if "$" in gold:
        return []
    found = dict.fromkeys(spelling for respell in RESPELLINGS if (spelling := respell(gold)) is not None)
    found.pop(gold, None)
    return list(found)


class WrongAnswers:
    """Answers that are not the gold: of another problem of the same kind, a near number, another sign or digit."""

    def __init__(self, problems: Sequence[Problem], seed: int = SEED) -> None:
        self._by_kind: dict[Kind, list[str]] = {}
        for problem in problems:
            self._by_kind.setdefault(problem.kind, []).append(problem.golds[0])
        self._random = random.Random(seed)

    def draw(self, problem: Problem) -> str | None:
        """One wrong answer, or None when the draw gave the gold itself."""
        gold = problem.golds[0].strip("$ ")
        made = self._random.choice((self._of_another, self._of_another, self._near, _negated))(gold)
        return None if made is None or made.strip("$ ") == gold else made

    def _of_another(self, gold: str) -> str | None:
        return self._random.choice(self._by_kind[kind_of(gold)])

    def _near(self, gold: str) -> str | None:
        """One digit is another; in a whole number, it is one off or ten times as large."""
        if INTEGER.fullmatch(gold):
            return str(int(gold) + self._random.choice((-2, -1, 1, 10, 9 * int(gold))))
        places = [place for place, character in enumerate(gold) if character.isascii() and character.isdigit()]
        if not places:
            return None
        place = self._random.choice(places)
        return gold[:place] + str((int(gold[place]) + self._random.randint(1, 7)) % 9 + 1) + gold[place + 1 :]


def _negated(gold: str) -> str | None:
    if gold == "0" or kind_of(gold) not in ("integer", "number", "expression"):
        return None
    return gold.removeprefix("-") if gold.startswith("-") else f"-{gold}"


class Answers:
    """Draws answers to problems, and the completions they stand in."""

    def __init__(self, problems: Sequence[Problem], seed: int = SEED) -> None:
        self._random = random.Random(seed)
        self._wrong = WrongAnswers(problems, seed)
        self._given: set[tuple[str, str]] = set()

    def distinct(self, problem: Problem, count: int) -> list[Item]:
        """Up to `count` completions with different answers; no pair of gold and answer comes twice from one object."""
        drawn: list[Item] = []
        for _ in range(_ATTEMPTS):
            item = self._item(problem, *self._draw(problem))
            if (item.gold, item.answer) not in self._given:
                self._given.add((item.gold, item.answer))
                drawn.append(item)
            if len(drawn) == count:
                break
        return drawn

    def samples(self, problem: Problem, count: int) -> list[Item]:
        """`count` completions as a model gives them to one prompt: few answers, some of them several times."""
        pool = [self._draw(problem) for _ in range(1 + count // 2)]
        return [self._item(problem, *self._random.choice(pool)) for _ in range(count)]

    def _draw(self, problem: Problem) -> tuple[str, bool]:
        gold, chance = problem.golds[0], self._random.random()
        others = respellings(gold)
        if chance < _SAME or (chance < _SAME + _RESPELLED and not others):
            return gold, True
        if chance < _SAME + _RESPELLED:
            return self._random.choice(others), True
        wrong = next(filter(None, (self._wrong.draw(problem) for _ in range(_ATTEMPTS))), None)
        return (gold, True) if wrong is None else (wrong, False)

    def _item(self, problem: Problem, answer: str, expected: bool) -> Item:
        # A box is already mathematics: dollar signs in it would end that.
        inner = answer if answer.count("$") != 2 or not answer.startswith("$") else answer.strip("$ ")
        content = self._random.choice(_COMPLETIONS).replace("ANSWER", inner)
        return Item(problem.source, problem.golds[0], content, inner, expected)


def spread(problems: Sequence[Problem], count: int, seed: int = SEED) -> list[Problem]:
    """About `count` problems, the same number from every set as far as each has them, chosen by the seed."""
    sets: dict[str, list[Problem]] = {}
    for problem in problems:
        sets.setdefault(problem.source, []).append(problem)
    chooser, chosen = random.Random(seed), list[Problem]()
    for left, source in zip(range(len(sets), 0, -1), sorted(sets.values(), key=len), strict=True):
        share = min(len(source), round((count - len(chosen)) / left))
        chosen += chooser.sample(source, share)
    chooser.shuffle(chosen)
    return chosen
