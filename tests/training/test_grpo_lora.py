"""GRPO of a LoRA: what it learns, what servers are brought, and what it leaves."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gen_service.errors import SpecError
from gen_service.tiny_model import CHECKPOINT
from gen_service.training.grpo import train_grpo
from gen_service.training.grpo_spec import load_grpo_spec
from gen_service.training.metrics_file import read_metrics

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("trl")

Document = Callable[..., dict[str, Any]]
LORA = {"path": str(CHECKPOINT), "lora": {"rank": 4, "alpha": 16}}
IDS = torch.arange(7, 27)[None]


def by_place(completions: list[Any], **_: Any) -> list[float]:
    return [float(place % 2) for place in range(len(completions))]


@pytest.fixture
def lora_document(grpo_document: Document, monkeypatch: pytest.MonkeyPatch) -> Document:
    """The spec of a run of a LoRA that learns something in each step."""
    monkeypatch.setitem(sys.modules, "rewards_of_this_test", sys.modules[__name__])

    def document(steps: int, **values: Any) -> dict[str, Any]:
        optimiser = grpo_document()["optimiser"] | {"learning_rate": 3e-2, "steps": steps}
        # The tiny model is sure of how an answer begins: hotter, the responses to a prompt differ from the first word.
        common = {"model": LORA, "rewards": ["rewards_of_this_test:by_place"], "sampling": {"temperature": 1.5}}
        return grpo_document(**common | {"optimiser": optimiser} | values)

    return document


def logits(model: Any) -> Any:
    with torch.no_grad():
        return model.eval()(IDS).logits


def loaded(folder: Path) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def test_a_lora_goes_through_stages_and_is_merged_or_left_beside(lora_document: Document) -> None:
    from peft import PeftModel

    stages = [{"max_tokens": 12, "steps": 1}, {"max_tokens": 16, "steps": 2}]
    document = lora_document(3, stages=stages, loss={"beta": 0.05}, save="adapter")
    report = train_grpo(load_grpo_spec(None, document))
    run = Path(document["run"]["path"], document["run"]["name"])
    assert {path.name for path in report.model.iterdir() if "adapter" in path.name} == {
        "adapter_config.json",
        "adapter_model.safetensors",
    }
    assert not list(report.model.glob("*.pt")), "the optimiser is no part of the result"
    assert not (run / "checkpoints" / "checkpoint-3" / "model.safetensors").exists()
    # The KL divergence is from the model that the run started from, in the second stage as in the first.
    measured = [line["kl"] for line in read_metrics(run / "metrics.jsonl") if "kl" in line]
    assert len(measured) == 3
    assert measured[0] == pytest.approx(0.0, abs=1e-9)
    assert measured[1] > 1e-6
    beside = logits(PeftModel.from_pretrained(loaded(CHECKPOINT), report.model))
    assert not torch.allclose(beside, logits(loaded(CHECKPOINT)), atol=0.05)
    merged = lora_document(3, stages=stages, loss={"beta": 0.05}, run=document["run"] | {"name": "merged"})
    result = train_grpo(load_grpo_spec(None, merged)).model
    assert not list(result.glob("adapter*"))
    # What is merged is stored in the dtype of the model that it began as.
    assert torch.allclose(beside, logits(loaded(result)), atol=0.15)
    assert transformers.AutoTokenizer.from_pretrained(result).chat_template


def test_servers_are_brought_whole_weights_with_the_lora_in_them(lora_document: Document, own_model: Any) -> None:
    from safetensors.torch import load_file

    brought: list[set[str]] = []
    names: list[set[str]] = []
    said: list[Any] = []
    publish = own_model.publish

    def looked_at(folder: Path, version: int) -> None:
        brought.append({path.name for path in folder.iterdir()})
        names.append(set(load_file(folder / "model.safetensors")))
        said.append(logits(loaded(folder)))
        publish(folder, version)

    own_model.publish = looked_at
    document = lora_document(3, sampling={}, prompts_per_step=4, max_tokens=48)
    train_grpo(load_grpo_spec(None, document), source=own_model)
    lines = read_metrics(Path(document["run"]["path"], document["run"]["name"], "metrics.jsonl"))
    steps = [line for line in lines if "sampling/logprob_gap" in line]
    assert own_model.published == [0, 1, 2]
    assert all("config.json" in files and not any("adapter" in file for file in files) for files in brought)
    assert names == [set(load_file(CHECKPOINT / "model.safetensors"))] * 3
    assert [line["sampling/logprob_gap"] < 1e-4 for line in steps] == [True] * 3, "sampled with other weights"
    assert torch.equal(said[0], logits(loaded(CHECKPOINT)))
    assert not torch.allclose(said[0], said[2], atol=0.05), "nothing was learned"


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"save": "adapter"}, "save"),
        ({"model": {"path": str(CHECKPOINT), "lora": {"targets": ["q_proj", "lm_head"]}}}, "model.lora.targets"),
    ],
)
def test_what_a_lora_cannot_be_is_told(values: dict[str, Any], field: str, grpo_document: Document) -> None:
    with pytest.raises(SpecError) as caught:
        load_grpo_spec(None, grpo_document(**values))
    assert caught.value.field == field


def test_a_fleet_may_sample_for_a_lora(grpo_document: Document) -> None:
    rollouts = {"source": "fleet", "endpoints": {"urls": "http://a:1"}, "shared_folder": "/shared"}
    spec = load_grpo_spec(None, grpo_document(model=LORA, rollouts=rollouts))
    assert spec.model.lora is not None
    assert spec.rollouts.source == "fleet"
