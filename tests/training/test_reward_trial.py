"""Reward functions are tried on made-up responses: what fails, what is named, and that nothing heavy was there yet."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gen_service.errors import SpecError
from gen_service.records import Message, Prompt
from gen_service.training.grpo_prompts import read_prompts
from gen_service.training.grpo_spec import load_grpo_spec
from gen_service.training.reward_trial import TRAINER_STATE, made_up, try_rewards

Document = Callable[..., dict[str, Any]]

CODE = """
import numpy, sys

def always_none(completions, **_):
    return [None] * len(completions)

def none_for_some(verdict, **_):
    return [1.0 if one == "correct" else None for one in verdict]

def raises(completions, **_):
    raise KeyError("solution")

def needs_another_column(completions, solution, **_):
    return [0.0] * len(completions)

def too_few(completions, **_):
    return [1.0]

def nothing(completions, **_):
    return None

def a_text(completions, **_):
    return ["good"] * len(completions)

def infinite(completions, **_):
    return [float("inf")] * len(completions)

def by_name(completions, **_):
    return {name: 1.0 for name in range(len(completions))}

def an_array(completions, **_):
    return numpy.linspace(0.0, 1.0, len(completions))

def by_group(completions, prompt_id, **_):
    groups = numpy.arange(len(completions)).reshape(-1, 4)
    assert all(len({prompt_id[place] for place in group}) == 1 for group in groups)
    return [0] * len(completions)

def uses_trl(trainer_state, log_metric, log_extra, completions, **_):
    log_metric("share", 0.5)
    log_extra("first", [one[0]["content"] for one in completions])
    return [trainer_state.global_step / trainer_state.max_steps] * len(completions)
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module of reward functions of one's own."""
    (tmp_path / "own_rewards.py").write_text(CODE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "own_rewards", raising=False)
    return "own_rewards"


def tried(document: dict[str, Any]) -> None:
    spec = load_grpo_spec(None, document)
    try_rewards(spec, read_prompts(spec.prompts).prompts)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("raises", "KeyError: 'solution'"),
        (
            "needs_another_column",
            "TypeError: needs_another_column() missing 1 required positional argument: 'solution'",
        ),
        ("too_few", "gave 1 rewards for 16 responses"),
        ("nothing", "gave None, which is no list"),
        ("a_text", "gave 'good' for a response, which is no finite number"),
        ("infinite", "gave inf for a response, which is no finite number"),
        ("by_name", "which is no list"),
    ],
)
def test_a_function_that_fails_is_named_with_what_it_did(
    name: str, words: str, own: str, grpo_document: Document
) -> None:
    with pytest.raises(SpecError) as caught:
        tried(grpo_document(rewards=["accuracy", f"{own}:{name}"]))
    assert (caught.value.field, caught.value.value) == ("rewards.1.name", f"{own}:{name}")
    assert words in caught.value.expected


@pytest.mark.parametrize("name", ["none_for_some", "an_array", "by_group", "uses_trl"])
def test_a_function_that_gives_numbers_for_some_is_taken(name: str, own: str, grpo_document: Document) -> None:
    document = grpo_document(rewards=[f"{own}:{name}"])
    assert tried(document) is None
    alone = load_grpo_spec(None, document | {"rewards": [f"{own}:always_none", f"{own}:{name}"]})
    assert try_rewards(alone, read_prompts(alone.prompts).prompts) is None


def test_functions_that_all_give_none_for_all_are_told(own: str, grpo_document: Document) -> None:
    with pytest.raises(SpecError, match="all functions gave None for each") as caught:
        tried(grpo_document(rewards=[f"{own}:always_none"]))
    assert (caught.value.field, caught.value.value) == ("rewards", [f"{own}:always_none"])


def test_a_run_ends_before_torch_is_there_and_leaves_nothing(own: str, grpo_document: Document, tmp_path: Path) -> None:
    document = grpo_document(rewards=[f"{own}:always_none"])
    code = (
        "import json, sys\n"
        "from gen_service.errors import SpecError\n"
        "from gen_service.training.grpo import train_grpo\n"
        "from gen_service.training.grpo_spec import load_grpo_spec\n"
        "try:\n    train_grpo(load_grpo_spec(None, json.loads(sys.argv[1])))\n"
        "except SpecError as error:\n    print(error.field, '|', error, '|', 'torch' in sys.modules)\n"
    )
    command = [sys.executable, "-c", code, json.dumps(document)]
    said = subprocess.run(
        command, capture_output=True, text=True, check=True, timeout=120, env={"PYTHONPATH": str(tmp_path)}
    ).stdout
    assert said.startswith("rewards |")
    assert "gave None" in said
    assert said.rstrip().endswith("| False")
    assert not Path(document["run"]["path"]).exists()


