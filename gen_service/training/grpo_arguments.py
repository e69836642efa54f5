"""TRL's arguments for one stage of a GRPO run, and the sizes of its batches."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from trl import GRPOConfig

from gen_service.errors import SpecError
from gen_service.training.grpo_spec import GrpoSpec, LossSettings, generations_of, prompts_per_step_of
from gen_service.training.trainer_arguments import trainer_arguments
from gen_service.training_settings import StageSettings

_LONGEST_WAIT_S = 6 * 3600  # that other processes wait for the one that asks the servers


@dataclass(frozen=True, slots=True)
class Sizes:
    """How large things are in a stage.

    Attributes:
        generations: responses to each prompt.
        prompts_per_batch: prompts that are sampled at once, by all processes together.
        steps_per_batch: updates that one batch is divided into.
        steps_per_sampling: updates between two batches.
        accumulate: micro-batches that a process puts together for an update.
    """

    generations: int
    prompts_per_batch: int
    steps_per_batch: int
    steps_per_sampling: int
    accumulate: int


def sizes_of(spec: GrpoSpec, stage: StageSettings, processes: int) -> Sizes:
    """The sizes of a stage.

    Raises:
        SpecError: the responses of a step cannot be divided among the processes in whole groups and micro-batches.
    """
    generations, prompts = generations_of(spec, stage), prompts_per_step_of(spec, stage)
    micro_batches, rest = divmod(generations * prompts, spec.optimiser.batch * processes)
    if rest:
        raise SpecError(
            "optimiser.batch",
            spec.optimiser.batch,
            f"a divisor of {generations * prompts} responses among {processes} processes",
        )
    together = prompts * spec.steps_per_batch
    if together % processes:
        raise SpecError(
            "prompts_per_step", prompts, f"a multiple of {processes} processes, which have whole groups each"
        )
    return Sizes(generations, together, spec.steps_per_batch, spec.steps_per_sampling, micro_batches)


def grpo_arguments(spec: GrpoSpec, stage: StageSettings, output: Path, total_steps: int) -> GRPOConfig:
    """TRL's arguments.

    The data is not skipped when a run goes on, as the training set of each start begins where the run is; nor is it
    shuffled, as it comes in its order.

    Args:
        output: the folder of the checkpoints.
        total_steps: of the whole run, for the schedule of the learning rate.

    Raises:
        SpecError: there is no such schedule, or the sizes do not fit the processes.
    """
    common = trainer_arguments(spec.model, spec.optimiser, spec.run)
    processes = int(
        GRPOConfig(output_dir=str(output), report_to="none", use_cpu=not torch.cuda.is_available()).world_size
    )
    sizes = sizes_of(spec, stage, processes)
    return GRPOConfig(
        output_dir=str(output),
        **common,
        **_loss_arguments(spec.loss),
        reward_weights=[reward.weight for reward in spec.rewards],
        num_generations=sizes.generations,
        max_completion_length=stage.max_tokens,
        temperature=spec.sampling.temperature,
        top_p=spec.sampling.top_p,
        top_k=spec.sampling.top_k,
        gradient_accumulation_steps=sizes.accumulate,
        steps_per_generation=sizes.accumulate * sizes.steps_per_batch,
        shuffle_dataset=False,
        ignore_data_skip=True,
        max_steps=total_steps,
        ddp_find_unused_parameters=False,  # each step uses all that is trained
        ddp_timeout=_LONGEST_WAIT_S,
    )


def _loss_arguments(loss: LossSettings) -> dict[str, Any]:
    same = {"loss_type", "beta", "epsilon", "epsilon_high", "delta", "scale_rewards", "num_iterations"}
    arguments = loss.model_dump(include=same | {"mask_truncated_completions", "importance_sampling_level"})
    arguments["vllm_importance_sampling_correction"] = loss.importance_correction != "none"
    arguments["vllm_importance_sampling_clip_max"] = loss.importance_cap
    if loss.importance_correction != "none":
        arguments["vllm_importance_sampling_mode"] = loss.importance_correction
    return arguments
