"""GRPO runs of the tiny model in this process: rewards, filtering, rollouts from a source, stages, errors."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from gen_service.errors import SpecError, TrainingError
from gen_service.tiny_model import CHECKPOINT
from gen_service.training.grpo import total_steps, train_grpo
from gen_service.training.grpo_spec import load_grpo_spec
from gen_service.training.metrics_file import read_metrics

torch = pytest.importorskip("torch")
pytest.importorskip("trl")

RECIPES = Path(__file__).parents[2] / "deploy" / "training" / "recipes"
Document = Callable[..., dict[str, Any]]


def run_folder(document: dict[str, Any]) -> Path:
    return Path(document["run"]["path"], document["run"]["name"])


def steps_of(document: dict[str, Any]) -> list[dict[str, Any]]:
    """The lines of the metrics that are of a step; the last sums up."""
    return [line for line in read_metrics(run_folder(document) / "metrics.jsonl") if "reward_std" in line]


def completions_of(document: dict[str, Any], step: int) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(run_folder(document) / "completions" / f"{step:08}.parquet").to_pylist()
    return rows


def none_after_the_trial(completions: list[Any], trainer_state: Any, **_: Any) -> list[Any]:
    """A number for what is made up before training, and None for each real response."""
    is_training = type(trainer_state).__name__ == "TrainerState"
    return [None if is_training else 0.0] * len(completions)


def always_one(completions: list[Any], **_: Any) -> list[float]:
    return [1.0] * len(completions)


def by_place(completions: list[Any], **_: Any) -> list[float]:
    return [float(place % 2) for place in range(len(completions))]


@pytest.fixture
def own_rewards(monkeypatch: pytest.MonkeyPatch) -> str:
    """This module under a name that a spec can give."""
    monkeypatch.setitem(sys.modules, "rewards_of_this_test", sys.modules[__name__])
    return "rewards_of_this_test"


def test_a_run_through_two_stages_is_one_log_and_ends_in_a_model(grpo_document: Document) -> None:
    document = grpo_document(
        rewards=["accuracy", {"name": "format", "weight": 0.5}, {"name": "overlong", "weight": 0.1}],
        stages=[
            {"max_tokens": 32, "steps": 1},
            {"max_tokens": 56, "steps": 2, "generations": 8, "prompts_per_step": 1},
        ],
        filtering={"mode": "resample", "most_tries": 1},
    )
    del document["optimiser"]["steps"]
    said: list[str] = []
    report = train_grpo(load_grpo_spec(None, document), said.append)
    steps = steps_of(document)
    assert report.step == 3
    assert [line["step"] for line in steps] == [1, 2, 3]
    assert [line["stage"] for line in steps] == [0, 1, 1]
    assert [line["max_tokens"] for line in steps] == [32, 56, 56]
    assert all(line["completions/max_length"] <= line["max_tokens"] for line in steps)
    rows = completions_of(document, 3)
    assert len(rows) == 8
    assert {row["prompt_id"] for row in rows} == {rows[0]["prompt_id"]}
    for row in rows:
        parts = row["rewards/accuracy"], 0.5 * row["rewards/format"], 0.1 * row["rewards/overlong"]
        assert row["reward"] is None or row["reward"] == pytest.approx(sum(part or 0.0 for part in parts))
        assert row["rewards/accuracy"] == {"correct": 1.0, "incorrect": 0.0}.get(
            row["verdict"], row["rewards/accuracy"]
        )
        assert (row["version"], row["staleness"], row["stage"]) == (2, 0, 1)
    assert (report.model / "model.safetensors").is_file()
    again: list[str] = []
    assert train_grpo(load_grpo_spec(None, document), again.append).step == 3
    assert any("nothing to do" in line for line in again)


def test_rollouts_of_a_source_bring_their_version_and_their_log_probabilities(
    grpo_document: Document, own_model: Any
) -> None:
    document = grpo_document(optimiser=grpo_document()["optimiser"] | {"learning_rate": 1e-3, "steps": 3})
    train_grpo(load_grpo_spec(None, document), source=own_model)
    steps = steps_of(document)
    assert own_model.published == [0, 1, 2]
    assert [{row["version"] for row in completions_of(document, step)} for step in (1, 2, 3)] == [{0}, {1}, {2}]
    assert all(line["rollouts/staleness_max"] == 0 for line in steps)
    assert all(line["sampling/logprob_gap"] < 1e-4 for line in steps), "sampled with other weights than it learns with"


def test_with_staleness_one_the_next_batch_is_sampled_while_this_one_is_learned_from(
    grpo_document: Document, own_model: Any
) -> None:
    optimiser = grpo_document()["optimiser"] | {"steps": 3}
    document = grpo_document(optimiser=optimiser, rollouts={"source": "trl", "staleness": 1})
    train_grpo(load_grpo_spec(None, document), source=own_model)
    ages = [{row["staleness"] for row in completions_of(document, step)} for step in (1, 2, 3)]
    assert ages == [{0}, {1}, {1}]
    assert own_model.asked == [2, 2, 2], "a batch was sampled that nobody learns from"
    assert all(row["learned_from"] or row["reward"] is None for row in completions_of(document, 3))


def test_weights_that_did_not_reach_the_source_end_the_run(
    grpo_document: Document, own_model: Any, own_rewards: str
) -> None:
    own_model.publish = lambda folder, version: own_model.published.append(version)
    optimiser = grpo_document()["optimiser"] | {"learning_rate": 1e-2, "steps": 6}
    document = grpo_document(optimiser=optimiser, rewards=[f"{own_rewards}:by_place"], loss={"logprob_gap": 0.01})
    with pytest.raises(TrainingError, match=r"loss\.logprob_gap"):
        train_grpo(load_grpo_spec(None, document), source=own_model)
    assert own_model.published[-1] > 0, "the first batch already was too far off"


def test_rewards_that_are_none_from_some_step_on_end_the_run(grpo_document: Document, own_rewards: str) -> None:
    document = grpo_document(rewards=[f"{own_rewards}:none_after_the_trial"], none_steps=1)
    with pytest.raises(TrainingError, match=r"no response had a reward.*none_after_the_trial"):
        train_grpo(load_grpo_spec(None, document))
    assert steps_of(document) == []


def test_a_batch_that_teaches_nothing_moves_no_weight(grpo_document: Document, own_rewards: str) -> None:
    from transformers import AutoModelForCausalLM

    optimiser = grpo_document()["optimiser"] | {"weight_decay": 0.1, "learning_rate": 0.1}
    document = grpo_document(
        rewards=[f"{own_rewards}:always_one"], filtering={"mode": "drop"}, max_tokens=8, optimiser=optimiser
    )
    model = train_grpo(load_grpo_spec(None, document)).model
    before, after = (AutoModelForCausalLM.from_pretrained(path).state_dict() for path in (CHECKPOINT, model))
    assert [line["rollouts/learned_from"] for line in steps_of(document)] == [0.0, 0.0]
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_stage_may_end_by_what_was_cut_off(grpo_document: Document) -> None:
    document = grpo_document(
        stages=[
            {"max_tokens": 4, "truncated_share": 0.9, "window": 1, "steps": 50},
            {"max_tokens": 8, "steps": 1},
        ],
        optimiser=grpo_document()["optimiser"] | {"steps": 2},
    )
    said: list[str] = []
    train_grpo(load_grpo_spec(None, document), said.append)
    assert [line["stage"] for line in steps_of(document)] == [0, 1]
    assert "stage 1 is over at step 1: too many responses were cut off" in said


@pytest.mark.parametrize(("gold", "words"), [("\\frac{1}{", "graded"), (None, "gold answer")])
def test_golds_that_nothing_can_be_compared_with_are_told_before_torch_is_there(
    gold: str | None, words: str, grpo_document: Document, tmp_path: Path
) -> None:
    prompts = tmp_path / "bad.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": f"What is {n}?", "answer": gold}) + "\n" for n in range(3)))
    document = grpo_document(prompts=str(prompts))
    code = (
        "import json, sys\n"
        "from gen_service.errors import SpecError\n"
        "from gen_service.training.grpo import train_grpo\n"
        "from gen_service.training.grpo_spec import load_grpo_spec\n"
        "try:\n    train_grpo(load_grpo_spec(None, json.loads(sys.argv[1])))\n"
        "except SpecError as error:\n    print(error.field, '|', error, '|', 'torch' in sys.modules)\n"
    )
    said = subprocess.run(
        [sys.executable, "-c", code, json.dumps(document)], capture_output=True, text=True, check=True, timeout=120
    ).stdout
    assert said.startswith("prompts.path |")
    assert words in said
    assert said.rstrip().endswith("| False")
    assert not run_folder(document).exists()


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"generations": 1}, "generations"),
        ({"max_tokens": 100_000}, "max_tokens"),
        ({"model": "/no/such/model"}, "model.path"),
        ({"rewards": ["accuracy", "accuracy"]}, "rewards"),
        ({"verification": {"enabled": False}}, "verification.enabled"),
        ({"filtering": {"mode": "drop", "by": "format"}}, "filtering.by"),
        ({"steps_per_batch": 2, "run": {"name": "a", "checkpoint_steps": 3}}, "run.checkpoint_steps"),
        ({"stages": [{"max_tokens": 8, "steps": 3}], "steps_per_batch": 2}, "stages.0.steps"),
        ({"optimiser": {"batch": 3}}, "optimiser.batch"),
        ({"optimiser": {"accumulate": 2}}, "optimiser.accumulate"),
        ({"rollouts": {"source": "fleet"}}, "rollouts"),
        (
            {"rollouts": {"source": "fleet", "endpoints": {"urls": "http://a:1"}}, "sampling": {"top_k": 5}},
            "sampling.top_k",
        ),
        ({"rollouts": {"source": "fleet", "endpoints": {"urls": "http://a:1"}}}, "rollouts.shared_folder"),
        ({"stages": [{"max_tokens": 8}]}, "stages.0"),
        ({"loss": {"loss_type": "ppo"}}, "loss.loss_type"),
    ],
)
def test_a_wrong_spec_names_its_field(values: dict[str, Any], field: str, grpo_document: Document) -> None:
    with pytest.raises(SpecError) as caught:
        load_grpo_spec(None, grpo_document(**values))
    assert caught.value.field == field


def test_the_steps_of_a_run_are_its_own_or_its_stages_or_of_its_epochs(grpo_document: Document) -> None:
    optimiser = {"batch": 8, "epochs": 1.5}
    stages = [{"max_tokens": 8, "steps": 4}, {"max_tokens": 16, "steps": 6}]
    assert total_steps(load_grpo_spec(None, grpo_document()), 24) == 2
    assert total_steps(load_grpo_spec(None, grpo_document(optimiser=optimiser, stages=stages)), 24) == 10
    assert total_steps(load_grpo_spec(None, grpo_document(optimiser=optimiser)), 24) == 18
    assert (
        total_steps(load_grpo_spec(None, grpo_document(optimiser=optimiser, steps_per_batch=2, run={"name": "a"})), 3)
        == 4
    )


@pytest.mark.parametrize("recipe", sorted(RECIPES.glob("*grpo*.yaml")), ids=lambda path: path.stem)
def test_the_recipes_are_specs_that_hold_together(recipe: Path) -> None:
    spec = load_grpo_spec(recipe)
    assert total_steps(spec, 40_000) > 0
    assert [stage.max_tokens for stage in spec.stages] == sorted(stage.max_tokens for stage in spec.stages)
