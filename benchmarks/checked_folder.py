"""A job's folder in memory that holds everyone to the promises: what is asked twice, lost or doubled is an error."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace

from gen_service.errors import BadPromptRow
from gen_service.records import NO_TOKENS, Outcome, Partial, Skipped, Trace


class BrokenPromise(AssertionError):
    """A promise of the product did not hold."""


class CheckedFolder:
    """What the real folder promises, without a disk. Token ids are checked when they come and not kept.

    What `record` has returned for is durable, and so are partial completions after `partial_s`; `killed` is what a
    kill -9 leaves: everything else of the run is gone.

    Args:
        check: called with each trace before it is recorded; raises what is wrong with it.
        record_s: seconds that a write takes to be durable.

    Attributes:
        rows: outcome of each published sample.
        tokens: completion tokens of all rows.
        errors: rows that ended in an error.
        continued: rows that were taken up again from their tokens at least once.
        most_open: the most samples that were recorded and not published at once.
    """

    def __init__(self, check: Callable[[Trace], None] = lambda _: None, record_s: float = 0.0) -> None:
        self.rows: dict[str, Outcome] = {}
        self.skipped: dict[str, Skipped] = {}
        self.tokens = 0
        self.errors: list[Trace] = []
        self.continued = 0
        self.most_open = 0
        self._check = check
        self._record_s = record_s
        self._journal: dict[str, Trace] = {}
        self._partials: dict[str, Partial] = {}

    @property
    def journaled(self) -> int:
        """Samples recorded and not published."""
        return len(self._journal)

    def is_done(self, sample_id: str) -> bool:
        """Whether it is recorded, published or skipped."""
        return sample_id in self._journal or sample_id in self.rows or sample_id in self.skipped

    def is_correct(self, sample_id: str) -> bool:
        """Whether it is published as right."""
        return self.rows.get(sample_id) == "correct"

    def is_ungradable(self, sample_id: str) -> bool:
        """Whether it is published as ungradable."""
        return self.rows.get(sample_id) == "ungradable"

    def is_skipped(self, sample_id: str) -> bool:
        """Whether it is skipped."""
        return sample_id in self.skipped

    async def keep_up(self) -> None:
        """There is no disk to wait for."""
        await asyncio.sleep(0)

    def skip(self, skipped: Skipped) -> None:
        """Account for a sample that is not made."""
        if self.is_done(skipped.sample_id):
            raise BrokenPromise(f"sample {skipped.sample_id} is done, and skipped as well")
        self.skipped[skipped.sample_id] = skipped

    def partial_of(self, sample_id: str) -> Partial | None:
        """What was kept of an unfinished answer."""
        return self._partials.get(sample_id)

    def keep_partial(self, partial: Partial) -> None:
        """Keep what has come of an answer."""
        self._partials[partial.sample_id] = partial

    def recovered(self) -> Iterator[tuple[str, Trace]]:
        """What earlier runs recorded and did not publish."""
        yield from list(self._journal.items())

    async def record(self, trace: Trace) -> str:
        """Durable when it returns."""
        sample_id = trace.sample.sample_id
        if self.is_done(sample_id):
            raise BrokenPromise(f"sample {sample_id} is recorded a second time")
        self._check(trace)
        if self._record_s:
            await asyncio.sleep(self._record_s)
        completion = trace.completion
        if completion is not None:
            trace = replace(trace, completion=replace(completion, token_ids=NO_TOKENS))
            self.continued += completion.continued > 0
        self._journal[sample_id] = trace
        self._partials.pop(sample_id, None)
        self.most_open = max(self.most_open, len(self._journal))
        return sample_id

    async def publish(self, position: str, trace: Trace) -> None:
        """Make it a row."""
        if trace.verdict is None or position in self.rows:
            raise BrokenPromise(f"sample {position} is published without a verdict, or twice")
        del self._journal[position]
        self.rows[position] = trace.verdict.outcome
        if trace.completion is not None:
            self.tokens += trace.completion.completion_tokens
        else:
            self.errors.append(trace)

    def reject(self, bad: BadPromptRow) -> bool:
        """No prompt of a simulation is bad."""
        raise BrokenPromise(f"a prompt was rejected: {bad}")

    def outcomes(self) -> Counter[str]:
        """Rows by outcome."""
        return Counter(self.rows.values())
