"""run.json: what a run began with, read, and compared with what it is asked to go on with. No torch.

Version 2 says of each thing that a run learns from what of it; version 1 has a hash alone, and is read along.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, Final, Literal

import orjson
from pydantic import BaseModel, ValidationError

from gen_service.errors import SpecError, StorageError
from gen_service.storage.checkpoints import newest_whole
from gen_service.storage.destination import is_url, local_path
from gen_service.training.changes import refuse_changes
from gen_service.training_settings import RunSettings

RECORD_VERSION: Final = 2
RECORD: Final = "run.json"
Kind = Literal["sft", "grpo"]
Data = Mapping[str, Mapping[str, Any]]
"""What a run learns from, by name: a `hash` of each, and what else says which part of it is meant."""
Reader = Callable[[Any], BaseModel]


def read_record(folder: Path) -> dict[str, Any]:
    """The run.json of a run, for those that only look.

    Raises:
        SpecError: there is no run.
        StorageError: it cannot be read, or is of a later version.
    """
    tree = record_in(folder)
    if tree is None:
        raise SpecError("run", str(folder), f"a run's folder: one that holds {RECORD}")
    return tree


def record_in(folder: Path) -> dict[str, Any] | None:
    """As `read_record`; None where there is no run."""
    try:
        tree: dict[str, Any] = orjson.loads((folder / RECORD).read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise StorageError(f"{folder / RECORD} cannot be read: {error}") from error
    if tree.get("version", RECORD_VERSION + 1) > RECORD_VERSION:
        raise StorageError(f"{folder / RECORD} has version {tree.get('version')}, newer than {RECORD_VERSION}")
    return tree


def has_steps(folder: Path) -> bool:
    """Whether a run in this folder has made steps that are kept."""
    metrics = folder / "metrics.jsonl"
    return newest_whole(folder / "checkpoints") is not None or (metrics.exists() and metrics.stat().st_size > 0)


def began_with(settings: RunSettings) -> Mapping[str, Any]:
    """What the run of these settings learns from, as `Data`, or by hashes alone where version 1 wrote it.

    Empty where it has made no step: then it may begin with anything.

    Raises:
        StorageError: its run.json cannot be read.
    """
    if is_url(settings.path):
        return {}
    folder = local_path(settings.path) / settings.name
    tree = record_in(folder) if has_steps(folder) else None
    return {} if tree is None else tree["data"]


def refuse_other_run(
    tree: dict[str, Any],
    kind: Kind,
    spec: dict[str, Any],
    data: Data,
    may_change: Collection[str],
    reads: Reader | None = None,
) -> None:
    """Compare a run's record with what it is asked to go on with; see `changes.refuse_changes` for the spec.

    Args:
        reads: makes a spec of plain values: one that was written before there was some field gets its default.

    Raises:
        SpecError: it is a run of another kind, or of another spec or other data: names the field.
    """
    if tree["kind"] != kind:
        raise SpecError("run.name", tree["spec"]["run"]["name"], f"another name: this is a run of {tree['kind']}")
    refuse_changes(_completed(tree["spec"], reads), spec, may_change)
    for name in sorted(tree["data"].keys() | data.keys()):
        if _hash_of(tree["data"].get(name)) != _hash_of(data.get(name)):
            raise SpecError(
                "data", name, "what the run began with; it holds something else now: give the run another name"
            )


def _completed(spec: dict[str, Any], reads: Reader | None) -> dict[str, Any]:
    try:
        return spec if reads is None else reads(spec).model_dump(mode="json")
    except ValidationError:  # it has fields that are no more: the comparison names them
        return spec


def _hash_of(entry: Mapping[str, Any] | str | None) -> Any:
    return entry["hash"] if isinstance(entry, Mapping) else entry
