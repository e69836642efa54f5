"""A job's folder in memory, that keeps nothing but what decides: for a job that only virtual time runs."""

from __future__ import annotations

from collections.abc import Iterator

from gen_service.errors import BadPromptRow
from gen_service.records import Partial, Skipped, Trace


class MemoryFolder:
    """What generation needs of a folder; traces are let go when they are published. Disks take no time here."""

    def __init__(self) -> None:
        self._done: set[str] = set()
        self._correct: set[str] = set()
        self._skipped: set[str] = set()

    def is_done(self, sample_id: str) -> bool:
        """Whether the sample has a row, or was skipped."""
        return sample_id in self._done

    def is_correct(self, sample_id: str) -> bool:
        """Whether the sample has a right answer."""
        return sample_id in self._correct

    def is_skipped(self, sample_id: str) -> bool:
        """Whether the sample is not made."""
        return sample_id in self._skipped

    def is_ungradable(self, sample_id: str) -> bool:
        """False: in a plan every gold can be graded against."""
        return False

    def recovered(self) -> Iterator[tuple[None, Trace]]:
        """Nothing: no run was before this one."""
        return iter(())

    async def record(self, trace: Trace) -> None:
        """The sample has a row from now on."""
        self._done.add(trace.sample.sample_id)

    async def publish(self, position: None, trace: Trace) -> None:
        """Remember whether the answer was right."""
        if trace.verdict is not None and trace.verdict.outcome == "correct":
            self._correct.add(trace.sample.sample_id)

    def skip(self, skipped: Skipped) -> None:
        """The sample is not made."""
        self._done.add(skipped.sample_id)
        self._skipped.add(skipped.sample_id)

    async def keep_up(self) -> None:
        """Nothing to wait for: there is no disk."""

    def reject(self, bad: BadPromptRow) -> bool:
        """A row is no prompt; nobody asks for it again."""
        return True

    def partial_of(self, sample_id: str) -> Partial | None:
        """None: nothing is under way when a plan begins."""
        return None

    def keep_partial(self, partial: Partial) -> None:
        """Not kept: a plan is not killed and continued."""
