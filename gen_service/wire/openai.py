"""What goes over REST under /v1: the objects of OpenAI's Files, Batches and Models, as their API reference has them.

Times are seconds since the epoch, whole.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from gen_service.wire.jobs import Metadata

BatchEndpoint = Literal["/v1/chat/completions", "/v1/completions"]
BatchStatus = Literal[
    "validating", "failed", "in_progress", "finalizing", "completed", "expired", "cancelling", "cancelled"
]
FilePurpose = Literal["batch", "batch_output", "prompts"]


class _Object(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class FileObject(_Object):
    """A stored file."""

    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    expires_at: int | None = None
    filename: str
    purpose: FilePurpose
    status: Literal["uploaded", "processed", "error"] = "processed"


class FileList(_Object):
    """A page of files."""

    object: Literal["list"] = "list"
    data: list[FileObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


class FileDeleted(_Object):
    """The answer to a deletion."""

    id: str
    object: Literal["file"] = "file"
    deleted: bool = True


class BatchRequest(BaseModel):
    """What creates a batch. `completion_window` is hours or days, `24h` or `7d`: past it the batch expires."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    input_file_id: Annotated[str, StringConstraints(min_length=1, max_length=100)]
    endpoint: BatchEndpoint
    completion_window: Annotated[str, StringConstraints(pattern=r"^[1-9][0-9]{0,3}[hd]$")]
    metadata: Metadata | None = None


class BatchError(_Object):
    """Why a batch failed validation; `line` is 1-based."""

    code: str
    line: int | None = None
    message: str
    param: str | None = None


class BatchErrors(_Object):
    """The list of them."""

    object: Literal["list"] = "list"
    data: list[BatchError]


class RequestCounts(_Object):
    """Requests (lines) of a batch."""

    total: int = 0
    completed: int = 0
    failed: int = 0


class BatchUsage(_Object):
    """Tokens of a batch."""

    input_tokens: int = 0
    input_tokens_details: dict[str, int] = Field(default_factory=lambda: {"cached_tokens": 0})
    output_tokens: int = 0
    output_tokens_details: dict[str, int] = Field(default_factory=lambda: {"reasoning_tokens": 0})
    total_tokens: int = 0


class Batch(_Object):
    """A batch."""

    id: str
    object: Literal["batch"] = "batch"
    endpoint: str
    errors: BatchErrors | None = None
    input_file_id: str
    completion_window: str
    status: BatchStatus
    output_file_id: str | None = None
    error_file_id: str | None = None
    created_at: int
    in_progress_at: int | None = None
    expires_at: int | None = None
    finalizing_at: int | None = None
    completed_at: int | None = None
    failed_at: int | None = None
    expired_at: int | None = None
    cancelling_at: int | None = None
    cancelled_at: int | None = None
    model: str | None = None
    request_counts: RequestCounts = RequestCounts()
    usage: BatchUsage | None = None
    metadata: dict[str, str] | None = None


class BatchList(_Object):
    """A page of batches."""

    object: Literal["list"] = "list"
    data: list[Batch]
    first_id: str | None
    last_id: str | None
    has_more: bool


class Model(_Object):
    """A model that the fleet serves; `max_model_len` is vLLM's, in tokens."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "gen-service"
    max_model_len: int | None = None


class ModelList(_Object):
    """All of them."""

    object: Literal["list"] = "list"
    data: list[Model]


class OpenAIErrorBody(_Object):
    """What is wrong, as OpenAI's clients read it."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class OpenAIError(_Object):
    """The envelope of an error under /v1."""

    error: OpenAIErrorBody
