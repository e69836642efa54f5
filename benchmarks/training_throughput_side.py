"""One side of the training benchmark in a process of its own: our SFT, or TRL as its documentation shows it.

Reads what to do as JSON from its input, prints what it measured as JSON. `prepare` makes the model once and says which
device there is. A step is timed from the end of the one before, with the data that it waits for, and the device is
waited for at each end.
"""

from __future__ import annotations

import json
import platform
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import datasets
import torch
from transformers import AutoModelForCausalLM, Qwen2Config, TrainerCallback, set_seed
from trl import SFTConfig

from benchmarks.measurement import peak_bytes
from benchmarks.training_throughput_work import SHAPES, MadeUpTraces, Work
from gen_service.tiny_model import CHECKPOINT
from gen_service.training.example_files import ExampleFiles, example_files
from gen_service.training.models import load_tokenizer
from gen_service.training.sft import sft_arguments, sft_trainer
from gen_service.training.sft_spec import load_sft_spec
from gen_service.training.trl_trainer import SFTTrainer
from gen_service.training_settings import ModelSettings


class MeasuredEnough(Exception):
    """Ends a training after its last measured step, before the Trainer saves what nobody wants."""


class Stopwatch(TrainerCallback):  # type: ignore[misc]  # transformers has no types
    """Counts what each step learns from, and its time.

    Args:
        batches: that make a step.
        steps: after which the training ends.
    """

    def __init__(self, batches: int, steps: int) -> None:
        self.work: list[Work] = []
        self._batches = batches
        self._steps = steps
        self._counted: list[tuple[int, int, int, int]] = []
        self._at = time.perf_counter()

    def counting(self, collator: Callable[[Any], Any]) -> Callable[[Any], Any]:
        """The same collator, seen through: tokens, those with loss, places and pairs of each batch, in order."""

        def collate(rows: list[dict[str, list[int]]]) -> Any:
            batch = collator(rows)
            lengths = [length for row in rows for length in row.get("seq_lengths", [len(row["input_ids"])])]
            with_loss = sum(label != -100 for row in rows for label in row["labels"])
            pairs = sum(length * (length + 1) // 2 for length in lengths)
            self._counted.append((sum(lengths), with_loss, batch["input_ids"].numel(), pairs))
            return batch

        return collate

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """The clock of the first step starts."""
        self._at = time.perf_counter()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Called after each update of the weights."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        now, done = time.perf_counter(), len(self.work) * self._batches
        sums = (sum(column) for column in zip(*self._counted[done : done + self._batches], strict=True))
        self.work.append(Work(now - self._at, *sums))
        self._at = now
        if len(self.work) == self._steps:
            raise MeasuredEnough


def prepare(asked: Mapping[str, Any]) -> dict[str, Any]:
    """Make the model's folder, random weights in bfloat16, and say what it will run on."""
    set_seed(asked["seed"])
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        config = Qwen2Config(**SHAPES[asked["shape"]].config(), pad_token_id=0, bos_token_id=2, eos_token_id=3)
        AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(asked["model"])
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or platform.machine()
    return {"device": device, "cuda": torch.cuda.is_available(), "torch": torch.__version__}


def measure(asked: Mapping[str, Any]) -> dict[str, Any]:
    """Train one side for its steps: the work of each, and the peak of memory; or that memory was short."""
    folder = Path(asked["folder"])
    steps = asked["warm_up"] + asked["steps"]
    traces = MadeUpTraces(SHAPES[asked["shape"]], asked["context"], 2 * steps * asked["tokens"], asked["seed"])
    # The wishes do not go into the fingerprint: both sides and all repeats learn from the same file.
    files = example_files(folder / f"examples-{asked['context']}", traces, f"{asked['seed']} {steps} {asked['tokens']}")
    try:
        trainer = (_ours if asked["side"] == "ours" else _plain)(asked, files)
        batches = trainer.args.gradient_accumulation_steps
        watch = Stopwatch(batches, steps)
        trainer.data_collator = watch.counting(trainer.data_collator)
        trainer.add_callback(watch)
        trainer.train()
    except MeasuredEnough:
        pass
    except torch.OutOfMemoryError as error:
        return {"out_of_memory": str(error).splitlines()[0]}
    return {
        "work": [asdict(one) for one in watch.work[asked["warm_up"] :]],
        "peak_bytes": torch.cuda.max_memory_allocated() if torch.cuda.is_available() else peak_bytes(),
        "attention": trainer.model.config._attn_implementation,
        "accumulate": batches,
    }


def _ours(asked: Mapping[str, Any], files: ExampleFiles) -> Any:
    """As `gen-service train sft` makes its trainer from a spec."""
    batch, context = asked["batch"], asked["context"]
    spec = load_sft_spec(
        None,
        {
            "model": {"path": asked["model"], "attention": asked["attention"]},
            "traces": {"paths": ["made-up"]},
            "optimiser": {
                "batch": batch,
                "accumulate": max(1, round(asked["tokens"] / (batch * context))),
                "steps": asked["warm_up"] + asked["steps"] + 1,
                "gradient_checkpointing": asked["checkpointing"],
            },
            "run": {"path": asked["folder"], "name": "ours", "checkpoint_steps": 1_000_000},
            "context": context,
            "packing": True,
            "compile": asked["compile"],
        },
    )
    arguments = sft_arguments(spec, Path(asked["folder"]) / "ours", context, evaluates=False)
    return sft_trainer(spec, arguments, files, load_tokenizer(ModelSettings(path=str(CHECKPOINT))), [])


def _plain(asked: Mapping[str, Any], files: ExampleFiles) -> Any:
    """TRL with its own defaults, but for what must differ: the length, the steps, nothing saved or reported."""
    mean = (files.counts.prompt_tokens + files.counts.completion_tokens) / files.counts.train
    on_cpu = {} if torch.cuda.is_available() else {"use_cpu": True, "bf16": False, "dataloader_pin_memory": False}
    arguments = SFTConfig(
        output_dir=str(Path(asked["folder"]) / "plain"),
        max_length=asked["context"],
        per_device_train_batch_size=asked["batch"],
        gradient_accumulation_steps=max(1, round(asked["tokens"] / (asked["batch"] * mean))),
        max_steps=asked["warm_up"] + asked["steps"] + 1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        **on_cpu,
    )
    return SFTTrainer(
        model=asked["model"],
        args=arguments,
        train_dataset=datasets.Dataset.from_file(str(files.train)),
        processing_class=load_tokenizer(ModelSettings(path=str(CHECKPOINT))),
    )


def main() -> None:
    """Do what the input says."""
    asked = json.loads(sys.stdin.read())
    if asked["threads"] is not None:
        torch.set_num_threads(asked["threads"])
    print(json.dumps(prepare(asked) if asked["side"] == "prepare" else measure(asked)))


if __name__ == "__main__":
    main()
