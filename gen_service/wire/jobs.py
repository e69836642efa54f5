"""What goes over REST about jobs: one set of models for the service and its client."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from gen_service.settings import (
    ColumnNames,
    ExtractionPolicy,
    OrderSettings,
    SamplingSettings,
    Section,
    SteeringSettings,
    Template,
    TruncationSettings,
)
from gen_service.wire.states import JobState

JOB_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"
MetadataKey = Annotated[str, StringConstraints(min_length=1, max_length=64)]
MetadataValue = Annotated[str, StringConstraints(max_length=512)]
Metadata = Annotated[dict[MetadataKey, MetadataValue], Field(max_length=16)]
JobKind = Literal["native", "batch"]


class PromptSource(Section):
    """Where a job's prompts come from: exactly one of `rows`, `file_id`, `path` and `dataset`; and how a row becomes a
    chat, as in a job spec."""

    rows: Annotated[tuple[dict[str, Any], ...], Field(min_length=1, max_length=10_000)] | None = None
    file_id: Annotated[str, StringConstraints(min_length=1, max_length=100)] | None = None
    path: Annotated[str, StringConstraints(min_length=1, max_length=4096)] | None = None
    dataset: Annotated[str, StringConstraints(pattern=r"^[\w.-]{1,96}(/[\w.-]{1,96})?$")] | None = None
    format: Literal["auto", "jsonl", "parquet", "csv", "dataset"] = "auto"
    split: Annotated[str, StringConstraints(max_length=100)] = "train"
    columns: ColumnNames = ColumnNames()
    system: str | None = None
    template: Template = "{prompt}"
    limit: Annotated[int, Field(ge=1, le=2**53)] | None = None

    @model_validator(mode="after")
    def _is_one(self) -> PromptSource:
        given = [name for name in ("rows", "file_id", "path", "dataset") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"exactly one of rows, file_id, path and dataset is needed, not {given or 'none'}")
        return self


class VerificationChoice(Section):
    """What a client may say of verification; budgets and processes are the operator's. A `kind` that names a function
    is refused: it would run code."""

    enabled: bool = True
    kind: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,63}$")] = "math"
    options: Annotated[dict[str, Any], Field(max_length=32)] = Field(default_factory=dict)
    policy: ExtractionPolicy = "strict"


class OutputChoice(Section):
    """Where traces go: without a `path` they stay with the service; one given must lie under an output root."""

    path: Annotated[str, StringConstraints(min_length=1, max_length=4096)] | None = None
    shard_rows: Annotated[int, Field(ge=1, le=1_000_000)] = 2048
    shard_s: Annotated[float, Field(gt=0, le=86_400)] = 60.0


class WebhookChoice(Section):
    """Where to tell, once, that the job ended; `secret` signs it (Standard Webhooks, HMAC-SHA256)."""

    url: Annotated[str, StringConstraints(pattern=r"^https://", max_length=2048)]
    secret: Annotated[str, StringConstraints(min_length=16, max_length=256)] | None = None


class JobRequest(Section):
    """A job as a client asks for it: a job spec without servers, which only the operator names.

    Attributes:
        priority: jobs of a higher one are served first, whatever the weights.
        weight: share of the fleet beside the tenant's other jobs of the same priority.
        max_in_flight: most requests of this job in flight, within what the fleet allows.
    """

    version: Literal[1] = 1
    name: Annotated[str, StringConstraints(pattern=JOB_NAME)] | None = None
    prompts: PromptSource
    samples: Annotated[int, Field(ge=1, le=100_000)] = 1
    model: Annotated[str, StringConstraints(min_length=1, max_length=512)] | None = None
    sampling: SamplingSettings = SamplingSettings()
    truncation: TruncationSettings = TruncationSettings()
    order: OrderSettings = OrderSettings()
    steering: SteeringSettings = SteeringSettings()
    verification: VerificationChoice = Field(default_factory=VerificationChoice)
    output: OutputChoice = OutputChoice()
    priority: Annotated[int, Field(ge=-10, le=10)] = 0
    weight: Annotated[float, Field(ge=0.01, le=100.0)] = 1.0
    max_in_flight: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    webhook: WebhookChoice | None = None
    metadata: Metadata = Field(default_factory=dict)


class _View(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class JobCounts(_View):
    """How much of a job is done: of `samples` each gets a row (`published`) or is not needed (`skipped`, by reason).
    `samples` is None while the number of prompts is not known."""

    samples: int | None = None
    published: int = 0
    skipped: dict[str, int] = Field(default_factory=dict)
    in_flight: int = 0
    waiting: int = 0
    errors: int = 0
    rejected_prompts: int = 0
    verdicts: dict[str, int] = Field(default_factory=dict)
    retries: dict[str, int] = Field(default_factory=dict)
    prompt_tokens: int = 0
    completion_tokens: int = 0

    @property
    def done(self) -> int:
        """Samples that need no more work."""
        return self.published + sum(self.skipped.values())


class JobRates(_View):
    """How fast a running job goes, over the last 30 s; `eta_s` is seconds left, None when not known."""

    traces_per_s: float = 0.0
    tokens_per_s: float = 0.0
    eta_s: float | None = None


class ServerLoad(_View):
    """One server as the job sees it: requests of the job in flight, of all jobs, and how many it takes."""

    url: str
    state: str
    job_in_flight: int
    in_flight: int
    limit: int


class JobView(_View):
    """A job as the service shows it. `rates` and `servers` are of a running job only."""

    version: Literal[1] = 1
    id: str
    name: str | None
    tenant: str
    kind: JobKind
    state: JobState
    reason: str | None
    model: str | None
    priority: int
    weight: float
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    counts: JobCounts
    rates: JobRates | None
    servers: list[ServerLoad]
    output: str | None
    metadata: dict[str, str]
    request: dict[str, Any]


class JobList(_View):
    """A page of jobs, newest first; `next_cursor` continues it, None at its end."""

    version: Literal[1] = 1
    data: list[JobView]
    next_cursor: str | None


class Shard(_View):
    """One published Parquet file of a job; `url` is where to download it, relative to the service."""

    name: str
    rows: int
    bytes: int
    sha256: str
    verdicts: dict[str, int]
    url: str


class ShardList(_View):
    """The published files of a job, in the order they were published."""

    version: Literal[1] = 1
    data: list[Shard]


class ResultPage(_View):
    """Published rows of a job in the order of publishing. `next_cursor` leads on to what comes after them, also where
    that is not published yet, and is None where nothing more will come."""

    version: Literal[1] = 1
    data: list[dict[str, Any]]
    next_cursor: str | None


class JobEventView(_View):
    """One event of a job: `state` and `notice` are kept and have an id to resume from, `progress` has none."""

    version: Literal[1] = 1
    id: int | None
    type: Literal["state", "notice", "progress"]
    job_id: str
    at: datetime
    data: dict[str, Any]


class Problem(BaseModel):
    """RFC 9457 problem details, with our `code` and the `field` at fault."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    code: str
    field: str | None = None
    instance: str | None = None
