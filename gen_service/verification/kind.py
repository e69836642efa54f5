"""What a kind of problem brings along: how its answers are found, read and compared."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from gen_service.verification.grade import Grade

Wants = Literal["answer", "text"]


def _undecided(_gold: str, _answer: str) -> Grade | None:
    return None


def _no_problem(_gold: str) -> str | None:
    return None


def _nothing() -> None:
    return None


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of problem. Every function is pure: the same texts get the same grade, whenever and wherever.

    A plug-in may give one too; of it `fast`, `normalised`, `warm` and `libraries` are not used, since its code runs in
    worker processes alone.

    Attributes:
        name: how settings name it.
        version: raised whenever a verdict may change.
        grade: (gold, answer) to a grade; runs in a worker under the budgets of one check.
        gold_problem: why nothing can be graded against a gold, or None; runs in a worker under budgets of its own.
        fast: a grade where that takes microseconds, whatever the texts and their lengths, else None; runs anywhere.
        normalised: the answer as it is compared, for people and tables to see. Linear.
        choices: whether the letter of a choice counts as an answer where answers are looked for.
        wants: `answer` for the extracted answer, `text` for the whole content after the thinking.
        warm: imports and fills what workers should share; runs once, before they are forked.
        libraries: names of the distributions whose version may change a verdict.
    """

    name: str
    version: int
    grade: Callable[[str, str], Grade]
    gold_problem: Callable[[str], str | None] = _no_problem
    fast: Callable[[str, str], Grade | None] = _undecided
    normalised: Callable[[str], str] = str.strip
    choices: bool = False
    wants: Wants = "answer"
    warm: Callable[[], None] = _nothing
    libraries: tuple[str, ...] = ()

    @property
    def checks_gold(self) -> bool:
        """Whether there is a `gold_problem` to ask for."""
        return self.gold_problem is not _no_problem
