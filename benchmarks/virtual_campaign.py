"""40,000 samples in virtual time while servers die, stall, slow down, drain and return, and the controller is killed:
the promises of the design, held to in every run. A seed that fails prints how to replay it.

    python -m benchmarks.virtual_campaign --seeds 0:200 --workers 2
    python -m benchmarks.virtual_campaign --seeds 17
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import numpy as np

from benchmarks.checked_folder import BrokenPromise, CheckedFolder
from benchmarks.fleet_jobs import ChanceVerifier, SimulatedJob, run_job
from gen_service.endpoints.client import ServedModel
from gen_service.endpoints.draft import Draft
from gen_service.endpoints.endpoint import Endpoint, Place
from gen_service.endpoints.fleet import Fleet
from gen_service.endpoints.question import Question
from gen_service.endpoints.readings import Readings
from gen_service.endpoints.simulated.engine_profile import EngineProfile
from gen_service.endpoints.simulated.lengths import Lengths
from gen_service.endpoints.simulated.virtual_servers import (
    VirtualServer,
    VirtualServers,
    expected_ids,
    fault_schedule,
)
from gen_service.endpoints.simulated.virtual_time import run_in_virtual_time
from gen_service.errors import EndpointError
from gen_service.generation.pool import Stop
from gen_service.records import Trace
from gen_service.settings import EndpointSettings, OrderSettings, PoolSettings, SteeringSettings

SAMPLES: Final = 40_000
SERVERS: Final = 8
LENGTHS: Final = Lengths(mean=2000.0, cap=12_000)
PROFILE: Final = EngineProfile(
    kv_blocks=10_000, step_s=((1, 0.012), (256, 0.02)), kv_token_s=3e-8, prefill_token_s=6e-5, watermark=0.1
)
# Tokens that a stream brought before it broke, from which on the sample must go on and not begin anew.
WORTH_KEEPING: Final = 64
# A job whose servers fail all the time takes longer than this only when it hangs.
LONGEST_S: Final = 400_000.0
# What the pool may have open beside what is in flight, and a turn of the event loop.
OPEN_SLACK: Final = 600


@dataclass(slots=True)
class Outcome:
    """What one seed came to."""

    seed: int
    samples: int
    virtual_s: float = 0.0
    wall_s: float = 0.0
    runs: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    retries: Counter[str] = field(default_factory=Counter)
    rows: int = 0
    skipped: int = 0
    continued: int = 0
    made_twice: float = 0.0
    failure: str = ""


class Watchful:
    """The virtual servers, with the promises about requests checked at each."""

    def __init__(self, servers: VirtualServers, folder: CheckedFolder) -> None:
        self._servers = servers
        self._folder = folder
        self._most: dict[str, int] = {}
        self.in_flight: Counter[str] = Counter()
        self.most_in_flight = 0
        self.failed: Counter[str] = Counter()
        self._broke_with: dict[str, int] = {}

    async def models(self, url: str) -> list[ServedModel]:
        """As the servers."""
        return await self._servers.models(url)

    async def readings(self, url: str) -> Readings:
        """As the servers."""
        return await self._servers.readings(url)

    def killed(self) -> None:
        """The controller is gone, and what it knew of broken streams."""
        self._broke_with.clear()

    async def stream(self, url: str, model: str, question: Question, draft: Draft, budget: int | None) -> None:
        """As the servers.

        Raises:
            BrokenPromise: the request should not have been sent.
        """
        sample_id = question.request_id
        self._check_sent(url, sample_id, len(draft.token_ids))
        self.in_flight[url] += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight.total())
        try:
            await self._servers.stream(url, model, question, draft, budget)
            self._broke_with.pop(sample_id, None)
        except EndpointError as error:
            self.failed[error.cause] += 1
            self._broke_with[sample_id] = len(draft.token_ids)
            raise
        finally:
            self.in_flight[url] -= 1

    def _check_sent(self, url: str, sample_id: str, given: int) -> None:
        if self._folder.is_done(sample_id):
            raise BrokenPromise(f"2: sample {sample_id} is done and asked for again")
        if self._broke_with.pop(sample_id, 0) >= WORTH_KEEPING and not given:
            raise BrokenPromise(f"4: sample {sample_id} begins anew though its tokens had come")
        if self.in_flight[url] + 1 > self._most[url]:
            raise BrokenPromise(f"3: {url} is sent more than it was given places")

    def guard(self, fleet: Fleet) -> None:
        """Check each place in the moment when it is given: a limit may be cut between that and the request."""
        self._most = dict.fromkeys(self._servers.servers, 0)
        for endpoint in fleet.endpoints:
            self._guard(endpoint, fleet)

    def _guard(self, endpoint: Endpoint, fleet: Fleet) -> None:
        give = endpoint.sent

        def given(now: float) -> Place:
            place = give(now)
            self._most[endpoint.url] = max(self._most[endpoint.url], endpoint.in_flight)
            if endpoint.in_flight > int(endpoint.limit):
                raise BrokenPromise(f"3: {endpoint.url} is given {endpoint.in_flight}, its limit is {endpoint.limit}")
            if fleet.places.taken > fleet.places.limit:
                raise BrokenPromise(f"3: {fleet.places.taken} in flight, the limit of all is {fleet.places.limit}")
            return place

        endpoint.sent = given  # type: ignore[method-assign]


def check_trace(trace: Trace) -> None:
    """Every token of an answer is the sample's own, in its place.

    Raises:
        BrokenPromise: one is not.
    """
    completion = trace.completion
    if completion is None:
        raise BrokenPromise(f"3: a prompt was lost to its servers: {trace.error}")
    ids = completion.token_ids
    if not np.array_equal(ids, np.asarray(expected_ids(trace.sample.sample_id, 0, len(ids)))):
        raise BrokenPromise(f"4: sample {trace.sample.sample_id} has tokens that are not its own")
    if completion.completion_tokens != len(ids):
        raise BrokenPromise(f"4: sample {trace.sample.sample_id} has {len(ids)} ids, counted differently")


class Campaign:
    """One seed: what is run, what goes wrong, and what must hold."""

    def __init__(self, seed: int, samples: int) -> None:
        drawn = self._drawn = random.Random(seed)
        self.outcome = Outcome(seed, samples)
        per_prompt = drawn.choice([1, 2, 4, 8])
        self.job = SimulatedJob(f"job{seed}", samples // per_prompt, per_prompt, p_right=drawn.choice([0.2, 0.5, 0.9]))
        self.order = OrderSettings(
            policy=drawn.choice(["longest_first", "as_read"]),
            probe=drawn.random() < 0.8,
            window=drawn.choice([64, 2048]),
        )
        self.steering = self._steering(per_prompt)
        self.pool = PoolSettings(
            in_flight=drawn.choice([200, 2048]),
            per_server=drawn.choice([None, 40]),
            limit=drawn.choice(["auto", "auto", "fixed"]),
            grace_s=drawn.choice([0.0, 60.0]),
        )
        self.folder = CheckedFolder(check_trace, record_s=0.05)
        self.urls = [f"http://virtual-{index}" for index in range(SERVERS)]

    def _steering(self, per_prompt: int) -> SteeringSettings:
        drawn = self._drawn
        if drawn.random() < 0.6:
            return SteeringSettings()
        return SteeringSettings(
            correct=drawn.choice([None, 1]),
            give_up_after=drawn.choice([None, max(1, per_prompt // 2)]),
            drop_ungradable=drawn.random() < 0.5,
            verified=drawn.choice([None, self.outcome.samples // 4]),
            sample_budget=drawn.choice([None, None, self.outcome.samples // 2]),
            token_budget=drawn.choice([None, None, 500 * self.outcome.samples]),
        )

    async def run(self) -> None:
        """Run the job over all its interruptions."""
        loop, drawn = asyncio.get_running_loop(), self._drawn
        servers = VirtualServers([VirtualServer(url, PROFILE) for url in self.urls], LENGTHS)
        faults = fault_schedule(self.outcome.seed, self.urls, LONGEST_S, mean_between_s=drawn.choice([600.0, 3000.0]))
        servers.play(faults)
        requests = Watchful(servers, self.folder)
        for _ in range(drawn.randint(0, 3)):
            if not await self._one(requests, drawn.uniform(10.0, 1500.0), drawn.random() < 0.5):
                break
        await self._one(requests, None, False)
        self.outcome.virtual_s = loop.time()
        self.outcome.faults = Counter(fault.kind for fault in faults if fault.at_s <= loop.time())
        self.outcome.retries = requests.failed
        made = sum(server.engine.generation_tokens for server in servers.servers.values())
        self.outcome.made_twice = max(0.0, made / max(1, self.folder.tokens) - 1.0)
        self._check_end()

    async def _one(self, requests: Watchful, for_s: float | None, is_kill: bool) -> bool:
        """One run of the controller, until it ends, is killed or is asked to stop; whether it was interrupted."""
        self.outcome.runs += 1
        stop = Stop()
        running = asyncio.ensure_future(self._controller(requests, stop))
        done, _ = await asyncio.wait({running}, timeout=LONGEST_S if for_s is None else for_s)
        if not done and for_s is None:
            running.cancel()
            raise BrokenPromise(f"1: the job does not end: {len(self.folder.rows)} rows after {LONGEST_S:.0f} s")
        if not done and is_kill:
            running.cancel()
            requests.killed()
            with suppress(asyncio.CancelledError):
                await running
            return True
        if not done:
            stop.ask()
        before = asyncio.get_running_loop().time()
        await running
        if not done and asyncio.get_running_loop().time() - before > self.pool.grace_s + 5.0:
            raise BrokenPromise("7: a stop took longer than its grace")
        if not done and self.folder.journaled:
            raise BrokenPromise(f"7: after a stop {self.folder.journaled} finished samples are not readable")
        return not done

    async def _controller(self, requests: Watchful, stop: Stop) -> None:
        endpoints = EndpointSettings(urls=tuple(self.urls), partial_tokens=512)
        verifier = ChanceVerifier(self.job.p_right, ("incorrect", "timeout", "no_answer", "ungradable"))
        async with Fleet(endpoints, self.pool, requests, _nothing) as fleet:
            requests.guard(fleet)
            await run_job(
                *(self.job, fleet, self.folder, verifier),
                order=self.order,
                steering=self.steering,
                pool=self.pool,
                stop=stop,
            )

    def _check_end(self) -> None:
        folder, outcome = self.folder, self.outcome
        outcome.rows, outcome.skipped, outcome.continued = len(folder.rows), len(folder.skipped), folder.continued
        wanted = {sample.sample_id for sample in self.job.all_samples()}
        if folder.journaled or folder.rows.keys() | folder.skipped.keys() != wanted:
            raise BrokenPromise(f"1: {outcome.rows} rows and {outcome.skipped} skipped of {len(wanted)} samples")
        if folder.skipped and not self.steering.is_on:
            raise BrokenPromise(f"1: {outcome.skipped} samples skipped without steering")
        if folder.most_open > self.pool.in_flight + OPEN_SLACK:
            raise BrokenPromise(f"6: {folder.most_open} samples open at once")
        expected = ChanceVerifier(self.job.p_right)
        if any(folder.rows[one] == "correct" and not expected.is_right(one) for one in folder.rows):
            raise BrokenPromise("5: a verdict is not the verifier's")


def _nothing(_: str) -> None:
    return


def run_seed(seed: int, samples: int = SAMPLES) -> Outcome:
    """One seed, from its first sample to its last check; what failed is in words in the outcome."""
    campaign = Campaign(seed, samples)
    random.seed(seed)  # tenacity's waits
    started = time.perf_counter()
    try:
        run_in_virtual_time(campaign.run())
    except Exception as error:
        campaign.outcome.failure = f"{type(error).__name__}: {error}"
    campaign.outcome.wall_s = time.perf_counter() - started
    return campaign.outcome


def main(argv: list[str] | None = None) -> int:
    """Run the seeds; print a line for each that fails and a report in JSON. 1 if any failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="0:200", help="one seed, or FIRST:END")
    parser.add_argument("--samples", type=int, default=SAMPLES)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args(argv)
    first, _, end = options.seeds.partition(":")
    seeds = range(int(first), int(end) if end else int(first) + 1)
    outcomes: list[Outcome] = []
    with ProcessPoolExecutor(options.workers) as workers:
        for outcome in workers.map(run_seed, seeds, [options.samples] * len(seeds)):
            outcomes.append(outcome)
            if outcome.failure:
                again = f"python -m benchmarks.virtual_campaign --seeds {outcome.seed} --samples {options.samples}"
                print(f"seed {outcome.seed} failed: {outcome.failure}\n  replay: {again}", file=sys.stderr, flush=True)
    print(json.dumps(_report(outcomes), indent=2))
    return int(any(outcome.failure for outcome in outcomes))


def _report(outcomes: list[Outcome]) -> dict[str, Any]:
    faults: Counter[str] = Counter()
    retries: Counter[str] = Counter()
    for outcome in outcomes:
        faults.update(outcome.faults)
        retries.update(outcome.retries)
    report: dict[str, Any] = {
        "seeds": len(outcomes),
        "failed": [outcome.seed for outcome in outcomes if outcome.failure],
        "rows": sum(outcome.rows for outcome in outcomes),
        "skipped": sum(outcome.skipped for outcome in outcomes),
        "continued": sum(outcome.continued for outcome in outcomes),
        "controller_runs": sum(outcome.runs for outcome in outcomes),
        "faults": dict(faults),
        "failed_requests": dict(retries),
        "virtual_hours": round(sum(outcome.virtual_s for outcome in outcomes) / 3600, 1),
        "wall_s_each": round(sum(outcome.wall_s for outcome in outcomes) / max(1, len(outcomes)), 1),
    }
    if len(outcomes) == 1:
        report["outcome"] = asdict(outcomes[0])
    return report


if __name__ == "__main__":
    sys.exit(main())
