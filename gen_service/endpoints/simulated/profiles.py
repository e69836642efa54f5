"""Engine profiles by name, from a file, or written out."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Final

import yaml

from gen_service.endpoints.simulated.engine_profile import R1_DISTILL_32B_TP2_H100, EngineProfile
from gen_service.errors import SpecError

NAMED: Final = {"r1-distill-32b-tp2-h100": R1_DISTILL_32B_TP2_H100}
_FIELDS: Final = tuple(field.name for field in dataclasses.fields(EngineProfile))
_EXPECTED: Final = f"{', '.join(NAMED)}; a YAML or JSON file; or a mapping of {', '.join(_FIELDS)}"


def engine_profile(text: str) -> EngineProfile:
    """An engine's profile.

    Args:
        text: a name; the path of a YAML or JSON file; or the mapping itself, such as `{kv_blocks: 1000}`. The mapping
            holds the fields of EngineProfile, or has them under `engine` as a fleet profile does, each a value or a
            mapping with `value`.

    Raises:
        SpecError: it is none of these, or a field is wrong.
    """
    if text in NAMED:
        return NAMED[text]
    try:
        document = yaml.safe_load(text if "{" in text else Path(text).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise SpecError("engine", text, f"{_EXPECTED} ({error})") from error
    if isinstance(document, dict):
        document = document.get("engine", document)
    if not isinstance(document, dict):
        raise SpecError("engine", text, _EXPECTED)
    return _profile({str(name): _plain(value) for name, value in document.items()})


def _plain(value: Any) -> Any:
    """The value itself, whether or not it stands beside its source."""
    return value["value"] if isinstance(value, dict) and "value" in value else value


def _profile(values: dict[str, Any]) -> EngineProfile:
    for name in values:
        if name not in _FIELDS:
            raise SpecError(f"engine.{name}", values[name], f"one of the fields {', '.join(_FIELDS)}")
    if "kv_blocks" not in values:
        raise SpecError("engine.kv_blocks", None, "the blocks of the KV cache")
    try:
        if "step_s" in values:
            values["step_s"] = tuple((int(size), float(seconds)) for size, seconds in values["step_s"])
        return EngineProfile(**values)
    except (TypeError, ValueError) as error:
        raise SpecError("engine", values, f"numbers as EngineProfile has them ({error})") from error
