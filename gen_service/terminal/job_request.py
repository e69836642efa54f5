"""Reads a job request from a file, as people write it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from gen_service.errors import SpecError
from gen_service.jobs.job import spec_error
from gen_service.storage.destination import is_url
from gen_service.wire.jobs import JobRequest

_HUB = "hub:"
_COMPRESSED = frozenset({".gz", ".bz2", ".xz", ".zst"})
# Sections of a job spec that only the operator of a service writes: what to say instead.
_OPERATORS = {
    "endpoints": "no servers, since the service has its own; write `model: NAME` to choose among their models",
    "pool": "no pool, since the service shares one among all jobs; write `max_in_flight: N` to bound this job's part",
}


def load_request(path: Path, name: str | None = None) -> JobRequest:
    """A job request from a YAML or JSON file; `prompts` and `output` may be a path alone, as in a job spec.

    Args:
        name: over the file's.

    Raises:
        SpecError: the file cannot be read, or a field is wrong; it names the field, the value and what would be right.
    """
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise SpecError("spec", str(path), f"a readable YAML or JSON file ({error})") from error
    if not isinstance(document, dict):
        raise SpecError("spec", str(path), "a mapping with at least `prompts`")
    for section, instead in _OPERATORS.items():
        if section in document:
            raise SpecError(section, "a section", instead)
    try:
        return JobRequest.model_validate(_long(document) | ({} if name is None else {"name": name}))
    except ValidationError as error:
        problem = spec_error(error)
        if "secret" in problem.field:
            raise SpecError(problem.field, "***", problem.expected) from None
        raise problem from error


def upload_of(request: JobRequest) -> Path | None:
    """The file on this machine that the prompts are in; None where they are not in one.

    Raises:
        SpecError: there is no such file, or it is not one that the service takes.
    """
    path = request.prompts.path
    if path is None or is_url(path):
        return None
    source = Path(path)
    if source.suffix.lower() in _COMPRESSED:
        raise SpecError("prompts.path", path, "a file that is not compressed")
    if not source.is_file():
        raise SpecError("prompts.path", path, "a file on this machine; with --on-server it is the service's own path")
    return source


def with_file(request: JobRequest, file_id: str) -> JobRequest:
    """The request with an upload in place of its path."""
    prompts = request.prompts.model_copy(update={"file_id": file_id})
    shaping = prompts.model_dump(mode="json", exclude_unset=True, exclude={"path"})
    return request.model_copy(update={"prompts": type(prompts).model_validate(shaping)})


def _long(document: dict[str, Any]) -> dict[str, Any]:
    """Sections that were written short made long, and a hub id in its own field."""
    long = dict(document)
    for section in ("prompts", "output"):
        if isinstance(long.get(section), str):
            long[section] = {"path": long[section]}
    prompts = long.get("prompts")
    if isinstance(prompts, dict) and str(prompts.get("path", "")).startswith(_HUB):
        rest = {key: value for key, value in prompts.items() if key not in ("path", "format")}
        long["prompts"] = rest | {"dataset": prompts["path"].removeprefix(_HUB)}
    return long
