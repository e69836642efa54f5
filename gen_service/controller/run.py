"""One running job: a look into it for whoever shows it, and the ways to end it."""

from __future__ import annotations

import asyncio
from collections import Counter

from gen_service.controller.endings import Wish
from gen_service.endpoints.fleet import Fleet
from gen_service.endpoints.job_fleet import JobFleet
from gen_service.generation.pool import Stop
from gen_service.generation.progress import Progress
from gen_service.jobs.rates import Rates
from gen_service.jobs.runner import JobReport, RunningJob
from gen_service.storage.manifest import PublishedCounts
from gen_service.store.rows import JobRow
from gen_service.wire.jobs import JobCounts, JobRates, ServerLoad

# A job that ends for good is not worth its samples' whole grace.
SHORT_GRACE_S = 1.0


class Run:
    """A run of a job, from the moment it was chosen until its row says how it ended.

    Attributes:
        row: the job's row when the run began.
        stop: asks the run to end.
        wish: why it was asked to end, if it was.
        running: the look into the job, once its folder is open.
        is_sampling: what earlier runs journaled is published, and servers are asked.
        report: how the run ended.

    Args:
        tenant_weight: the tenant's share of the fleet.
        grace_s: seconds that running samples have when the run is asked to end.
    """

    def __init__(self, row: JobRow, tenant_weight: float, grace_s: float) -> None:
        self.row = row
        self.tenant_weight = tenant_weight
        self.stop = Stop()
        self.is_sampling = False
        self.report: JobReport | None = None
        self._grace_s = grace_s
        self.wish: Wish | None = None
        self.running: RunningJob | None = None
        self._before = JobCounts.model_validate(row.counts)
        self._rates = Rates()

    @property
    def takes_more(self) -> bool:
        """Whether it still takes in samples: neither in its tail nor asked to end."""
        is_in_tail = self.running is not None and self.running.progress.exhausted
        return not is_in_tail and self.wish is None and not self.stop.asked

    def opened(self, running: RunningJob) -> None:
        """The job's folder is open; samples come next."""
        self.running = running
        self.look()

    def end(self, wish: Wish) -> None:
        """Ask it to end. For good, it ends soon, and nothing changes that any more; else samples have their grace,
        and the last wish counts."""
        if self.wish != "end":
            self.wish = wish
        if not self.stop.asked:
            self.stop.ask()
        if wish == "end":
            asyncio.get_running_loop().call_later(min(SHORT_GRACE_S, self._grace_s), self.stop.ask)

    def look(self) -> None:
        """Take a point of the rates; to be called about once a second."""
        if self.running is not None:
            self._rates.at(asyncio.get_running_loop().time(), self.running.progress)

    def counts(self) -> JobCounts:
        """As of now, over all runs of the job."""
        running = self.running
        if running is None:
            return self._before
        if self.report is not None:
            published, complete = self.report.published, self.report.complete
            expected = published.samples if complete else running.progress.expected
            return self._counts(published, Progress(expected=expected, retries=running.progress.retries), None)
        return self._counts(running.published_before, running.progress, running.fleet)

    def rates(self) -> JobRates | None:
        """How fast it goes; None before it is open."""
        if self.running is None:
            return None
        rate = self._rates.at(asyncio.get_running_loop().time(), self.running.progress)
        return JobRates(traces_per_s=rate.rows, tokens_per_s=rate.tokens, eta_s=rate.left_s)

    def servers(self, fleet: Fleet) -> list[ServerLoad]:
        """Each server as the job sees it, those that are leaving among them."""
        own = None if self.running is None else self.running.fleet
        return [
            ServerLoad(
                url=endpoint.url,
                state=fleet.state_of(endpoint),
                job_in_flight=0 if own is None else own.in_flight_at(endpoint.url),
                in_flight=endpoint.in_flight,
                limit=int(endpoint.limit),
            )
            for endpoint in fleet.known
        ]

    def _counts(self, before: PublishedCounts, progress: Progress, fleet: JobFleet | None) -> JobCounts:
        verdicts = Counter(before.by_verdict) + progress.outcomes
        skipped: Counter[str] = Counter(before.skipped)
        skipped.update(progress.skipped)
        return JobCounts(
            samples=self.row.samples if progress.expected is None else progress.expected,
            published=before.rows + progress.published,
            skipped=dict(skipped),
            in_flight=0 if fleet is None else fleet.in_flight,
            waiting=0 if fleet is None else fleet.waiting,
            errors=verdicts["error"],
            rejected_prompts=before.rejected + progress.rejected,
            verdicts=dict(verdicts),
            retries=dict(Counter(self._before.retries) + progress.retries),
            prompt_tokens=before.prompt_tokens + progress.prompt_tokens,
            completion_tokens=before.completion_tokens + progress.completion_tokens,
        )
