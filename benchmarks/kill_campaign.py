"""kill -9 at seeded moments, the same command again each time, then the servers' own log against what is published.

A moment is a place in the work, not a time: when so many answers were sent, or when a new run has just opened the job.
"""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.servers import simulated_servers
from benchmarks.trip import (
    ServerLog,
    exit_code,
    generating,
    journaled_ids,
    manifests,
    published_ids,
    settle,
    wait_until,
    write_spec,
)
from benchmarks.workload import SEED, samples_of, sums_spec, write_sums
from gen_service.storage import traces
from gen_service.storage.job_places import places

IN_FLIGHT = 64
# Besides those in flight, the pool holds this many samples between their last token and their shard.
OPEN_LIMIT = IN_FLIGHT + 64
OPENING_SHARE = 0.2
SERVERS = ["--seed", str(SEED), "--length", "400", "--unit", "bytes", "--latency", "0.03:0.3:0.6"]


@dataclass(slots=True)
class KillReport:
    """What a kill campaign found.

    Attributes:
        samples, kills: of the job; how many runs were killed.
        killed_while_opening: how many of them before their first answer.
        rows: published rows by the manifests.
        lost, doubled: samples without a row, and rows beyond a sample's first.
        asked_though_durable: requests for samples that were journaled or published before that run began.
        wrong_text: rows whose text no server says it sent for that sample.
        requests: that the servers received.
        asked_again: requests beyond a sample's first.
        open_at_kill: for each kill, samples asked for and not durable: at most these are asked again.
        open_limit: most samples that may be open at once.
        exit_code: of the last run, which nobody killed.
    """

    samples: int
    kills: int = 0
    killed_while_opening: int = 0
    rows: int = 0
    lost: int = 0
    doubled: int = 0
    asked_though_durable: int = 0
    wrong_text: int = 0
    requests: int = 0
    asked_again: int = 0
    open_at_kill: list[int] = field(default_factory=list)
    open_limit: int = 0
    exit_code: int = -1

    @property
    def holds(self) -> bool:
        """Whether every promise held."""
        return (
            self.exit_code == 0
            and self.rows == self.samples
            and not (self.lost or self.doubled or self.asked_though_durable or self.wrong_text)
            and self.asked_again <= sum(self.open_at_kill)
            and max(self.open_at_kill, default=0) <= self.open_limit
        )


def run_kill_campaign(folder: Path, samples: int, kills: int, seed: int = SEED) -> KillReport:
    """Run it in an empty folder. The servers are processes of their own and survive every kill."""
    arguments = [*SERVERS, "--log", str(folder / "servers.log")]
    with simulated_servers(arguments, processes=2) as urls:
        return _Campaign(folder, samples, urls, random.Random(seed)).run(kills)


class _Campaign:
    def __init__(self, folder: Path, samples: int, urls: tuple[str, ...], chance: random.Random) -> None:
        prompts = write_sums(folder / "prompts.jsonl", samples)
        rows = max(50, samples // 20)
        output = {"path": str(folder / "out"), "shard_rows": rows}
        pool = {"in_flight": IN_FLIGHT}
        verification = {"workers": 1}
        self._spec = sums_spec(folder, prompts, urls, pool=pool, output=output, verification=verification)
        self._spec_file = write_spec(folder / "spec.json", self._spec)
        self._words = folder / "words.txt"
        self._log = ServerLog(folder / "servers.log")
        self._expected = {sample.sample_id for sample in samples_of(self._spec, folder)}
        self._chance = chance
        self._report = KillReport(samples, open_limit=OPEN_LIMIT)

    def run(self, kills: int) -> KillReport:
        last = int(0.95 * len(self._expected))
        for goal in sorted(self._chance.randrange(1, last) for _ in range(kills)):
            self._run_and_kill(goal)
        durable, first = self._durable(), len(self._log.read().received)
        with generating(self._spec_file, self._words) as child:
            self._report.exit_code = exit_code(child)
        self._check_asked(durable, first)
        self._check_published()
        return self._report

    def _run_and_kill(self, goal: int) -> None:
        durable, first, before = self._durable(), len(self._log.read().received), manifests(self._spec)
        while_opening = self._chance.random() < OPENING_SHARE
        wanted = max(goal, self._log.answered + self._chance.randrange(1, IN_FLIGHT))
        reached: Callable[[], bool] = lambda: self._log.read().answered >= wanted  # noqa: E731
        if while_opening:
            reached = lambda: manifests(self._spec) > before  # noqa: E731
        with generating(self._spec_file, self._words) as child:
            if wait_until(reached, child, self._words):
                child.kill()
                self._report.kills += 1
                self._report.killed_while_opening += while_opening
            exit_code(child)
        settle(self._spec.endpoints.urls)
        asked = self._check_asked(durable, first)
        self._report.open_at_kill.append(len(asked - self._durable()))

    def _durable(self) -> set[str]:
        return {*journaled_ids(self._spec), *published_ids(self._spec)}

    def _check_asked(self, durable: set[str], first: int) -> set[str]:
        """The samples that the run asked for, which began with these durable and this many requests behind it."""
        asked = self._log.read().received[first:]
        self._report.asked_though_durable += sum(sample_id in durable for sample_id in asked)
        return set(asked)

    def _check_published(self) -> None:
        report, log, counts = self._report, self._log.read(), Counter[str]()
        folder = places(self._spec.output, self._spec.job_id).published
        for row in traces.read_traces(folder, ["sample_id", "reasoning", "content"]):
            counts[row["sample_id"]] += 1
            text = (row["reasoning"] or "") + (row["content"] or "")
            report.wrong_text += hashlib.sha256(text.encode()).hexdigest() not in log.sent.get(row["sample_id"], ())
        report.rows = traces.published_counts(folder).rows
        report.lost = len(self._expected - counts.keys())
        report.doubled = counts.total() - len(counts) + len(counts.keys() - self._expected)
        report.requests = len(log.received)
        report.asked_again = len(log.received) - len(set(log.received))
