"""What a run says of its job when it opens the job's folder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gen_service.settings import OutputSettings


@dataclass(frozen=True, slots=True)
class JobOpening:
    """A job, as one run writes it.

    Attributes:
        job_id: name of the folder under `output.path`.
        output: where.
        spec: the accepted spec, JSON values only; kept in job.json and on the card.
        identity: the part of the spec that decides what a sample is: must be the same in every run.
        sampling: how samples are drawn, as JSON; a column of every row.
        verify: at open, read every published file and compare its sha256.
        steering: fingerprint of what this run steers for, "" for nothing; what was skipped under another one is open
            again.
        keep_outcomes: whether it will be asked which samples were right, and which ungradable.
    """

    job_id: str
    output: OutputSettings
    spec: dict[str, Any]
    identity: dict[str, Any]
    sampling: str
    verify: bool = False
    steering: str = ""
    keep_outcomes: bool = False
