"""How a run of a job ended, and what becomes of the job then. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from gen_service.errors import GenServiceError, SpecError
from gen_service.wire.states import JobEvent, JobState

# Why a run was asked to end: to rest, to wait for its turn again, or for good.
Wish = Literal["pause", "requeue", "end"]


@dataclass(frozen=True, slots=True)
class Ending:
    """How a run ended.

    Attributes:
        complete: every sample is published.
        wish: why it was asked to end, if it was.
        recovered: what earlier runs journaled is published; a run that was asked to end early may not have come to it.
        failure: what it raised, if it did.
        nothing_usable: why no prompt of the job could be used, where none could.
    """

    complete: bool = False
    wish: Wish | None = None
    recovered: bool = False
    failure: Exception | None = None
    nothing_usable: str | None = None

    def event(self, state: JobState) -> tuple[JobEvent, str | None] | None:
        """What happens to a job in `state`, and its reason; None where nothing is left to do.

        A job that was asked to rest and got done is done. One that ends for good ends so although its source of
        prompts has vanished: what was finished is published before that is looked at.
        """
        if state in ("cancelling", "expiring"):
            if isinstance(self.failure, SpecError):
                return "ended", None
            if self.failure is not None:
                return "fail", said(self.failure)
            return ("ended", None) if self.recovered else None
        if state == "finalizing":
            return "ended", None
        if state != "running":
            return None
        if self.failure is not None:
            return "fail", said(self.failure)
        if self.complete:
            return ("fail", self.nothing_usable) if self.nothing_usable else ("finish", None)
        return ("pause" if self.wish == "pause" else "requeue"), None


def said(failure: Exception) -> str:
    """A failure as the reason of a job: our errors say what is wrong, any other is a bug and named as such."""
    return str(failure) if isinstance(failure, GenServiceError) else f"a bug in the service: {failure!r}"
