"""The throughput mix: what a problem set holds, the spellings and the wrong answers, the completions."""

from __future__ import annotations

import re
from collections import Counter
from fractions import Fraction
from pathlib import Path

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.verification_answers import Answers, respellings, spread
from benchmarks.verification_problems import Problem, golds_of, kind_of, read_problems
from benchmarks.verification_throughput import agreement, distinct_mix, sampled_mix, warm_up_mix
from gen_service.verification.extract import extract

SMALL = read_problems(None).problems


@pytest.mark.parametrize(
    ("answer", "golds"),
    [(142.0, ("142",)), (0.5, ("0.5",)), (7, ("7",)), (" 5\n", ("5",)), (["9.6\n", "9.60"], ("9.6", "9.60"))],
)
def test_an_answer_is_read_in_every_form_that_a_set_has(answer: object, golds: tuple[str, ...]) -> None:
    assert golds_of(answer) == golds


@pytest.mark.parametrize("answer", [None, "", " \n", []])
def test_a_row_without_an_answer_is_counted_and_passed_over(answer: object, tmp_path: Path) -> None:
    rows = [{"problem": "?", "answer": answer}, {"problem": "?", "answer": "1"}]
    (tmp_path / "set.jsonl").write_bytes(b"\n".join(map(orjson.dumps, rows)))
    found = read_problems(tmp_path)
    assert ([problem.place for problem in found.problems], found.without_gold) == (["set.jsonl:2"], 1)


@pytest.mark.parametrize("folder", [None, Path("nowhere")])
def test_without_problem_sets_the_small_one_stands_in_and_says_so(
    folder: Path | None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert len(read_problems(folder).problems) > 60
    assert "built-in set" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("gold", "kind"),
    [
        ("-17", "integer"),
        (r"$\frac{3}{4}$", "number"),
        ("0.25", "number"),
        (r"32,\!348", "integer"),
        ("(1,2)", "tuple"),
        (r"\{1,2\}", "tuple"),
        ("1,2", "list"),
        ("x>3", "relation"),
        (r"\text{odd}", "text"),
        (r"2\sqrt{5}", "expression"),
        (r"\begin{pmatrix}1\\2\end{pmatrix}", "matrix"),
    ],
)
def test_kinds(gold: str, kind: str) -> None:
    assert kind_of(gold) == kind


def value_of(text: str) -> Fraction:
    """Of a number in any of the spellings that are drawn."""
    text = text.removeprefix("x = ").removesuffix(r"\text{ cm}").replace("{,}", "").replace(",", "")
    match = re.fullmatch(r"(-?)\\d?frac\{?([0-9]+?)\}?\{?([0-9]+)\}?", text)
    return Fraction(f"{match[1]}{match[2]}/{match[3]}") if match else Fraction(text)


@given(st.integers(-(10**9), 10**9), st.integers(1, 999))
def test_every_spelling_of_a_number_is_that_number(top: int, bottom: int) -> None:
    fraction = rf"{'-' if top < 0 else ''}\frac{{{abs(top)}}}{{{bottom}}}"
    for gold, value in ((str(top), Fraction(top)), (fraction, Fraction(top, bottom))):
        assert respellings(gold)
        assert {value_of(spelling) for spelling in respellings(gold)} == {value}


@pytest.mark.parametrize(
    ("gold", "spelling"),
    [
        ("2,3", "3, 2"),
        (r"\{1,2\}", r"\{2, 1\}"),
        ("(2,4)", r"\left(2,4\right)"),
        ("x^2+1", "1+x^2"),
        ("x^2+1", "x^{2}+1"),
        (r"\frac{1}{2}x", r"\frac12x"),
        (r"\text{odd}", "odd"),
        ("7", "x = 7"),
        ("7", r"7\text{ cm}"),
    ],
)
def test_usual_spellings(gold: str, spelling: str) -> None:
    assert spelling in respellings(gold)


@pytest.mark.parametrize("gold", ["(2,4)", "1,234", "a-b+c"])
def test_no_spelling_changes_an_order_that_counts(gold: str) -> None:
    assert all(one.replace(" ", "").replace(r"\left", "").replace(r"\right", "") == gold for one in respellings(gold))


def test_a_mix_is_the_same_for_a_seed_and_holds_no_pair_twice() -> None:
    items = distinct_mix(SMALL, 200)
    assert items == distinct_mix(SMALL, 200)
    assert max(Counter((item.gold, item.answer) for item in items).values()) == 1
    assert 0.2 < sum(item.expected for item in items) / len(items) < 0.8


def test_the_answer_of_every_completion_is_found_as_it_was_put_in() -> None:
    items = distinct_mix(SMALL, 264)
    assert [extract(None, item.content, "stop").answer for item in items] == [item.answer for item in items]


def test_a_wrong_answer_is_never_the_golds_text() -> None:
    items = [item for item in distinct_mix(SMALL, 264) if not item.expected]
    assert items
    assert all(item.answer != item.gold for item in items)


def test_samples_repeat_answers_but_not_prompts() -> None:
    items = sampled_mix(SMALL, 160, 8)
    assert len(items) == 160
    assert len({(item.gold, item.answer) for item in items}) < 120


def test_no_gold_of_the_warm_up_is_measured() -> None:
    items = distinct_mix(SMALL, 200)
    before = warm_up_mix(SMALL, items)
    assert before
    assert not {item.gold for item in before} & {item.gold for item in items}


def test_a_choice_takes_as_many_from_each_set_as_there_are() -> None:
    problems = [
        Problem(f"{name}:{n}", name, "?", (str(n),)) for name, n in [("few", 1), *(("many", n) for n in range(9))]
    ]
    assert Counter(problem.source for problem in spread(problems, 6)) == {"few": 1, "many": 5}


def test_agreement_counts_right_answers_called_right_and_wrong_ones_called_anything_else() -> None:
    items = Answers(SMALL).samples(SMALL[0], 4)
    verdicts = [["correct" if item.expected else "unparsable"] for item in items]
    assert agreement(items, verdicts) == 100
    assert agreement(items, [["timeout"], *verdicts[1:]]) == (75 if items[0].expected else 100)
