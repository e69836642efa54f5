"""Counting verdicts on labelled pairs, and what math-verify says of them in its process apart."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.verification import FALSE_POSITIVES, figures_of, percentiles
from benchmarks.verification_cases import (
    Case,
    Judged,
    Judgement,
    Tally,
    bare,
    evenly,
    read_cases,
    show_kinds,
    show_mislabelled,
    show_misses,
)
from benchmarks.verification_child import Child
from benchmarks.verification_judges import judged_by_math_verify
from benchmarks.verification_load import differing

# gold, pred, label, kind, and the outcomes that both sides are said to have given.
ROWS = [
    ("2", "2", 1, "number", "correct", "correct"),
    ("2", "3", 0, "number", "incorrect", "correct"),
    ("2", "[", 0, "number", "unparsable", "incorrect"),
    ("2", "4", 0, "number", "correct", "incorrect"),
    ("(1,2)", "1,2", 1, "pair", "incorrect", "correct"),
    ("(1,2)", "[b]", 1, "pair", "timeout", "ungradable"),
]


@pytest.fixture
def judged(tmp_path: Path) -> Judged:
    path = tmp_path / "made.jsonl"
    names = ("gold", "pred", "expected", "kind")
    path.write_bytes(b"\n".join(orjson.dumps(dict(zip(names, row, strict=False))) for row in ROWS) + b"\n\n")
    ours, plain = ([Judgement(row[side], "why", row[1], 1.0) for row in ROWS] for side in (4, 5))
    return Judged("made", read_cases(path), ours, plain)


def test_false_positives_and_negatives_are_counted_by_label(judged: Judged) -> None:
    ours, plain = judged.tallies()
    assert (ours.cases, ours.equal, ours.different) == (6, 3, 3)
    assert (ours.false_positives, ours.false_negatives) == (1, 2)
    assert (plain.false_positives, plain.false_negatives) == (1, 1)
    assert ours.right_percent == 50
    assert ours.false_positive_percent == pytest.approx(100 / 3)
    assert (ours.outcomes["timeout"], plain.outcomes["ungradable"]) == (1, 1)


def test_a_kind_has_its_own_counts_and_the_frequent_kind_comes_first(judged: Judged) -> None:
    assert judged.kinds == ["number", "pair"]
    number, _ = judged.tallies("number")
    pair, _ = judged.tallies("pair")
    assert (number.false_positives, number.false_negatives, number.cases) == (1, 0, 4)
    assert (pair.false_positives, pair.false_negatives, pair.cases) == (0, 2, 2)


def test_the_targets_are_on_each_files_shares(judged: Judged) -> None:
    right, wrong, *costs = figures_of([judged])
    assert (right.value, right.holds) == (50, False)
    assert (wrong.holds, FALSE_POSITIVES.holds(2.0), FALSE_POSITIVES.holds(2.1)) == (False, True, False)
    assert [cost.value for cost in costs] == [1.0, 1.0]


def test_tables_and_lists_show_every_miss_and_only_misses(judged: Judged, capsys: pytest.CaptureFixture[str]) -> None:
    show_kinds(judged)
    assert "50.0 | 66.7" in capsys.readouterr().out
    show_misses(judged)
    listed = [line.split(" ")[0] for line in capsys.readouterr().out.splitlines() if not line.startswith(" ")]
    assert listed == ["made.jsonl:4", "made.jsonl:5", "made.jsonl:6"]


def test_a_case_judged_mislabelled_is_listed_and_still_counted(
    judged: Judged, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    remarks = tmp_path / "remarks.jsonl"
    remarks.write_bytes(orjson.dumps({"gold": "2", "pred": "4", "mathematics": "modulo two"}))
    show_mislabelled(judged, remarks)
    shown = capsys.readouterr().out
    assert "modulo two" in shown
    assert "made.jsonl:4" in shown
    assert "made.jsonl:5" not in shown
    assert judged.tallies()[0].cases == len(ROWS)


@given(st.lists(st.tuples(st.booleans(), st.sampled_from(["correct", "incorrect", "timeout", "no_answer"]))))
def test_every_case_is_right_or_one_kind_of_wrong(verdicts: list[tuple[bool, str]]) -> None:
    tally = Tally()
    for expected, outcome in verdicts:
        tally.add(expected, outcome)
    right = sum((outcome == "correct") == expected for expected, outcome in verdicts)
    assert right + tally.false_positives + tally.false_negatives == tally.cases == len(verdicts)
    assert tally.right_percent == (100 * right / len(verdicts) if verdicts else 0)


@pytest.mark.parametrize(
    "line", [b"{", b"[]", b'{"gold": "1", "pred": "1"}', b'{"gold": 1, "pred": "1", "expected": 1}']
)
def test_a_line_that_is_no_case_is_named(line: bytes, tmp_path: Path) -> None:
    path = tmp_path / "cases.jsonl"
    path.write_bytes(b'{"gold": "1", "pred": "1", "expected": 1}\n' + line)
    with pytest.raises(ValueError, match=r"cases\.jsonl:2"):
        read_cases(path)


@pytest.mark.parametrize(
    ("text", "inside"),
    [("$x$", "x"), (" $$x$$ ", "x"), ("$1$, $2$", "$1$, $2$"), ("5", "5"), ("$5", "$5"), (r"\$5", r"\$5"), ("", "")],
)
def test_only_dollar_signs_around_one_formula_are_taken_off(text: str, inside: str) -> None:
    assert bare(text) == inside


@given(st.integers(0, 50), st.one_of(st.none(), st.integers(0, 60)))
def test_an_even_choice_keeps_the_order_and_repeats_nothing(count: int, at_most: int | None) -> None:
    cases = [Case(str(number), "", "", True) for number in range(count)]
    chosen = evenly(cases, at_most)
    assert len(chosen) == (count if at_most is None else min(count, at_most))
    places = [int(case.place) for case in chosen]
    assert places == sorted(set(places))


def test_a_verdict_differs_by_outcome_or_answer_but_not_by_words() -> None:
    idle = [Judgement("correct", "a", "1", 1.0), Judgement("correct", "a", "1", 1.0), Judgement("timeout", "", "1", 1)]
    busy = [Judgement("correct", "b", "1", 9.0), Judgement("timeout", "a", "1", 1.0), Judgement("timeout", "", "2", 1)]
    assert differing(idle, busy) == [1, 2]


def test_cpu_that_is_not_known_is_in_no_percentile() -> None:
    known = [Judgement("correct", "", None, cpu) for cpu in (None, 1.0, 2.0, 3.0, None)]
    assert percentiles(known) == (2.0, pytest.approx(2.98))
    assert percentiles(known[:1]) == (0.0, 0.0)


def test_math_verify_judges_apart_and_an_endless_item_costs_only_itself() -> None:
    cases = [
        Case("1", "x+1", r"\boxed{1+x}", True),
        Case("2", "x+1", r"\boxed{x}", False),
        Case("3", "5", "no idea", False, level="text"),
        Case("4", "5", "5", True),
    ]
    assert [one.outcome for one in judged_by_math_verify(cases)] == ["correct", "incorrect", "unparsable", "correct"]
    with Child(cpu_s=0.5) as child:
        endless = child.ask({"gold": "1", "pred": r"\boxed{(10^7)!}", "level": "answer"})
        after = child.ask({"gold": "1", "pred": r"\boxed{1}", "level": "answer"})
    assert endless == "timeout: CPU budget"
    assert isinstance(after, dict)
    assert after["outcome"] == "correct"
