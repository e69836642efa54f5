"""The states of a job: a pure machine with all its transitions in one table.

`validating` reads the input of a batch; `queued` waits for its turn; `running` samples; `paused` rests, with all it
made readable; `cancelling` and `expiring` let running samples have their grace; `finalizing` writes what only an ended
job has (a batch's files). The last four are final. A restart of the service moves nothing: a job in a state that is
not final is taken up again in that state.
"""

from __future__ import annotations

from typing import Literal, get_args

JobState = Literal[
    "validating",
    "queued",
    "running",
    "paused",
    "cancelling",
    "expiring",
    "finalizing",
    "completed",
    "failed",
    "cancelled",
    "expired",
]
JobEvent = Literal["accept", "start", "pause", "resume", "requeue", "finish", "cancel", "expire", "ended", "fail"]

STATES: tuple[JobState, ...] = get_args(JobState)
FINAL: frozenset[JobState] = frozenset({"completed", "failed", "cancelled", "expired"})
# States in which a job counts against its tenant's quotas.
ACTIVE: frozenset[JobState] = frozenset(STATES) - FINAL

# (state, event) -> the state after it. What is not here cannot happen.
TRANSITIONS: dict[tuple[JobState, JobEvent], JobState] = {
    ("validating", "accept"): "queued",
    ("validating", "fail"): "failed",
    ("validating", "cancel"): "cancelling",
    ("validating", "expire"): "expiring",
    ("queued", "start"): "running",
    ("queued", "pause"): "paused",
    ("queued", "cancel"): "cancelling",
    ("queued", "expire"): "expiring",
    ("queued", "fail"): "failed",
    ("running", "pause"): "paused",
    # The service drains: the job goes on at the next start.
    ("running", "requeue"): "queued",
    ("running", "finish"): "finalizing",
    ("running", "cancel"): "cancelling",
    ("running", "expire"): "expiring",
    ("running", "fail"): "failed",
    ("paused", "resume"): "queued",
    ("paused", "cancel"): "cancelling",
    ("paused", "expire"): "expiring",
    ("cancelling", "ended"): "cancelled",
    ("cancelling", "fail"): "failed",
    ("expiring", "ended"): "expired",
    ("expiring", "fail"): "failed",
    ("finalizing", "ended"): "completed",
    ("finalizing", "fail"): "failed",
}


def after(state: JobState, event: JobEvent) -> JobState | None:
    """The state that `event` leads to, or None where it cannot happen."""
    return TRANSITIONS.get((state, event))
