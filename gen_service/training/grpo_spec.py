"""What a GRPO run is asked to do: one YAML or JSON file, checked before torch is imported or a step is made."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from gen_service.errors import SpecError
from gen_service.settings import PromptSettings, RewardSettings, Section, VerificationSettings
from gen_service.training.model_settings import check_model, check_report_to, longest_context
from gen_service.training.rewards import build
from gen_service.training.spec_files import read_spec
from gen_service.training_settings import (
    ModelSettings,
    OptimiserSettings,
    Positive,
    RewardFunctionSettings,
    RolloutSettings,
    RunSettings,
    StageSettings,
)

LossType = Literal["grpo", "dr_grpo", "dapo", "bnpo", "cispo", "sapo", "luspo", "vespo"]
Correction = Literal["none", "token_truncate", "token_mask", "sequence_truncate", "sequence_mask"]


class RolloutSamplingSettings(Section):
    """How a rollout is drawn. At these defaults the log-probabilities of sampling are those of the policy itself;
    `top_p` and `top_k` take tokens away that the policy counts with, a temperature is put on both sides."""

    temperature: Annotated[float, Field(gt=0.0, le=2.0)] = 1.0
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    top_k: Annotated[int, Field(ge=0)] = 0


class LossSettings(Section):
    """The loss, in TRL's names and with TRL's meanings.

    Attributes:
        loss_type: how the losses of tokens are put together, and by what they are divided.
        beta: weight of the KL divergence from the model that the stage started from; 0 keeps no such model. With a
            LoRA it is from the model that the run started from, the same weights with the LoRA switched off.
        epsilon, epsilon_high: how far below and above 1 the ratio of probabilities counts; DAPO's clip-higher is 0.28.
        delta: a bound on the ratio of answers that are pushed down, too (two-sided clipping).
        scale_rewards: by which standard deviation an advantage is divided; Dr. GRPO has `none`.
        num_iterations: how often each batch of rollouts is learned from.
        mask_truncated_completions: no loss on what was cut off (DAPO's overlong filtering), whatever its reward.
        importance_sampling_level: `sequence` is GSPO's.
        importance_correction: of rollouts from servers, whose log-probabilities differ a little from the trainer's:
            `token_truncate` weights each token by the ratio of both, at most `importance_cap` (Yao and others, 2025).
        logprob_gap: mean absolute difference of both log-probabilities, in nats, past which the run ends: servers and
            trainer then have different weights. Between equal weights it was 0.0003 to 0.002. None never ends it.
    """

    loss_type: LossType = "dapo"
    beta: Annotated[float, Field(ge=0.0)] = 0.0
    epsilon: Annotated[float, Field(gt=0.0)] = 0.2
    epsilon_high: Annotated[float, Field(gt=0.0)] | None = None
    delta: Annotated[float, Field(gt=1.0)] | None = None
    scale_rewards: Literal["group", "batch", "none"] = "group"
    num_iterations: Positive = 1
    mask_truncated_completions: bool = False
    importance_sampling_level: Literal["token", "sequence"] = "token"
    importance_correction: Correction = "token_truncate"
    importance_cap: Annotated[float, Field(gt=1.0)] = 2.0
    logprob_gap: Annotated[float, Field(gt=0.0)] | None = 0.1


class FilteringSettings(Section):
    """What becomes of a prompt whose rollouts all have the same reward: their advantages are 0, so they teach nothing.

    `none` leaves them in the batch, where they make the loss of the others smaller. `drop` leaves them out of the loss
    and of what it is divided by. `resample` samples other prompts until the batch is full (DAPO's dynamic sampling; Yu
    and others, 2025), at most `most_tries` times, and drops what is left of them. `by` names the one reward function
    that is looked at (DAPO looks at the accuracy alone), or None for the weighted sum.
    """

    mode: Literal["none", "drop", "resample"] = "none"
    most_tries: Positive = 4
    by: str | None = None


class GrpoSpec(Section):
    """Group relative policy optimisation (Shao and others, 2024) on prompts with verified answers.

    Attributes:
        prompts: the questions, with their golds where a reward needs them.
        generations: rollouts of each prompt; they are what its rewards are compared within.
        prompts_per_step: prompts that one update of the weights learns from.
        steps_per_batch: how many updates are sampled for at once; DeepScaleR's batch of 128 prompts in mini-batches of
            64 is `prompts_per_step: 64, steps_per_batch: 2`.
        max_tokens: longest response, where `stages` do not say.
        rewards: reward functions with their weights.
        unanswered: what a truncated response and one without an answer are worth; by default they are left out.
        none_steps: the run ends after so many batches in a row without a single reward.
        optimiser: `accumulate` follows from the other sizes and stays 1 here. `steps` bounds the run over all stages.
        stages: iterative lengthening; none is a single stage of `max_tokens`.
        save: `merged` puts a LoRA's matrices into the weights of the result, `adapter` leaves them beside. Servers are
            brought merged weights either way.
    """

    version: Literal[1] = 1
    model: ModelSettings
    prompts: PromptSettings
    generations: Annotated[int, Field(ge=2)] = 8
    prompts_per_step: Positive = 16
    steps_per_batch: Positive = 1
    max_tokens: Positive = 1024
    sampling: RolloutSamplingSettings = RolloutSamplingSettings()
    rewards: Annotated[tuple[RewardFunctionSettings, ...], Field(min_length=1)] = (
        RewardFunctionSettings(name="accuracy"),
    )
    verification: VerificationSettings = Field(default_factory=VerificationSettings)
    unanswered: RewardSettings = RewardSettings()
    none_steps: Positive = 3
    loss: LossSettings = LossSettings()
    filtering: FilteringSettings = FilteringSettings()
    rollouts: RolloutSettings = RolloutSettings()
    optimiser: OptimiserSettings = OptimiserSettings(learning_rate=1e-6, schedule="constant", warmup=0.0)
    run: RunSettings
    stages: tuple[StageSettings, ...] = ()
    save: Literal["merged", "adapter"] = "merged"

    @field_validator("model", "prompts", mode="before")
    @classmethod
    def _path_alone(cls, value: object) -> object:
        return {"path": value} if isinstance(value, str) else value

    @field_validator("rewards", mode="before")
    @classmethod
    def _names_alone(cls, value: object) -> object:
        if not isinstance(value, list | tuple):
            return value
        return tuple({"name": one} if isinstance(one, str) else one for one in value)

    @property
    def steps_per_sampling(self) -> int:
        """Updates between two batches of rollouts."""
        return self.steps_per_batch * self.loss.num_iterations


def load_grpo_spec(path: str | Path | None, overrides: Mapping[str, Any] | None = None) -> GrpoSpec:
    """A spec from a YAML or JSON file, with values over it.

    Args:
        path: the file; None where the overrides say all.

    Raises:
        SpecError: the file cannot be read, or a field is wrong; it names the field, the value and what would be right.
    """
    spec = read_spec(GrpoSpec, path, overrides)
    check_model(spec.model)
    check_report_to(spec.run)
    _check_lora(spec)
    _check_rewards(spec)
    _check_sizes(spec)
    _check_context(spec)
    if spec.rollouts.source == "fleet":
        _check_fleet(spec)
    return spec


def stages_of(spec: GrpoSpec, total_steps: int) -> tuple[StageSettings, ...]:
    """The stages, or the whole run as one."""
    return spec.stages or (StageSettings(max_tokens=spec.max_tokens, steps=total_steps),)


def generations_of(spec: GrpoSpec, stage: StageSettings) -> int:
    """Rollouts of each prompt in a stage."""
    return stage.generations or spec.generations


def prompts_per_step_of(spec: GrpoSpec, stage: StageSettings) -> int:
    """Prompts of one update in a stage."""
    return stage.prompts_per_step or spec.prompts_per_step


def _check_lora(spec: GrpoSpec) -> None:
    lora = spec.model.lora
    if spec.save == "adapter" and lora is None:
        raise SpecError("save", "adapter", "merged: without model.lora there is no adapter")
    if lora is not None and "lm_head" in lora.targets:
        raise SpecError(
            "model.lora.targets",
            lora.targets,
            "names without lm_head: TRL takes the log-probabilities past a LoRA there",
        )


def _check_rewards(spec: GrpoSpec) -> None:
    for stage in stages_of(spec, 1):  # each: options may fit the lengths of one and not those of another
        functions = build(spec.rewards, spec.unanswered, stage.max_tokens)
    name, times = Counter(function.__name__ for function in functions).most_common(1)[0]
    if times > 1:
        raise SpecError("rewards", name, "each reward function once")
    if not spec.verification.enabled and any(function.needs_verdict for function in functions):
        raise SpecError("verification.enabled", False, "true: a reward asks whether the answer is right")
    if spec.filtering.by is not None and spec.filtering.by not in {function.__name__ for function in functions}:
        raise SpecError("filtering.by", spec.filtering.by, "the name of one of `rewards`, or nothing for their sum")


def _check_sizes(spec: GrpoSpec) -> None:
    """Batches are whole, and checkpoints and stages end where a batch of rollouts does: it is no part of them.

    A batch may make several updates (`steps_per_batch`, `loss.num_iterations`). Between them no checkpoint is saved, so
    a run that is killed there goes on from the batch's beginning and samples it again, the very same.
    """
    if spec.optimiser.accumulate != 1:
        raise SpecError(
            "optimiser.accumulate", spec.optimiser.accumulate, "1: it follows from prompts_per_step and generations"
        )
    together = spec.steps_per_sampling
    whole = f"a multiple of steps_per_batch x loss.num_iterations, {together}"
    counts = {"run.checkpoint_steps": spec.run.checkpoint_steps, "optimiser.steps": spec.optimiser.steps}
    for index, stage in enumerate(spec.stages):
        counts[f"stages.{index}.steps"] = stage.steps
    for field, count in counts.items():
        if count is not None and count % together:
            raise SpecError(field, count, whole)
    for index, stage in enumerate(stages_of(spec, 1)):
        rows = generations_of(spec, stage) * prompts_per_step_of(spec, stage)
        if rows % spec.optimiser.batch:
            where = f" (stage {index})" if spec.stages else ""
            raise SpecError(
                "optimiser.batch", spec.optimiser.batch, f"a divisor of the {rows} rollouts of a step{where}"
            )


def _check_fleet(spec: GrpoSpec) -> None:
    cut = "sampling.top_p" if spec.sampling.top_p != 1.0 else "sampling.top_k" if spec.sampling.top_k != 0 else None
    if cut is not None:
        value = getattr(spec.sampling, cut.rpartition(".")[2])
        raise SpecError(cut, value, "nothing cut off with a fleet: the importance correction is of the whole policy")
    if spec.rollouts.weights == "filesystem" and spec.rollouts.shared_folder is None:
        raise SpecError("rollouts.shared_folder", None, "a folder that the trainer and every server see")


def _check_context(spec: GrpoSpec) -> None:
    longest = longest_context(spec.model)
    for index, stage in enumerate(stages_of(spec, 1)):
        field = f"stages.{index}.max_tokens" if spec.stages else "max_tokens"
        if longest is not None and stage.max_tokens >= longest:
            raise SpecError(field, stage.max_tokens, f"less than {longest}, the tokens that the model takes in all")
