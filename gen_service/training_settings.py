"""The sections of a training spec, typed. Lengths are tokens, times seconds, prices dollars an hour."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from gen_service.records import Outcome
from gen_service.settings import EndpointSettings, PoolSettings, Section

Positive = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0.0, lt=1.0)]
RolloutSource = Literal["trl", "fleet"]
WeightTransport = Literal["filesystem", "nccl"]


class LoraSettings(Section):
    """Train small matrices beside the weights (Hu and others, 2021) instead of the weights themselves."""

    rank: Positive = 16
    alpha: Positive = 32
    dropout: Share = 0.0
    targets: tuple[str, ...] | Literal["all-linear"] = "all-linear"


class ModelSettings(Section):
    """The model that training starts from.

    `path` is a folder with a checkpoint, or a hub id. `dtype` is that of the weights while they are trained: `auto` is
    float32, with bfloat16 arithmetic where the device has it; in `bfloat16` itself small updates are lost to rounding,
    unless the optimiser keeps float32 copies (DeepSpeed) or the weights stay as they are (LoRA). `chat_template` is a
    Jinja file, for a tokenizer that has no template of its own, or another one. `attention` is what transformers calls
    `attn_implementation`.
    """

    path: str
    revision: str | None = None
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    attention: str = "sdpa"
    chat_template: Path | None = None
    lora: LoraSettings | None = None


class TraceSettings(Section):
    """Which published traces are learned from.

    Attributes:
        paths: job folders, local or any fsspec URL; the files are those of their manifests when the run begins, also
            when it goes on later.
        verdicts: outcomes that are kept.
        verdict_set: a set of verdicts made by `verify` that goes over the rows' own: its identity, or `latest`, when
            the run begins.
        sources: sources that are kept; None for all.
        min_tokens, max_tokens: bounds of a completion's length.
        per_prompt: most traces of one prompt, the first published ones; None for all.
        dedup: of traces of one prompt with the same text, one is kept.
        held_out: share of the prompts whose traces are set aside for the evaluation loss, chosen by a hash of the
            prompt's id, so that a prompt is on the same side in every run.
    """

    paths: Annotated[tuple[str, ...], Field(min_length=1)]
    verdicts: Annotated[tuple[Outcome, ...], Field(min_length=1)] = ("correct",)
    verdict_set: str | None = None
    sources: tuple[str, ...] | None = None
    min_tokens: Annotated[int, Field(ge=0)] = 0
    max_tokens: Positive | None = None
    per_prompt: Positive | None = None
    dedup: bool = True
    held_out: Share = 0.0


class OptimiserSettings(Section):
    """How the weights are moved. A step is one update of the weights.

    `batch` is what one device holds at once; `accumulate` such batches, on all devices, make a step. `steps` ends the
    run where it is given, else `epochs`. `schedule` and `schedule_options` are transformers' names.
    """

    learning_rate: Annotated[float, Field(gt=0.0)] = 1e-5
    schedule: str = "cosine"
    schedule_options: dict[str, Any] = Field(default_factory=dict)
    warmup: Share = 0.05
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.0
    adam_beta2: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.999
    max_grad_norm: Annotated[float, Field(gt=0.0)] = 1.0
    batch: Positive = 1
    accumulate: Positive = 1
    epochs: Annotated[float, Field(gt=0.0)] = 1.0
    steps: Positive | None = None
    gradient_checkpointing: bool = False
    seed: int = 42


class RunSettings(Section):
    """The run's folder, `<path>/<name>`, and what is kept of it.

    Attributes:
        checkpoint_steps: steps between checkpoints.
        keep_checkpoints: how many of the newest stay; the last of a stage always does.
        log_steps: steps between lines of metrics.jsonl.
        report_to: who is told besides metrics.jsonl: `tensorboard`, `wandb`, `trackio`.
        device_hour_price: dollars for one device for one hour, for the run's cost; None where it costs nothing known.
        threads: torch's CPU threads; one was faster than two on cores that others use too. None for torch's own.
    """

    path: str = "runs"
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
    checkpoint_steps: Positive = 100
    keep_checkpoints: Positive = 2
    log_steps: Positive = 10
    report_to: tuple[Literal["tensorboard", "wandb", "trackio"], ...] = ()
    device_hour_price: Annotated[float, Field(ge=0.0)] | None = None
    threads: Positive | None = None


class RewardFunctionSettings(Section):
    """One reward function and its weight in the sum; `options` are its own.

    `name` is one of ours, or `module:function`. Each is called on made-up responses before training, at each start.
    """

    name: str
    weight: float = 1.0
    options: dict[str, Any] = Field(default_factory=dict)


class RolloutSettings(Section):
    """Where rollouts come from.

    `trl` samples with the trainer's own model, on its own device. `fleet` samples on vLLM servers through the same pool
    as a job; new weights are brought to every server by `weights`: a folder that trainer and servers both see
    (`shared_folder`), or NCCL. A rollout is at most `staleness` versions of the weights older than the step that learns
    from it: 0 waits for each step, 1 samples the next batch while this one is learned from.
    """

    source: RolloutSource = "trl"
    endpoints: EndpointSettings | None = None
    pool: PoolSettings = PoolSettings()
    weights: WeightTransport = "filesystem"
    shared_folder: Path | None = None
    staleness: Annotated[int, Field(ge=0, le=16)] = 0

    @model_validator(mode="after")
    def _a_fleet_has_servers(self) -> RolloutSettings:
        if self.source == "fleet" and self.endpoints is None:
            raise ValueError("`endpoints` with the servers that rollouts are sampled on, as `source` is fleet")
        return self


class StageSettings(Section):
    """One stage of iterative lengthening (DeepScaleR): what differs from the run's own settings, and when it ends.

    Attributes:
        max_tokens: longest response, tokens.
        generations: responses to each prompt; None as in the run.
        prompts_per_step: None as in the run.
        steps: most steps of the stage; None ends it by the rules below alone.
        truncated_share: the stage ends when this share of the responses, over `window` steps, is cut off at
            `max_tokens`, ...
        plateau: ... or when the mean reward of the last `window` steps is at most this much above that of the `window`
            before. Either rule alone ends the stage, though not before `least_steps`.
    """

    max_tokens: Positive
    generations: Annotated[int, Field(ge=2)] | None = None
    prompts_per_step: Positive | None = None
    steps: Positive | None = None
    truncated_share: Annotated[float, Field(gt=0.0, le=1.0)] | None = None
    plateau: float | None = None
    window: Positive = 20
    least_steps: Positive = 1

    @model_validator(mode="after")
    def _ends_somehow(self) -> StageSettings:
        if self.steps is None and self.truncated_share is None and self.plateau is None:
            raise ValueError("`steps`, `truncated_share` or `plateau`: a stage without one never ends")
        return self
