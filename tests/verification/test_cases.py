"""The labelled verification cases are well formed, distinct and broad enough to judge a grader on."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent / "cases"
NAMES = ("development", "held_out", "held_out_2")
FIELDS = {"gold": str, "pred": str, "expected": int, "kind": str, "level": str, "origin": str}
KINDS = {
    "number",
    "fraction",
    "symbolic",
    "percent",
    "equation",
    "inequality",
    "interval/pair",
    "list/set",
    "matrix",
    "mcq",
    "text/unit/base",
}
GROUPS = {
    "number",
    "symbolic",
    "radical/trig",
    "equation",
    "interval/ineq",
    "set/tuple",
    "set/interval",
    "matrix/const/approx",
    "unit/text/percent",
    "unit/text/hack",
    "extract",
}
REPORT = re.compile(r"[\w.-]+/[\w.-]+#\d+")

Case = dict[str, str | int]


def read(name: str) -> list[Case]:
    lines = (FOLDER / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def pairs(name: str) -> Iterator[tuple[str | int, str | int]]:
    return ((case["gold"], case["pred"]) for case in read(name))


@pytest.mark.parametrize("name", NAMES)
def test_fields_and_types(name: str) -> None:
    for case in read(name):
        assert {field: type(value) for field, value in case.items()} == FIELDS, case
        assert str(case["gold"]).strip(), case
        assert case["expected"] in (0, 1), case
        assert case["level"] in ("answer", "text"), case
        assert case["kind"] in KINDS, case


@pytest.mark.parametrize("name", NAMES)
def test_origins_are_groups_or_public_reports(name: str) -> None:
    for case in read(name):
        assert case["origin"] in GROUPS or REPORT.fullmatch(str(case["origin"])), case


@pytest.mark.parametrize("name", NAMES)
def test_no_control_characters_from_lost_backslashes(name: str) -> None:
    for gold, pred in pairs(name):
        assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", f"{gold}{pred}"), (gold, pred)


@pytest.mark.parametrize("name", NAMES)
def test_every_kind_group_and_level_is_present(name: str) -> None:
    cases = read(name)
    assert {case["kind"] for case in cases} == KINDS
    assert {str(case["origin"]) for case in cases} >= GROUPS
    assert {case["level"] for case in cases} == {"answer", "text"}


@pytest.mark.parametrize("name", NAMES)
def test_share_of_right_answers(name: str) -> None:
    labels = [int(case["expected"]) for case in read(name)]
    assert 0.6 < sum(labels) / len(labels) < 0.8


def test_no_pair_occurs_twice_in_or_across_the_files() -> None:
    every = [pair for name in NAMES for pair in pairs(name)]
    assert len(every) == len(set(every))


def test_enough_cases() -> None:
    assert len(read("development")) >= 400
    assert len(read("held_out")) >= 300
    assert len(read("held_out_2")) >= 400
