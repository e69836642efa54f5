"""SFT on traces: the loss, the run from beginning to result, and what is refused before it begins."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from gen_service.errors import SpecError
from gen_service.records import Trace
from gen_service.tiny_model import CHECKPOINT
from gen_service.training.metrics_file import read_metrics
from gen_service.training.record_file import read_record
from gen_service.training.sft_spec import SftSpec, load_sft_spec

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("trl")

Train = Callable[..., list[str]]
MakeSpec = Callable[..., SftSpec]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def job(
    solved: Callable[[int], list[Trace]],
    publish: Callable[[Path, Sequence[Trace]], str],
    tmp_path_factory: pytest.TempPathFactory,
) -> str:
    return publish(tmp_path_factory.mktemp("traces") / "job", solved(40))


@pytest.fixture
def spec_of(job: str, tmp_path: Path) -> MakeSpec:
    def make(**sections: Any) -> SftSpec:
        document: dict[str, Any] = {
            "model": {"path": str(CHECKPOINT)},
            "traces": {"paths": [job]},
            "optimiser": {"learning_rate": 1e-3, "batch": 4, "steps": 6},
            "run": {"path": str(tmp_path / "runs"), "name": "run", "log_steps": 1, "checkpoint_steps": 4},
            "answer_break": "\n",
        }
        for name, section in sections.items():
            document[name] = document.get(name, {}) | section if isinstance(section, dict) else section
        return load_sft_spec(None, document)

    return make


@pytest.fixture
def train() -> Train:
    """Trains, and gives the lines that were said."""
    from gen_service.training.sft import train_sft

    def run(spec: SftSpec) -> list[str]:
        lines: list[str] = []
        train_sft(spec, lines.append)
        return lines

    return run


def weights_of(folder: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return dict(load_file(folder / "model.safetensors"))


def plain_loss(model: Any, rows: list[dict[str, list[int]]]) -> Any:
    """The mean of -log p of each token with a label, given those before it: row by row, nothing padded."""
    losses = []
    for row in rows:
        logits = model(torch.tensor([row["input_ids"]])).logits[0]
        for position, label in enumerate(row["labels"][1:]):
            if label != -100:
                losses.append(-torch.log_softmax(logits[position].double(), dim=0)[label])
    return torch.stack(losses).mean()


def test_the_loss_of_a_batch_is_that_of_plain_torch(spec_of: MakeSpec, tmp_path: Path) -> None:
    from gen_service.training.chat import ChatFormat
    from gen_service.training.example_files import example_files
    from gen_service.training.models import load_tokenizer
    from gen_service.training.sft import sft_arguments, sft_trainer
    from gen_service.training.trace_examples import TraceExamples

    spec = spec_of(optimiser={"batch": 5, "accumulate": 3})
    tokenizer = load_tokenizer(spec.model)
    examples = TraceExamples(spec.traces, ChatFormat(tokenizer, "\n"), 2048)
    files = example_files(tmp_path / "examples", examples, "one")
    trainer = sft_trainer(spec, sft_arguments(spec, tmp_path, 2048, evaluates=False), files, tokenizer, [])
    rows = [trainer.train_dataset[number] for number in range(15)]
    assert len({len(row["input_ids"]) for row in rows}) > 3  # so that batches are padded
    model = trainer.model.eval()
    with torch.no_grad():
        ours = trainer.compute_loss(model, trainer.data_collator(rows[:5]))
        assert float(ours) == pytest.approx(float(plain_loss(model, rows[:5])), abs=1e-5)
        # A step of three batches weighs each token alike, however the rows are spread over the batches.
        tokens = sum(label != -100 for row in rows for label in row["labels"])
        parts = [trainer.data_collator(rows[start : start + 5]) for start in (0, 5, 10)]
        step = sum(float(trainer.compute_loss(model, part, num_items_in_batch=tokens)) for part in parts)
        assert step == pytest.approx(float(plain_loss(model, rows)), abs=1e-5)


def test_a_run_leaves_a_model_that_loads_and_a_record(spec_of: MakeSpec, train: Train) -> None:
    spec = spec_of(traces={"held_out": 0.2}, optimiser={"steps": 10}, run={"device_hour_price": 3.0})
    lines = train(spec)
    folder = Path(spec.run.path) / "run"
    metrics = read_metrics(folder / "metrics.jsonl")
    steps = [line for line in metrics if "loss" in line]
    assert [line["step"] for line in steps] == list(range(1, 11))
    assert [line["step"] for line in metrics if "eval_loss" in line] == [4, 8, 10]
    assert steps[-1]["tokens"] > steps[0]["tokens"] > 0
    assert all(line["tokens_per_second"] > 0 for line in steps)
    assert [line["samples"] for line in steps[:5]] == [4, 8, 12, 16, 20]
    record = read_record(folder)
    assert record["finished"] == 10
    assert record["notes"]["examples"]["train"] + record["notes"]["examples"]["held_out"] == 40
    assert record["dollars"] == pytest.approx(record["device_seconds"] / 3600 * 3.0)
    assert [path.name for path in sorted((folder / "checkpoints").glob("checkpoint-*"))] == [
        "checkpoint-10",
        "checkpoint-8",
    ]
    model = transformers.AutoModelForCausalLM.from_pretrained(folder / "model", dtype="auto")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder / "model")
    assert model.dtype == torch.bfloat16  # as the model it began as
    assert tokenizer.chat_template == transformers.AutoTokenizer.from_pretrained(CHECKPOINT).chat_template
    assert model.generation_config.eos_token_id == [tokenizer.eos_token_id]
    start = weights_of(CHECKPOINT)
    assert any(not torch.equal(start[name], tensor) for name, tensor in weights_of(folder / "model").items())
    assert any(line.startswith("traces: read 40, kept 40 (") for line in lines)
    assert train(spec) == [f"nothing to do: {folder / 'model'} is of step 10, the last"]


def test_a_student_from_nothing_learns(spec_of: MakeSpec, train: Train, tmp_path: Path) -> None:
    config = transformers.AutoConfig.from_pretrained(CHECKPOINT, dtype="float32")
    transformers.set_seed(1)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "student")
    transformers.AutoTokenizer.from_pretrained(CHECKPOINT).save_pretrained(tmp_path / "student")
    spec = spec_of(
        model={"path": str(tmp_path / "student")}, optimiser={"steps": 30, "learning_rate": 3e-3, "batch": 8}
    )
    train(spec)
    losses = [line["loss"] for line in read_metrics(tmp_path / "runs/run/metrics.jsonl") if "loss" in line]
    assert losses[0] > 5.0  # ln 362 is 5.9
    assert losses[-1] < 0.6 * losses[0]


def test_what_a_kill_between_the_last_checkpoint_and_the_result_lost_is_made_from_it(
    spec_of: MakeSpec, train: Train
) -> None:
    spec = spec_of(optimiser={"steps": 6})
    train(spec)
    folder = Path(spec.run.path) / "run"
    before = weights_of(folder / "model")
    shutil.rmtree(folder / "model")
    record = folder / "run.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | {"finished": None}))
    (folder / "checkpoints" / "checkpoint-7").mkdir()
    lines = train(spec)
    assert "removed checkpoint-7, which was half-written" in lines
    assert "going on from step 6" in lines
    after = weights_of(folder / "model")
    assert all(torch.equal(before[name], tensor) for name, tensor in after.items())
    assert [line["step"] for line in read_metrics(folder / "metrics.jsonl") if "loss" in line] == list(range(1, 7))


def test_a_finished_run_goes_on_when_it_shall_make_more_steps(spec_of: MakeSpec, train: Train) -> None:
    options: dict[str, Any] = {"schedule": "constant", "warmup": 0.0}
    train(spec_of(optimiser=options | {"steps": 4}))
    more = spec_of(optimiser=options | {"steps": 8})
    train(more)
    whole = spec_of(optimiser=options | {"steps": 8}, run={"name": "whole"})
    train(whole)
    runs = Path(more.run.path)
    assert [line["step"] for line in read_metrics(runs / "run" / "metrics.jsonl") if "loss" in line] == list(
        range(1, 9)
    )
    whole_weights = weights_of(runs / "whole" / "model")
    for name, tensor in weights_of(runs / "run" / "model").items():
        assert torch.equal(tensor, whole_weights[name])


def test_a_job_that_grows_leaves_a_run_as_it_is_and_one_that_is_another_ends_it(
    spec_of: MakeSpec,
    train: Train,
    solved: Callable[[int], list[Trace]],
    publish: Callable[[Path, Sequence[Trace]], str],
    tmp_path: Path,
) -> None:
    from gen_service.training.sft_dry_run import sft_dry_run

    job = publish(tmp_path / "job", solved(12))
    spec = spec_of(traces={"paths": [job]}, optimiser={"steps": 1})
    train(spec)
    record = Path(spec.run.path) / "run" / "run.json"
    assert read_record(record.parent)["data"][job]["parts"] == 1
    publish(tmp_path / "job", solved(20)[12:])
    publish(tmp_path / "job", solved(24)[20:])
    said = train(spec)
    assert said[0] == f"{job} has published 2 more files of traces since; this run learns from those it began with"
    assert said[1].startswith("nothing to do")
    assert any("read 12, kept 12" in line for line in sft_dry_run(spec))
    assert any("read 24, kept 24" in line for line in sft_dry_run(spec.model_copy(update={"run": other_run(spec)})))
    first = tmp_path / "job" / "manifest" / "000001.json"
    first.write_text(first.read_text().replace('"sha256": "', '"sha256": "0'))
    with pytest.raises(SpecError, match="has changed") as caught:
        train(spec)
    assert (caught.value.field, caught.value.value) == ("data", job)


def other_run(spec: SftSpec) -> Any:
    return spec.run.model_copy(update={"name": "other"})


@pytest.mark.parametrize("save", ["merged", "adapter"])
def test_a_lora_is_merged_or_left_beside(save: str, spec_of: MakeSpec, train: Train) -> None:
    spec = spec_of(model={"lora": {"rank": 4, "alpha": 8}}, save=save, optimiser={"learning_rate": 1e-2})
    train(spec)
    folder = Path(spec.run.path) / "run" / "model"
    assert (folder / "adapter_config.json").exists() == (save == "adapter")
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    start = transformers.AutoModelForCausalLM.from_pretrained(CHECKPOINT, dtype=torch.float32)
    ids = torch.arange(7, 27)[None]
    with torch.no_grad():
        assert not torch.allclose(model(ids).logits, start(ids).logits, atol=0.05)
    assert transformers.AutoTokenizer.from_pretrained(folder).chat_template


def test_a_packed_run_sees_each_trace_alone(spec_of: MakeSpec, train: Train) -> None:
    checkpointed = {"batch": 2, "steps": 6, "gradient_checkpointing": True}
    spec = spec_of(packing=True, context=300, traces={"held_out": 0.2}, optimiser=checkpointed)
    lines = train(spec)
    metrics = read_metrics(Path(spec.run.path) / "run" / "metrics.jsonl")
    losses = [line["loss"] for line in metrics if "loss" in line]
    assert len(losses) == 6
    # The checkpoint has learned such traces one by one: in front of each other they would surprise it.
    assert max(losses + [line["eval_loss"] for line in metrics if "eval_loss" in line]) < 0.1
    # Two rows of 300 tokens a step, nearly full.
    steps = [line["tokens"] for line in metrics if "loss" in line]
    assert steps[0] > 0.9 * 600
    assert any("kept 40" in line for line in lines)


def test_tensorboard_is_told_where_it_is_installed(spec_of: MakeSpec, train: Train) -> None:
    pytest.importorskip("tensorboard")
    train(spec_of(run={"report_to": ["tensorboard"]}))
    assert list((Path(spec_of().run.path) / "run" / "tensorboard").glob("events.*"))


def test_packing_keeps_traces_whole_and_apart(spec_of: MakeSpec, tmp_path: Path) -> None:
    from trl import pack_dataset

    from gen_service.training.chat import ChatFormat
    from gen_service.training.example_files import example_files
    from gen_service.training.models import load_tokenizer
    from gen_service.training.sft import sft_arguments
    from gen_service.training.trace_examples import TraceExamples

    datasets = pytest.importorskip("datasets")
    spec = spec_of(packing=True, context=300)
    arguments = sft_arguments(spec, tmp_path, 300, evaluates=False)
    examples = TraceExamples(spec.traces, ChatFormat(load_tokenizer(spec.model), "\n"), 300)
    files = example_files(tmp_path / "examples", examples, "one")
    rows = datasets.Dataset.from_file(str(files.train))
    packed = pack_dataset(rows, arguments.max_length, arguments.packing_strategy)
    assert len(packed) < len(rows)
    traces = sorted(tuple(ids) for ids in rows["input_ids"])
    unpacked = []
    for row in packed:
        assert len(row["input_ids"]) <= 300
        start = 0
        for length in row["seq_lengths"]:
            unpacked.append(tuple(row["input_ids"][start : start + length]))
            start += length
    assert sorted(unpacked) == traces


REFUSED = [
    ({"packing": True, "model": {"attention": "no such attention"}}, "packing"),
    ({"save": "adapter"}, "save"),
    ({"context": 4096}, "context"),
    ({"model": {"path": "/nowhere/at/all"}}, "model.path"),
    ({"model": {"chat_template": "/nowhere.jinja"}}, "model.chat_template"),
    ({"run": {"report_to": ["trackio"]}}, "run.report_to"),
    ({"optimiser": {"batch": 0}}, "optimiser.batch"),
    ({"optimizer": {}}, "optimizer"),
]


@pytest.mark.parametrize(("change", "field"), REFUSED)
def test_what_cannot_be_is_refused_as_the_spec_is_read(change: dict[str, Any], field: str, spec_of: MakeSpec) -> None:
    with pytest.raises(SpecError) as caught:
        spec_of(**change)
    assert caught.value.field == field


def without_template(folder: Path) -> dict[str, Any]:
    shutil.copytree(CHECKPOINT, folder / "bare")
    (folder / "bare" / "chat_template.jinja").unlink()
    return {"model": {"path": str(folder / "bare")}}


LATER: list[tuple[Callable[[Path], dict[str, Any]], str]] = [
    (without_template, "model.chat_template"),
    (lambda _: {"context": 8}, "traces"),
    (lambda _: {"traces": {"sources": ["elsewhere"]}}, "traces"),
    (lambda folder: {"traces": {"paths": [str(folder)]}}, "traces.paths"),
    (lambda _: {"optimiser": {"schedule": "sinus"}}, "optimiser.schedule"),
    (lambda _: {"model": {"attention": "flash_attention_2"}}, "model.attention"),
    (lambda _: {"model": {"attention": "no such attention"}}, "model.attention"),
]
if not torch.cuda.is_available():  # on a CPU it has no backward
    LATER.append((lambda _: {"model": {"attention": "flex_attention"}}, "model.attention"))


@pytest.mark.parametrize(("change", "field"), LATER)
def test_what_cannot_be_is_refused_before_a_step_is_made(
    change: Callable[[Path], dict[str, Any]], field: str, spec_of: MakeSpec, train: Train, tmp_path: Path
) -> None:
    with pytest.raises(SpecError) as caught:
        train(spec_of(**change(tmp_path)))
    assert caught.value.field == field
    assert not list(tmp_path.glob("runs/run/checkpoints/*"))
    assert not list(tmp_path.glob("runs/run/metrics.jsonl"))


def test_a_dry_run_shows_all_and_writes_nothing(spec_of: MakeSpec, tmp_path: Path) -> None:
    from gen_service.training.sft_dry_run import sft_dry_run

    lines = list(sft_dry_run(spec_of(traces={"max_tokens": 80})))
    shown = "\n".join(lines)
    assert "learning_rate: 0.001" in shown
    assert "left out: too_long" in shown
    prompt, completion = shown.split("--- completion, ")
    assert prompt.endswith("<|assistant|>\n")
    assert "tokens without loss" in prompt
    assert completion.split("\n", 1)[1].startswith("<think>\n")
    assert completion.endswith("<|end|>\n---")
    assert not (tmp_path / "runs").exists()


def test_nobody_is_told_of_a_run(spec_of: MakeSpec, train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    from trl.trainer import base_trainer

    told: list[object] = []
    monkeypatch.delenv("CI", raising=False)  # where TRL tells nobody anyhow
    monkeypatch.setattr(base_trainer, "send_telemetry", lambda *args, **more: told.append((args, more)))
    train(spec_of())
    assert told == []
