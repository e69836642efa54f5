"""All stages of a GRPO run, one after another: iterative lengthening in one command (DeepScaleR, Luo and others, 2025).

Each stage has a trainer of its own, which goes on from the last checkpoint of the stage before: weights, optimiser,
schedule, random state and the place in the order of the prompts. So a run that was killed, in a stage or between two,
goes on by the same way as one that was not.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import orjson
from transformers import PrinterCallback, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from gen_service.errors import SpecError
from gen_service.records import Prompt
from gen_service.storage.checkpoints import newest_whole, remove_half_written
from gen_service.training import stages as machine
from gen_service.training.grpo_arguments import Sizes, grpo_arguments, sizes_of
from gen_service.training.grpo_prompts import prompt_row
from gen_service.training.grpo_sampling import SourceSampling
from gen_service.training.grpo_spec import GrpoSpec, stages_of
from gen_service.training.grpo_trainer import PROGRESS, GroupTrainer, Parts
from gen_service.training.judge import Judge
from gen_service.training.models import load_model, lora_config, save_merged, save_result
from gen_service.training.prompt_order import in_order
from gen_service.training.reporting import Reporting, WholeCheckpoints
from gen_service.training.rewards import build
from gen_service.training.rollout import RolloutSource
from gen_service.training.rollout_stream import RolloutStream
from gen_service.training.run_record import RunRecord
from gen_service.training.stages import Progress
from gen_service.training.trackers import tracker_callbacks
from gen_service.training_settings import StageSettings

Notice = Callable[[str], None]


@dataclass(slots=True)
class Run:
    """What all stages share.

    Attributes:
        total_steps: updates of the weights over all stages.
        tokenizer: of the model, with its chat template.
        source: of rollouts; None for TRL's own generation.
    """

    spec: GrpoSpec
    record: RunRecord
    prompts: tuple[Prompt, ...]
    total_steps: int
    tokenizer: Any
    end_of_turn: int
    judge: Judge | None
    source: RolloutSource | None
    say: Notice


class StageEnds(TrainerCallback):  # type: ignore[misc]  # transformers has no types
    """Counts the steps of a stage, and ends its training, with a checkpoint and a line of the log, when it is over."""

    def __init__(self, progress: Progress, stage: StageSettings, sizes: Sizes, total_steps: int) -> None:
        self.progress = progress
        self.trainer: GroupTrainer | None = None
        self._stage = stage
        self._sizes = sizes
        self._total_steps = total_steps

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Called after each update of the weights, before anything is logged or saved."""
        assert self.trainer is not None
        measured = self.trainer.sampled
        is_whole = (self.progress.steps + 1) % self._sizes.steps_per_sampling == 0
        taken = self._sizes.prompts_per_batch if is_whole else 0
        self.progress = machine.advanced(self.progress, self._stage, measured.reward, measured.truncated, taken)
        is_over = self.progress.step >= self._total_steps or machine.ending(self.progress, self._stage) is not None
        if is_whole and is_over:
            control.should_log = control.should_save = control.should_training_stop = True


def run_stages(run: Run) -> int:
    """Train through all stages, from the newest whole checkpoint where there is one; returns the last step.

    Raises:
        SpecError: a stage asks for what cannot be done.
        TrainingError: a stage cannot go on.
    """
    stages = stages_of(run.spec, run.total_steps)
    for stage in stages:  # a size that does not fit is told now, not when its stage begins
        grpo_arguments(run.spec, stage, run.record.checkpoints, run.total_steps)
    checkpoint, progress = _taken_up(run)
    trainer = None
    while progress.step < run.total_steps:
        progress = machine.settled(progress, stages)
        if progress.stage >= len(stages):
            break
        stage = stages[progress.stage]
        run.say(
            f"stage {progress.stage + 1} of {len(stages)}: responses of at most {stage.max_tokens:,} tokens, "
            f"from step {progress.step}"
        )
        trainer = None  # its weights are let go of before others are loaded
        trainer, progress = _stage(run, stage, progress, checkpoint)
        checkpoint = newest_whole(run.record.checkpoints)
        if (ending := machine.ending(progress, stage)) is not None:
            run.say(f"stage {progress.stage + 1} is over at step {progress.step}: {_WORDS[ending]}")
    _save(run, trainer, checkpoint, progress)
    return progress.step


_WORDS = {
    "steps": "it had all its steps",
    "truncated": "too many responses were cut off",
    "plateau": "the reward rises no more",
}


