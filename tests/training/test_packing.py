"""Packed traces do not see each other: the loss and the gradients are those of the traces one by one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gen_service.errors import SpecError
from gen_service.tiny_model import CHECKPOINT
from gen_service.training.chat import labels_of
from gen_service.training.sft_spec import SftSpec, load_sft_spec
from gen_service.training.trace_examples import Counts, Example

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("trl")

CONTEXT = 64
LENGTHS = (40, 24, 17, 5, 31, 2, 60, 12, 9, 33, 64, 21)  # tokens; with prompts of a third


class Examples:
    """Random traces, as `TraceExamples` gives them; every sixth one is held out."""

    def __init__(self, seed: int = 0) -> None:
        self.counts = Counts()
        self._seed = seed

    def __iter__(self) -> Iterator[Example]:
        generator = torch.Generator().manual_seed(self._seed)
        for number, length in enumerate(LENGTHS):
            ids = torch.randint(7, 300, (length,), generator=generator).tolist()
            example = Example(ids[: length // 3], ids[length // 3 :], is_held_out=number % 6 == 5)
            self.counts.add(example)
            yield example


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def spec_of(tmp_path: Path) -> Callable[..., SftSpec]:
    def make(**sections: Any) -> SftSpec:
        document: dict[str, Any] = {
            "model": {"path": str(CHECKPOINT)},
            "traces": {"paths": ["unused"]},
            "optimiser": {"batch": 2, "steps": 3, "learning_rate": 1e-3},
            "run": {"path": str(tmp_path), "name": "run", "log_steps": 1, "checkpoint_steps": 2},
            "context": CONTEXT,
            "packing": True,
        }
        for name, section in sections.items():
            document[name] = document.get(name, {}) | section if isinstance(section, dict) else section
        return load_sft_spec(None, document)

    return make


@pytest.fixture
def trainer_of(tmp_path: Path) -> Callable[[SftSpec], Any]:
    from gen_service.training.example_files import example_files
    from gen_service.training.models import load_tokenizer
    from gen_service.training.sft import sft_arguments, sft_trainer

    def make(spec: SftSpec) -> Any:
        files = example_files(tmp_path / "examples", Examples(), "one")
        arguments = sft_arguments(spec, tmp_path / "checkpoints", CONTEXT, evaluates=True)
        return sft_trainer(spec, arguments, files, load_tokenizer(spec.model), [])

    return make


def one_by_one(model: Any, examples: list[Example]) -> Any:
    """The loss of traces that cannot see each other, as each is a batch of its own; every token with a label alike."""
    total, tokens = 0.0, 0
    for example in examples:
        ids = torch.tensor([example.prompt_ids + example.completion_ids])
        labels = torch.tensor(labels_of(example.prompt_ids, example.completion_ids))
        labels[0] = -100  # nothing comes before it
        logits = model(ids).logits[0, :-1]
        total = total + torch.nn.functional.cross_entropy(logits, labels[1:], ignore_index=-100, reduction="sum")
        tokens += int((labels != -100).sum())
    return total / tokens


def gradients(model: Any, loss: Any) -> dict[str, Any]:
    model.zero_grad()
    loss.backward()
    return {name: weight.grad.clone() for name, weight in model.named_parameters()}


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_packed_batch_has_the_loss_and_gradients_of_its_traces(
    attention: str, checkpointing: bool, spec_of: Callable[..., SftSpec], trainer_of: Callable[[SftSpec], Any]
) -> None:
    spec = spec_of(model={"attention": attention}, optimiser={"gradient_checkpointing": checkpointing})
    trainer = trainer_of(spec)
    examples = [example for example in Examples() if not example.is_held_out]
    rows = list(trainer.train_dataset)
    assert sorted(length for row in rows for length in row["seq_lengths"]) == sorted(
        len(example.prompt_ids + example.completion_ids) for example in examples
    )
    assert max(len(row["seq_lengths"]) for row in rows) > 2
    batch = trainer.data_collator(rows)  # several rows: they are laid end to end
    assert "attention_mask" not in batch
    assert batch["input_ids"].shape == (1, sum(LENGTHS) - 2 - 21)
    model = trainer.model.train()
    if checkpointing:
        model.gradient_checkpointing_enable(trainer.args.gradient_checkpointing_kwargs)
    ours = trainer.compute_loss(model, batch)
    of_packed = gradients(model, ours)
    expected = one_by_one(model, examples)
    assert float(ours.detach()) == pytest.approx(float(expected.detach()), abs=1e-5)
    of_each = gradients(model, expected)
    assert max(float(gradient.abs().max()) for gradient in of_each.values()) > 0.05
    for name, gradient in of_packed.items():
        torch.testing.assert_close(gradient, of_each[name], rtol=0, atol=1e-5)


# Torch's own, while it traces: dynamo looks at .grad of what is no leaf; importing its compiler defines jit methods.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning")
def test_compiled_layers_make_the_same_steps_and_are_saved_under_the_same_names(
    spec_of: Callable[..., SftSpec], trainer_of: Callable[[SftSpec], Any], tmp_path: Path
) -> None:
    from safetensors import safe_open

    from gen_service.training.compiled_layers import compile_layers

    losses, names = [], []
    for compiled in (False, True):
        trainer = trainer_of(spec_of(optimiser={"gradient_checkpointing": True}))
        if compiled:  # forward and backward traced as for the compiler, which for a CPU takes a minute
            assert compile_layers(trainer.model, backend="aot_eager") == 3
        trainer.train()
        trainer.save_model(str(tmp_path / "saved"))
        losses.append([line["loss"] for line in trainer.state.log_history if "loss" in line])
        with safe_open(tmp_path / "saved" / "model.safetensors", "pt") as file:
            names.append(sorted(file.keys()))
    torch.compiler.reset()
    assert len(losses[0]) == 3
    assert losses[1] == pytest.approx(losses[0], abs=1e-4)
    assert names[0] == names[1]


@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning")
def test_layers_are_compiled_when_the_spec_says_so(
    spec_of: Callable[..., SftSpec], trainer_of: Callable[[SftSpec], Any]
) -> None:
    for compiled in (False, True):
        layers = trainer_of(spec_of(compile=compiled)).model.model.layers
        assert [layer._compiled_call_impl is not None for layer in layers] == [compiled] * 3


def test_a_model_without_layers_cannot_be_compiled() -> None:
    from gen_service.training.compiled_layers import compile_layers

    with pytest.raises(SpecError) as caught:
        compile_layers(torch.nn.Linear(2, 2))
    assert caught.value.field == "compile"


def test_held_out_traces_are_packed_and_apart_too(
    spec_of: Callable[..., SftSpec], trainer_of: Callable[[SftSpec], Any]
) -> None:
    trainer = trainer_of(spec_of())
    held_out = [example for example in Examples() if example.is_held_out]
    assert [sorted(row["seq_lengths"]) for row in trainer.eval_dataset] == [[2, 21]]
    found = trainer.evaluate()["eval_loss"]
    with torch.no_grad():
        assert found == pytest.approx(float(one_by_one(trainer.model.eval(), held_out)), abs=1e-5)


# Torch's own, of what transformers calls and of importing its compiler.
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile:UserWarning")
@pytest.mark.filterwarnings("ignore:_compile flag on create_block_mask:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning")
@pytest.mark.parametrize("attention", ["sdpa", "eager", "flex_attention"])
def test_a_change_of_one_trace_leaves_the_logits_of_the_others(attention: str) -> None:
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    from gen_service.training.packing import check_apart

    model = transformers.AutoModelForCausalLM.from_pretrained(
        CHECKPOINT, attn_implementation=attention, dtype="float32"
    )
    collator = DataCollatorForLanguageModeling(pad_token_id=0, padding_free=True)
    lengths = [19, 30, 15]
    ids = torch.randint(7, 300, (sum(lengths),), generator=torch.Generator().manual_seed(1))
    changed = ids.clone()
    changed[19:49] = ids[19:49].flip(0)

    def logits(row: Any) -> Any:
        batch = collator([{"input_ids": row.tolist(), "labels": row.tolist(), "seq_lengths": lengths}])
        batch.pop("labels")
        return model(**batch, use_cache=False).logits[0]

    # Compiling for a CPU takes 40 s; the same code runs without.
    with torch.no_grad(), torch.compiler.set_stance("force_eager"):
        check_apart(model, collator)
        before, after = logits(ids), logits(changed)
        alone = model(ids[None, 49:]).logits[0]
    moved = (before - after).abs().amax(dim=-1)
    assert float(moved[19:49].min()) > 0.1
    assert float(torch.cat([moved[:19], moved[49:]]).max()) == 0.0
    torch.testing.assert_close(before[49:], alone, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("kind", "config"),
    [
        # Masks that are made without positions; positions that nobody looks at, twice; a state that is carried across.
        ("gpt_oss", {"num_key_value_heads": 2, "num_local_experts": 2, "num_experts_per_tok": 1, "head_dim": 16}),
        ("bloom", {"n_head": 4, "n_layer": 2}),
        ("bert", {"is_decoder": True}),
        ("falcon_mamba", {}),
    ],
)
def test_a_model_that_lets_packed_traces_see_each_other_is_found_out(kind: str, config: dict[str, Any]) -> None:
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    from gen_service.training.packing import check_apart

    sizes = {"hidden_size": 64, "intermediate_size": 64, "num_attention_heads": 4, "num_hidden_layers": 2}
    torch.manual_seed(0)
    made = transformers.AutoConfig.for_model(kind, vocab_size=64, pad_token_id=0, **sizes | config)
    model = transformers.AutoModelForCausalLM.from_config(made, attn_implementation="eager")
    with pytest.raises(SpecError, match="packed traces see each other") as caught:
        check_apart(model, DataCollatorForLanguageModeling(pad_token_id=0, padding_free=True))
    assert caught.value.field == "packing"
    assert model.training  # as it was


def test_a_leak_ends_the_run_before_its_first_step(
    spec_of: Callable[..., SftSpec],
    trainer_of: Callable[[SftSpec], Any],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    from transformers import masking_utils

    trainer = trainer_of(spec_of())
    monkeypatch.setattr(masking_utils, "find_packed_sequence_indices", lambda position_ids: None)
    with pytest.raises(SpecError, match=r"with a LlamaForCausalLM and model\.attention sdpa") as caught:
        trainer.train()
    assert caught.value.field == "packing"
    assert trainer.state.global_step == 0
    assert not list((tmp_path / "checkpoints").glob("*"))


def test_an_attention_that_nobody_knows_is_refused_as_the_spec_is_read(spec_of: Callable[..., SftSpec]) -> None:
    with pytest.raises(SpecError) as caught:
        spec_of(model={"attention": "my_own"})
    assert caught.value.field == "packing"
    assert "sdpa, eager, flex_attention" in str(caught.value)
