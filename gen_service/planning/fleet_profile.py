"""A fleet profile: what a plan assumes of the servers, each constant with its source."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import Field, ValidationError, model_validator

from gen_service.endpoints.simulated.engine_profile import EngineProfile
from gen_service.errors import SpecError
from gen_service.jobs.job import spec_error
from gen_service.settings import Section

Source = Annotated[str, Field(min_length=1)]


class Whole(Section):
    """A whole number, and where it comes from."""

    value: int
    source: Source


class Real(Section):
    """A number, and where it comes from."""

    value: float
    source: Source


class Points(Section):
    """Points (batch size, seconds of a decode step), and where they come from."""

    value: tuple[tuple[int, float], ...]
    source: Source


class EngineConstants(Section):
    """The fields of EngineProfile, in its units. Those that depend on model and GPUs are required."""

    kv_blocks: Whole
    step_s: Points
    kv_token_s: Real
    prefill_token_s: Real
    block_size: Whole | None = None
    max_num_seqs: Whole | None = None
    max_batched_tokens: Whole | None = None
    watermark: Real | None = None
    stream_interval: Whole | None = None


class FleetProfile(Section):
    """Equal servers, each one engine on a group of GPUs.

    Attributes:
        basis: in a few words, how the constants were come by, and whether anything of it was measured.
        gpu_hour_price: of one GPU, in `currency`; None leaves the cost out.
    """

    version: Literal[1]
    name: Annotated[str, Field(min_length=1)]
    basis: Source
    model: str = ""
    gpu: str = ""
    servers: Annotated[int, Field(ge=1, le=1024)]
    gpus_per_server: Annotated[int, Field(ge=1)]
    gpu_hour_price: Annotated[float, Field(gt=0)] | None = None
    currency: Annotated[str, Field(min_length=1)] | None = None
    engine: EngineConstants

    @model_validator(mode="after")
    def _a_price_has_a_currency(self) -> FleetProfile:
        if (self.gpu_hour_price is None) != (self.currency is None):
            raise ValueError("gpu_hour_price and currency together, or neither")
        return self

    @property
    def gpus(self) -> int:
        """GPUs of all servers."""
        return self.servers * self.gpus_per_server

    def engine_profile(self) -> EngineProfile:
        """The engine of each server.

        Raises:
            SpecError: a constant is out of its range.
        """
        given = {name: getattr(self.engine, name) for name in EngineConstants.model_fields}
        try:
            return EngineProfile(**{name: one.value for name, one in given.items() if one is not None})
        except SpecError as error:
            field = error.field.removeprefix("profile.")
            raise SpecError(f"fleet.engine.{field}.value", error.value, error.expected) from error


def load_fleet_profile(path: str | Path) -> FleetProfile:
    """Read and check a profile, YAML or JSON.

    Raises:
        SpecError: the file cannot be read, or a field is wrong.
    """
    try:
        document = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise SpecError("fleet", str(path), f"a readable YAML file ({error})") from error
    if not isinstance(document, dict):
        raise SpecError("fleet", str(path), "a mapping with version, name, basis, servers, gpus_per_server and engine")
    try:
        profile = FleetProfile.model_validate(document)
    except ValidationError as error:
        wrong = spec_error(error)
        field = "fleet" if wrong.field == "spec" else f"fleet.{wrong.field}"
        raise SpecError(field, wrong.value, wrong.expected) from error
    profile.engine_profile()
    return profile