def _taken_up(run: Run) -> tuple[Path | None, Progress]:
    """The checkpoint to go on from, and how far the run was then; the record is as it was then, too."""
    record = run.record
    if record.writes:
        for name in remove_half_written(record.checkpoints):
            run.say(f"removed {name}, which was half-written")
    checkpoint = newest_whole(record.checkpoints)
    progress = Progress() if checkpoint is None else read_progress(checkpoint)
    if record.is_continued:
        run.say(f"going on from step {progress.step}")
    record.rewind(progress.step)
    return checkpoint, progress


def read_progress(checkpoint: Path) -> Progress:
    """How far the run was when a checkpoint was saved."""
    return machine.from_plain(orjson.loads((checkpoint / PROGRESS).read_bytes()))


def _stage(
    run: Run, stage: StageSettings, progress: Progress, checkpoint: Path | None
) -> tuple[GroupTrainer, Progress]:
    """Train one stage to its end, or from the checkpoint in its middle."""
    arguments = grpo_arguments(run.spec, stage, run.record.checkpoints, run.total_steps)
    sizes = sizes_of(run.spec, stage, arguments.world_size)
    batches = -(-(run.total_steps - progress.step) // sizes.steps_per_sampling)
    order = in_order(len(run.prompts), run.spec.optimiser.seed, progress.position, batches * sizes.prompts_per_batch)
    ends = StageEnds(progress, stage, sizes, run.total_steps)
    stream, sampling = _sampling(run, stage, sizes, order)
    parts = Parts(
        spec=run.spec,
        functions=build(run.spec.rewards, run.spec.unanswered, stage.max_tokens),
        prompts=run.prompts,
        judge=run.judge,
        source=sampling,
        progress=lambda: ends.progress,
        completions=run.record.completions,
    )
    trainer = GroupTrainer(
        parts,
        model=load_model(_model_of(run, progress)),
        args=arguments,
        train_dataset=_training_set(run.prompts, order),
        processing_class=run.tokenizer,
        peft_config=lora_config(run.spec.model.lora),
        callbacks=[
            ends,
            Reporting(run.record, None, run.say),
            WholeCheckpoints(run.record.checkpoints, run.spec.run.keep_checkpoints, frozenset(progress.ends)),
            *(tracker_callbacks(run.spec.run, run.record.folder, progress.step) if run.record.writes else []),
        ],
    )
    trainer.remove_callback(PrinterCallback)
    ends.trainer = trainer
    try:
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    finally:
        if stream is not None:
            stream.close()
    return trainer, ends.progress


def _model_of(run: Run, progress: Progress) -> Any:
    """The model that the stage started from: also what a KL divergence is measured from.

    A LoRA's is the run's own: the checkpoint that the trainer goes on from holds the matrices, nothing else.
    """
    if not progress.ends or run.spec.model.lora is not None:
        return run.spec.model
    start = run.record.checkpoints / f"checkpoint-{progress.ends[-1]}"
    return run.spec.model.model_copy(update={"path": str(start), "revision": None})


def _training_set(prompts: tuple[Prompt, ...], order: Any) -> datasets.Dataset:
    rows = [prompt_row(prompts, index) for index in range(len(prompts))]
    return datasets.Dataset.from_list(rows).select(order)


def _sampling(
    run: Run, stage: StageSettings, sizes: Sizes, order: Any
) -> tuple[RolloutStream | None, SourceSampling | None]:
    """Rollouts from the run's source for the batches of a stage."""
    if run.source is None:
        return None, None

    def upcoming(number: int) -> list[Prompt] | None:
        indices = order[number * sizes.prompts_per_batch :][: sizes.prompts_per_batch]
        return [run.prompts[index] for index in indices] or None

    stream = RolloutStream(
        run.source,
        upcoming,
        generations=sizes.generations,
        max_tokens=stage.max_tokens,
        ahead=run.spec.rollouts.staleness,
    )
    weights = run.spec.rollouts.shared_folder or run.record.folder / "weights"
    merge = None if run.spec.model.lora is None else partial(save_merged, settings=run.spec.model)
    return stream, SourceSampling(stream, weights, [run.end_of_turn], merge)


def _save(run: Run, trainer: GroupTrainer | None, checkpoint: Path | None, progress: Progress) -> None:
    """Make the result of the last checkpoint; every process waits for it."""
    if checkpoint is None:
        raise SpecError("optimiser.steps", run.total_steps, "at least one step")
    if run.record.writes:
        shutil.rmtree(run.record.folder / "weights", ignore_errors=True)
        merge = run.spec.save == "merged"
        save_result(checkpoint, run.spec.model, run.tokenizer, run.end_of_turn, run.record.model, merge=merge)
        run.record.finish(progress.step)
    if trainer is not None:
        trainer.accelerator.wait_for_everyone()
