"""From what a job's row holds to the job spec that runs, under the operator's present settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gen_service.controller.verifiers import verification_of
from gen_service.jobs.job import JobSpec, make_spec
from gen_service.service_settings import ServiceSettings
from gen_service.settings import OrderSettings, PoolSettings
from gen_service.storage.destination import is_url
from gen_service.store.rows import FileRow, JobRow
from gen_service.wire.jobs import JobRequest, PromptSource, VerificationChoice
from gen_service.wire.openai import BatchRequest

# Marks a path in the data folder, which may lie elsewhere at the next start.
OURS = "data:"
INLINE = "prompts"
# Prompts that one of many jobs holds in memory for its order; 200 jobs with 1,000 characters each take 100 MB.
MOST_WINDOW = 512


def native_spec(
    tenant: str, request: JobRequest, model: str, prompts: dict[str, Any], output_path: str | None
) -> dict[str, Any]:
    """The spec to store for a request: what shapes the answers, without servers, keys and budgets.

    Args:
        prompts: as `prompt_section` made it.
        output_path: where traces go, allowed; None: they stay with the service.
    """
    output = request.output
    return {
        "prompts": prompts,
        "samples": request.samples,
        "endpoints": {"model": model},
        "sampling": request.sampling.model_dump(mode="json"),
        "truncation": request.truncation.model_dump(mode="json"),
        "order": request.order.model_dump(mode="json"),
        "steering": request.steering.model_dump(mode="json"),
        "verification": request.verification.model_dump(mode="json"),
        "output": _output(tenant, output_path) | {"shard_rows": output.shard_rows, "shard_s": output.shard_s},
    }


def prompt_section(
    job_id: str, source: PromptSource, found: FileRow | str | None, max_row_bytes: int
) -> dict[str, Any]:
    """The prompts of the spec to store.

    Args:
        found: the upload that the request names, or the path that was allowed.
        max_row_bytes: a longer row is set aside.
    """
    shaping = source.model_dump(mode="json", include={"split", "columns", "system", "template", "limit"})
    shaping["max_row_bytes"] = max_row_bytes
    if source.rows is not None:
        return shaping | {"path": f"{OURS}{INLINE}/{job_id}.jsonl", "format": "jsonl"}
    if isinstance(found, FileRow):
        return shaping | {"path": f"{OURS}files/{found.id}", "format": _upload_format(source, found)}
    if source.dataset is not None:
        return shaping | {"path": f"hub:{source.dataset}", "format": "hub"}
    return shaping | {"path": found, "format": source.format}


def batch_spec(tenant: str, request: BatchRequest, model: str | None, max_row_bytes: int) -> dict[str, Any]:
    """The spec to store for a batch, whose lines say themselves how they are sampled."""
    path = f"{OURS}files/{request.input_file_id}"
    return {
        "prompts": {"path": path, "format": "batch", "max_row_bytes": max_row_bytes},
        "endpoints": {"model": model},
        "verification": {"enabled": False},
        "output": _output(tenant, None),
    }


def spec_of(row: JobRow, settings: ServiceSettings) -> JobSpec:
    """The job spec of a stored job.

    Raises:
        SpecError: the present settings cannot be reconciled with it.
    """
    document: dict[str, Any] = {key: _placed(value, settings.data.folder) for key, value in row.spec.items()}
    choice = VerificationChoice.model_validate(row.spec["verification"])
    order = OrderSettings.model_validate(row.spec.get("order", {}))
    return make_spec(
        document
        | {
            "name": row.id,
            "endpoints": settings.endpoints.model_copy(update={"model": row.spec["endpoints"]["model"]}),
            "pool": pool_of(settings),
            "order": order.model_copy(update={"window": min(order.window, MOST_WINDOW)}),
            "verification": verification_of(choice, settings.verifier),
        }
    )


def pool_of(settings: ServiceSettings) -> PoolSettings:
    """How much may be in flight, of all jobs together."""
    fleet = settings.fleet
    return PoolSettings(
        in_flight=fleet.in_flight, per_server=fleet.per_server, limit=fleet.limit, grace_s=fleet.grace_s
    )


def inline_path(job_id: str, settings: ServiceSettings) -> Path:
    """Where the rows lie that a request brought along."""
    return settings.data.folder / INLINE / f"{job_id}.jsonl"


def folder_of(row: JobRow, settings: ServiceSettings) -> str:
    """The folder or URL of a job's published output."""
    path = str(_placed(row.spec["output"], settings.data.folder)["path"])
    return f"{path.rstrip('/')}/{row.id}"


def without_paths(words: str, settings: ServiceSettings) -> str:
    """Words for a client, to whom it means nothing where on this machine the data lie."""
    return words.replace(f"{settings.data.folder.absolute()}/", "").replace(f"{settings.data.folder}/", "")


def is_ours(row: JobRow) -> bool:
    """Whether the traces lie with the service, not in a place that the client named."""
    return str(row.spec["output"]["path"]).startswith(OURS)


def _upload_format(source: PromptSource, file: FileRow) -> str:
    """What an upload is: as the request says, else as its name ends, else JSONL. On disk it has no name."""
    endings = {".parquet": "parquet", ".csv": "csv"}
    if source.format != "auto":
        return source.format
    return next((kind for ending, kind in endings.items() if file.filename.lower().endswith(ending)), "jsonl")


def _output(tenant: str, path: str | None) -> dict[str, Any]:
    """The journal stays on the service's disk where the traces lie behind a URL."""
    if path is None:
        return {"path": f"{OURS}traces/{tenant}"}
    return {"path": path} | ({"journal": f"{OURS}journals/{tenant}"} if is_url(path) else {})


def _placed(section: Any, folder: Path) -> Any:
    """A section of a spec with its paths in the data folder as that lies now."""
    if not isinstance(section, dict):
        return section
    ours = {key: value for key in ("path", "journal") if str(value := section.get(key)).startswith(OURS)}
    return section | {key: str(folder / str(path).removeprefix(OURS)) for key, path in ours.items()}
