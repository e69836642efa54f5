"""Supervised fine-tuning on verified traces: a thin layer on TRL's SFTTrainer.

What TRL does is left to it: the loop, the loss, packing, several devices. What is ours: which traces, their tokens and
labels (TRL would cut what is too long), whole checkpoints, the record of the run, and a result that servers load.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import torch
from transformers import PrinterCallback, TrainerCallback
from trl import SFTConfig

from gen_service.errors import SpecError
from gen_service.storage.checkpoints import newest_whole, remove_half_written, step_of
from gen_service.training.chat import ChatFormat
from gen_service.training.compiled_layers import compile_layers
from gen_service.training.example_files import ExampleFiles, example_files
from gen_service.training.models import (
    check_attention,
    load_config,
    load_model,
    load_tokenizer,
    lora_config,
    save_result,
)
from gen_service.training.packing import KeepsApart
from gen_service.training.pinned_traces import Pin, pinned
from gen_service.training.record_file import began_with
from gen_service.training.reporting import NoStepTooMany, Reporting, TrainingIsOver, WholeCheckpoints
from gen_service.training.run_record import RunRecord
from gen_service.training.sft_spec import SftSpec
from gen_service.training.trace_examples import Counts, TraceExamples
from gen_service.training.trackers import tracker_callbacks
from gen_service.training.trainer_arguments import trainer_arguments
from gen_service.training.trl_trainer import SFTTrainer

_LONGEST_WAIT_S = 6 * 3600  # that other processes wait for the one that tokenises

Notice = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class SftReport:
    """How an SFT run ended.

    Attributes:
        model: the folder of the result.
        step: updates of the weights, over all starts.
        counts: what became of the traces; None where there was nothing left to do.
    """

    model: Path
    step: int
    counts: Counts | None


def train_sft(spec: SftSpec, on_notice: Notice) -> SftReport:
    """Train to the end, from the newest whole checkpoint where there is one.

    The same spec goes on with a run that was killed: with the same examples, in the same order, from the same random
    state. In a process group (`accelerate launch`) each process calls this.

    Args:
        on_notice: told in the main process what happens, a line each.

    Raises:
        SpecError: the spec asks for what cannot be done; nothing was trained.
        JobLocked: another process trains this run.
        StorageError: the traces, the record or a checkpoint cannot be read.
    """
    tokenizer = load_tokenizer(spec.model)
    chat = ChatFormat(tokenizer, spec.answer_break)
    pins = pinned(spec.traces, began_with(spec.run))
    data = {path: pin.as_tree() for path, pin in pins.items()}
    plain = spec.model_dump(mode="json")
    with RunRecord.open(spec.run, "sft", plain, data, reads=SftSpec.model_validate) as record:
        say = on_notice if record.writes else _silent
        if record.is_continued:
            for news in filter(None, (pin.news(path) for path, pin in pins.items())):
                say(news)
        if record.finished is not None:
            say(f"nothing to do: {record.model} is of step {record.finished}, the last")
            return SftReport(record.model, record.finished, None)
        if spec.run.threads is not None:
            torch.set_num_threads(spec.run.threads)
        return _train(spec, record, tokenizer, chat, pins, say)


def longest_example(spec: SftSpec) -> int:
    """Tokens of the longest trace that is learned from: the spec's, else what the model takes.

    Raises:
        SpecError: the spec asks for more than the model takes, or neither says.
    """
    config = load_config(spec.model).get_text_config()
    longest: int | None = getattr(config, "max_position_embeddings", None)
    asked = spec.context if spec.context is not None else longest
    if asked is None:
        raise SpecError("context", None, "a number of tokens: the model's config does not say how many it takes")
    if longest is not None and asked > longest:
        raise SpecError("context", asked, f"at most {longest}, the tokens that the model takes")
    return asked


def sft_arguments(spec: SftSpec, output: Path, context: int, *, evaluates: bool) -> SFTConfig:
    """TRL's arguments for a spec.

    Args:
        output: the folder of the checkpoints.
        context: tokens of a packed row.
        evaluates: whether there are held-out examples.

    Raises:
        SpecError: there is no such schedule of the learning rate, or it does not take these options.
    """
    optimiser, run = spec.optimiser, spec.run
    return SFTConfig(
        output_dir=str(output),
        **trainer_arguments(spec.model, optimiser, run),
        max_length=context if spec.packing else None,  # TRL cuts at it: what is longer is left out before
        packing=spec.packing,
        packing_strategy="bfd",  # keeps each trace whole and apart; the others split traces
        per_device_eval_batch_size=optimiser.batch,
        gradient_accumulation_steps=optimiser.accumulate,
        num_train_epochs=optimiser.epochs,
        max_steps=optimiser.steps or -1,
        data_seed=optimiser.seed,
        eval_strategy="steps" if evaluates else "no",
        eval_steps=run.checkpoint_steps,
        ddp_find_unused_parameters=False,  # each step uses all that is trained
        ddp_timeout=_LONGEST_WAIT_S,
    )


def sft_trainer(
    spec: SftSpec, arguments: SFTConfig, files: ExampleFiles, tokenizer: Any, callbacks: list[TrainerCallback]
) -> SFTTrainer:
    """TRL's trainer on examples that are tokenised and labelled, and mapped from disk.

    Raises:
        SpecError: the model's weights cannot be loaded, or it cannot be compiled.
    """
    held_out = datasets.Dataset.from_file(str(files.held_out)) if files.counts.held_out else None
    model = load_model(spec.model)
    if spec.compile:
        compile_layers(model)
    trainer = SFTTrainer(
        model=model,
        args=arguments,
        train_dataset=datasets.Dataset.from_file(str(files.train)),
        eval_dataset=held_out,
        processing_class=tokenizer,
        peft_config=lora_config(spec.model.lora),
        callbacks=callbacks,
    )
    trainer.remove_callback(PrinterCallback)
    if spec.packing:
        trainer.add_callback(KeepsApart(trainer.data_collator))
    return trainer


def _train(
    spec: SftSpec, record: RunRecord, tokenizer: Any, chat: ChatFormat, pins: dict[str, Pin], say: Notice
) -> SftReport:
    context = longest_example(spec)
    check_attention(spec.model)
    arguments = sft_arguments(spec, record.checkpoints, context, evaluates=spec.traces.held_out > 0.0)
    examples = TraceExamples(spec.traces, chat, context, pins)
    # A job may grow between the looks of two processes: the others take what the one that writes has made.
    fingerprint = _fingerprint(spec, chat, pins, context) if record.writes else None
    with arguments.main_process_first(local=False, desc="tokenising"):
        files = example_files(record.folder / "examples", examples, fingerprint)
    record.note("examples", files.counts.as_tree())
    say(f"traces: {files.counts.words()}" + ("; as tokenised before" if files.was_there else ""))
    checkpoint = _take_up(record, say)
    step = step_of(checkpoint) if checkpoint else 0
    callbacks = [
        Reporting(record, files.counts.train, say),
        WholeCheckpoints(record.checkpoints, spec.run.keep_checkpoints),
        NoStepTooMany(),
        *(tracker_callbacks(spec.run, record.folder, step) if record.writes else []),
    ]
    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(chat.end_of_turn)
    trainer = sft_trainer(spec, arguments, files, tokenizer, callbacks)
    try:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    except TrainingIsOver:
        say("all steps were made; what was left is the result")
    _save(trainer, spec, record, tokenizer, chat.end_of_turn)
    say(f"model: {record.model}, step {trainer.state.global_step}, {record.cost.words()}")
    return SftReport(record.model, trainer.state.global_step, files.counts)


def _take_up(record: RunRecord, say: Notice) -> Path | None:
    """The checkpoint to go on from, with the record as it was then."""
    if record.writes:
        for name in remove_half_written(record.checkpoints):
            say(f"removed {name}, which was half-written")
    checkpoint = newest_whole(record.checkpoints)
    step = step_of(checkpoint) if checkpoint else 0
    if record.is_continued:
        say(f"going on from step {step}")
    record.rewind(step)
    return checkpoint


def _save(trainer: SFTTrainer, spec: SftSpec, record: RunRecord, tokenizer: Any, end_of_turn: int) -> None:
    """Save the result; every process takes part, since each may hold a part of the weights."""
    trained = record.folder / ".trained"
    if trainer.is_fsdp_enabled:
        trainer.accelerator.state.fsdp_plugin.set_state_dict_type("FULL_STATE_DICT")
    trainer.save_model(str(trained))
    trainer.accelerator.wait_for_everyone()
    if record.writes:
        save_result(trained, spec.model, tokenizer, end_of_turn, record.model, merge=spec.save == "merged")
        record.finish(trainer.state.global_step)
        shutil.rmtree(trained)
    trainer.accelerator.wait_for_everyone()


def _fingerprint(spec: SftSpec, chat: ChatFormat, pins: dict[str, Pin], context: int) -> str:
    """Hash of all that the examples depend on."""
    hashes = {path: pin.hash for path, pin in pins.items()}
    tree = [hashes, spec.traces.model_dump(mode="json"), spec.answer_break, context, chat.fingerprint]
    return hashlib.blake2b(json.dumps(tree, sort_keys=True).encode(), digest_size=16).hexdigest()


def _silent(words: str) -> None:
    """For the processes that are not the main one."""