def test_options_that_one_stage_cannot_have_are_told_as_the_spec_is_read(grpo_document: Document) -> None:
    stages = [{"max_tokens": 24, "steps": 1}, {"max_tokens": 48, "steps": 1}]
    rewards = ["accuracy", {"name": "overlong", "options": {"cache": 32}}]
    with pytest.raises(SpecError, match="not from 1 to max_tokens, 24") as caught:
        load_grpo_spec(None, grpo_document(stages=stages, rewards=rewards))
    assert caught.value.field == "rewards.1.options"
    # The run's own max_tokens is no stage's where there are stages.
    assert load_grpo_spec(None, grpo_document(stages=stages[1:], rewards=rewards, max_tokens=16)).stages


def prompt(number: int, answer: str | None) -> Prompt:
    return Prompt(f"p{number}", (Message(role="user", content=f"question {number}"),), answer, "made", number + 1)


@given(
    st.lists(st.one_of(st.none(), st.sampled_from(["2", "\\frac{1}{2}", "100% {sure}"])), min_size=1, max_size=6),
    st.integers(2, 9),
    st.integers(1, 60),
)
def test_responses_of_every_kind_are_made_up_in_whole_groups(
    answers: list[str | None], generations: int, limit: int
) -> None:
    prompts = [prompt(number, answer) for number, answer in enumerate(answers)]
    rows = made_up(prompts, range(len(prompts)), generations, limit, is_verified=True)
    assert len(rows) % generations == 0
    groups = [rows[start : start + generations] for start in range(0, len(rows), generations)]
    assert all(len({row["prompt_id"] for row in group}) == 1 for group in groups)
    cut = [row for row in rows if row["finish_reason"] == "length"]
    assert cut
    assert all(len(row["completion_ids"]) == limit and row["content"] == "" for row in cut)
    assert any(row["completion"][0]["content"] == "" for row in rows)
    assert all(1 <= len(row["completion_ids"]) <= limit for row in rows)
    assert len({tuple(row) for row in rows}) == 1, "each has the same columns"
    outcomes = {row["verdict"] for row in rows}
    assert {"truncated", "no_answer"} <= outcomes
    boxed = [row for row in rows if row["verdict"] == "correct"]
    assert all(f"\\boxed{{{row['answer']}}}" in row["content"] for row in boxed)


def test_made_up_rows_have_the_columns_of_a_batch(grpo_document: Document, own: str, tmp_path: Path) -> None:
    """What a function of one's own is given while it is tried, and while it is trained with."""
    pytest.importorskip("trl")
    from gen_service.training.grpo import train_grpo

    calls = tmp_path / "calls.jsonl"
    code = (
        "import json\n"
        "def told(completions, **columns):\n"
        "    kinds = {name: type(one[0]).__name__ if isinstance(one, list) else '' for name, one in columns.items()}\n"
        f"    with open({str(calls)!r}, 'a') as file:\n"
        "        file.write(json.dumps(kinds, sort_keys=True) + '\\n')\n"
        "    return [float(place) for place in range(len(completions))]\n"
    )
    (tmp_path / "telling.py").write_text(code)
    train_grpo(load_grpo_spec(None, grpo_document(rewards=["telling:told"], max_tokens=8)))
    first, *others = [json.loads(line) for line in calls.read_text().splitlines()]
    assert len(others) == 2
    texts_or_none = {"reasoning", "extracted"}
    for one in others:
        assert one.keys() == first.keys()
        assert {name for name in one if one[name] != first[name]} <= texts_or_none


def test_the_state_that_is_told_is_transformers_own() -> None:
    transformers = pytest.importorskip("transformers")
    state = transformers.TrainerState()
    assert TRAINER_STATE.keys() == {one.name for one in dataclasses.fields(state)}
    assert all(
        isinstance(TRAINER_STATE[one.name], int | float)
        for one in dataclasses.fields(state)
        if isinstance(getattr(state, one.name), int | float) and not isinstance(getattr(state, one.name), bool)
    )
    assert np.isfinite(TRAINER_STATE["global_step"] / TRAINER_STATE["max_steps"])
