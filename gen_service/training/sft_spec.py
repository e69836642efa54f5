"""The spec of an SFT run, and what of it can be found wrong before anything heavy is imported."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import Field, field_validator

from gen_service.errors import SpecError
from gen_service.settings import Section
from gen_service.training.chat import ANSWER_BREAK
from gen_service.training.model_settings import check_model, check_report_to, longest_context
from gen_service.training.spec_files import read_spec
from gen_service.training_settings import (
    ModelSettings,
    OptimiserSettings,
    Positive,
    RunSettings,
    TraceSettings,
)

# transformers makes the mask of these from the positions in a packed row (masking_utils).
_MASKED: Final = ("sdpa", "eager", "flex_attention")


class SftSpec(Section):
    """Supervised fine-tuning of a model on verified traces.

    Attributes:
        context: most tokens of a prompt and its completion together; a longer trace is left out and counted. None for
            what the model takes.
        packing: several traces make one row of at most `context` tokens, without padding, and do not see each other.
            It needs an attention that is told where they begin: `sdpa`, `eager`, `flex_attention`, or a flash
            attention; the model is tried before the first step, since not every model tells it.
        compile: torch compiles the layers at the first steps. Norms, rotations and activations become fewer, larger
            kernels, which also keep less for the backward pass. A run that was stopped and goes on may then differ in
            rounding from one that was not.
        answer_break: what stands between `</think>` and the answer.
        save: `merged` puts a LoRA's matrices into the weights of the result, `adapter` leaves them beside.
    """

    version: Literal[1] = 1
    model: ModelSettings
    traces: TraceSettings
    optimiser: OptimiserSettings = OptimiserSettings()
    run: RunSettings
    context: Positive | None = None
    packing: bool = False
    compile: bool = False
    answer_break: Annotated[str, Field(pattern=r"^\s*$")] = ANSWER_BREAK
    save: Literal["merged", "adapter"] = "merged"

    @field_validator("model", mode="before")
    @classmethod
    def _path_alone(cls, value: object) -> object:
        return {"path": value} if isinstance(value, str) else value

    @field_validator("traces", mode="before")
    @classmethod
    def _paths_alone(cls, value: object) -> object:
        if isinstance(value, str):
            return {"paths": [value]}
        return {"paths": value} if isinstance(value, list | tuple) else value


def load_sft_spec(path: str | Path | None, overrides: Mapping[str, Any] | None = None) -> SftSpec:
    """An SFT spec from a YAML or JSON file, with values over it.

    Raises:
        SpecError: the file cannot be read, or a field is wrong.
    """
    spec = read_spec(SftSpec, path, overrides)
    check_sft(spec)
    return spec


def check_sft(spec: SftSpec) -> None:
    """What fields say about each other and about this machine.

    Raises:
        SpecError: names the field.
    """
    check_model(spec.model)
    check_report_to(spec.run)
    longest = longest_context(spec.model)
    if spec.context is not None and longest is not None and spec.context > longest:
        raise SpecError("context", spec.context, f"at most {longest}, the tokens that the model takes")
    if spec.packing and spec.model.attention not in _MASKED and "flash" not in spec.model.attention:
        raise SpecError(
            "packing",
            True,
            f"false with model.attention {spec.model.attention}, which is not known to keep packed traces apart; or "
            f"one of {', '.join(_MASKED)}, or a flash attention",
        )
    if spec.save == "adapter" and spec.model.lora is None:
        raise SpecError("save", "adapter", "merged: without model.lora there is no adapter")
