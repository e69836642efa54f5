"""The main loop on a real fleet of simulated servers and a real verifier, with a folder in memory."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gen_service.endpoints.client import Client
from gen_service.endpoints.fleet import Fleet
from gen_service.endpoints.job_fleet import JobFleet
from gen_service.endpoints.shares import Share
from gen_service.endpoints.simulated import Faults, Script, SimulatedServer, SimulationSettings, TokenRate
from gen_service.errors import BadPromptRow
from gen_service.generation.generate import Generation
from gen_service.generation.pool import Stop
from gen_service.generation.progress import Progress
from gen_service.generation.sample_plan import SamplePlan
from gen_service.records import (
    CANCELLED,
    NO_TOKENS,
    BatchLine,
    Completion,
    Message,
    Partial,
    Prompt,
    Sample,
    Skipped,
    Trace,
    Verdict,
)
from gen_service.settings import (
    EndpointSettings,
    PoolSettings,
    SamplingSettings,
    SteeringSettings,
    TruncationSettings,
    VerificationSettings,
)
from gen_service.verification.verify import Verifier

PLAN = SamplePlan("job", 3, "parameters")


def prompt(number: int, answer: str | None = "right") -> Prompt:
    gold = str(number + 1) if answer == "right" else answer
    return Prompt(f"p{number}", (Message(role="user", content=f"What is {number} + 1?"),), gold, "sums", number + 1)


class Folder:
    """A job's folder in memory: keeps what the real one promises, and checks what is asked of it."""

    def __init__(self, found: Iterable[Trace] = (), done: Iterable[str] = ()) -> None:
        self.journal: list[Trace] = list(found)
        self.rows: dict[str, Trace] = {}
        self.rejected: list[int] = []
        self.skipped: dict[str, Skipped] = {}
        self.partials: dict[str, Partial] = {}
        self._done = {*done, *(trace.sample.sample_id for trace in self.journal)}
        self._found = len(self.journal)

    def is_done(self, sample_id: str) -> bool:
        return sample_id in self._done or sample_id in self.skipped

    def is_correct(self, sample_id: str) -> bool:
        row = self.rows.get(sample_id)
        return row is not None and row.verdict is not None and row.verdict.outcome == "correct"

    def is_ungradable(self, sample_id: str) -> bool:
        row = self.rows.get(sample_id)
        return row is not None and row.verdict is not None and row.verdict.outcome == "ungradable"

    def is_skipped(self, sample_id: str) -> bool:
        return sample_id in self.skipped

    async def keep_up(self) -> None:
        await asyncio.sleep(0)

    def skip(self, skipped: Skipped) -> None:
        assert not self.is_done(skipped.sample_id)
        self.skipped[skipped.sample_id] = skipped

    def partial_of(self, sample_id: str) -> Partial | None:
        return self.partials.get(sample_id)

    def keep_partial(self, partial: Partial) -> None:
        self.partials[partial.sample_id] = partial

    def recovered(self) -> Iterator[tuple[int, Trace]]:
        yield from enumerate(self.journal[: self._found])

    async def record(self, trace: Trace) -> int:
        assert not self.is_done(trace.sample.sample_id)
        assert trace.verdict is None
        self._done.add(trace.sample.sample_id)
        await asyncio.sleep(0)
        self.journal.append(trace)
        return len(self.journal) - 1

    async def publish(self, position: int, trace: Trace) -> None:
        await asyncio.sleep(0)
        assert self.journal[position].sample == trace.sample
        assert trace.verdict is not None
        assert self.rows.setdefault(trace.sample.sample_id, trace) is trace

    def reject(self, bad: BadPromptRow) -> bool:
        self.rejected.append(bad.row)
        return True


async def generate(
    server: SimulatedServer,
    folder: Folder,
    prompts: Iterable[Prompt | BadPromptRow],
    *,
    stop: Stop | None = None,
    policy: str = "keep",
    max_tokens: int = 200,
    in_flight: int = 8,
    grace_s: float = 0.0,
    attempts: int = 6,
    plan: SamplePlan = PLAN,
    verification: bool = True,
    buffer: int | None = None,
    on_trace: Callable[[Trace], None] | None = None,
) -> Progress:
    endpoints = EndpointSettings(urls=(server.url,), backoff_s=0.001, probe_s=0.01, attempts=attempts, eject_after=99)
    pool, sampling = PoolSettings(in_flight=in_flight, grace_s=grace_s), SamplingSettings(max_tokens=max_tokens)
    truncation = TruncationSettings.model_validate({"policy": policy, "extra_tokens": 100})
    progress = Progress()
    stop = stop or Stop()
    async with (
        Client(endpoints) as client,
        Verifier(VerificationSettings(enabled=verification)) as verifier,
        Fleet(endpoints, pool, client, lambda _: None) as fleet,
    ):
        loop = Generation(plan, truncation, pool, verifier, folder, progress, buffer=buffer, on_trace=on_trace)

        async def opened() -> JobFleet:
            return fleet.join(Share("job"), sampling, None, lambda _: None)

        await loop.recover(stop)
        await loop.sample(iter(prompts), opened, stop)
    return progress


def ids(numbers: Iterable[int], plan: SamplePlan = PLAN) -> set[str]:
    return {sample.sample_id for number in numbers for sample in plan.samples_of(prompt(number))}


def asked(server: SimulatedServer) -> set[str]:
    return {str(line["request_id"]) for line in server.log}


async def test_every_sample_ends_in_one_verified_row() -> None:
    async with SimulatedServer() as server:
        folder = Folder()
        progress = await generate(server, folder, (prompt(number) for number in range(30)))
    assert set(folder.rows) == ids(range(30))
    assert {row.verdict.outcome for row in folder.rows.values() if row.verdict} == {"correct"}
    assert progress.outcomes == {"correct": 90}
    assert (progress.published, progress.done, progress.recovered, progress.interrupted) == (90, 90, 0, 0)
    assert progress.completion_tokens == 90 * 60
    assert progress.prompt_tokens == sum(row.completion.prompt_tokens for row in folder.rows.values() if row.completion)


async def test_whoever_watches_is_given_each_trace_when_it_is_published() -> None:
    async with SimulatedServer() as server:
        folder, seen = Folder(), []
        await generate(server, folder, [prompt(number) for number in range(4)], on_trace=seen.append)
    assert len(seen) == 12
    assert {trace.sample.sample_id: trace for trace in seen} == folder.rows


async def test_with_a_buffer_of_one_a_job_still_fills_its_places() -> None:
    slow = SimulationSettings(script=Script(timing=TokenRate(tokens_per_s=2000.0)))
    async with SimulatedServer(slow) as server:
        folder, most, stop = Folder(), 0, Stop()
        running = asyncio.create_task(
            generate(server, folder, (prompt(number) for number in range(40)), stop=stop, buffer=1)
        )
        while not running.done():
            most = max(most, server.numbers.running)
            await asyncio.sleep(0)
        await running
    assert set(folder.rows) == ids(range(40))
    assert most == 8


async def test_failed_samples_are_rows_too_whether_or_not_there_is_a_gold() -> None:
    faults = Faults(http_500=0.4, refused_marker="is 7 +")
    async with SimulatedServer(SimulationSettings(faults=faults)) as server:
        folder = Folder()
        prompts = [prompt(number, None if number % 2 else "right") for number in range(20)]
        progress = await generate(server, folder, prompts, attempts=2)
    assert set(folder.rows) == ids(range(20))
    failed = [row for row in folder.rows.values() if row.error is not None]
    refused = [row for row in failed if row.sample.prompt.prompt_id == "p7"]
    assert len(refused) == 3
    assert all("the prompt holds" in (row.error or "") and row.retries == () for row in refused)
    assert all(row.verdict is not None and row.verdict.outcome == "error" for row in failed)
    assert all(row.retries == ("server_failed",) * 2 for row in failed if row not in refused)
    assert progress.outcomes["error"] == len(failed) > 3
    retried = sum(len(row.completion.retries) for row in folder.rows.values() if row.completion)
    assert progress.retries == {"server_failed": retried + 2 * (len(failed) - 3)}


async def test_what_an_earlier_run_left_is_published_and_not_asked_again() -> None:
    async with SimulatedServer() as server:
        first = Folder()
        await generate(server, first, [prompt(number) for number in range(4)])
    left = [replace(row, verdict=None) for row in first.rows.values() if row.sample.prompt.prompt_id != "p3"]
    published = {sample.sample_id for sample in PLAN.samples_of(prompt(3))}
    async with SimulatedServer() as server:
        folder = Folder(left, published)
        progress = await generate(server, folder, [prompt(number) for number in range(6)])
        assert asked(server) == ids([4, 5])
    assert set(folder.rows) == ids([0, 1, 2, 4, 5])
    assert (progress.recovered, progress.published) == (9, 15)
    assert all(folder.rows[sample_id] == first.rows[sample_id] for sample_id in ids([0, 1, 2]))


async def test_a_stop_at_once_and_the_next_run_make_each_sample_once() -> None:
    slow = SimulationSettings(script=Script(timing=TokenRate(tokens_per_s=3000.0)))
    async with SimulatedServer(slow) as server:
        folder, stop = Folder(), Stop()
        running = asyncio.create_task(generate(server, folder, (prompt(number) for number in range(20)), stop=stop))
        while len(folder.rows) < 10 and not running.done():  # noqa: ASYNC110
            await asyncio.sleep(0)
        stop.ask()
        progress = await running
        assert 10 <= len(folder.rows) < 60
        assert len(folder.journal) == len(folder.rows) == progress.published
        assert progress.interrupted > 0
        await generate(server, Folder((), folder.rows), (prompt(number) for number in range(20)))
        sent = Counter(str(line["request_id"]) for line in server.log if line["event"] == "sent")
    assert set(sent) == ids(range(20))
    twice = [sample_id for sample_id, count in sent.items() if count > 1]
    assert not set(twice) & set(folder.rows)


async def test_rows_that_are_no_prompts_are_counted_and_set_aside() -> None:
    async with SimulatedServer() as server:
        folder = Folder()
        source = [prompt(0), BadPromptRow(2, "no prompt"), prompt(1), BadPromptRow(4, "not JSON")]
        progress = await generate(server, folder, source)
    assert folder.rejected == [2, 4]
    assert progress.rejected == 2
    assert progress.published == 6
    assert set(folder.rows) == ids([0, 1])


@pytest.mark.parametrize("policy", ["keep", "drop", "continue"])
async def test_truncation_is_an_outcome_with_a_policy(policy: str) -> None:
    async with SimulatedServer() as server:
        folder = Folder()
        await generate(server, folder, [prompt(0)], policy=policy, max_tokens=20)
    assert len(folder.rows) == 3
    for row in folder.rows.values():
        assert row.completion is not None
        assert row.verdict is not None
        check_truncated(policy, row.completion, row)


def check_truncated(policy: str, completion: Completion, row: Trace) -> None:
    assert row.verdict is not None
    if policy == "continue":
        assert (completion.finish_reason, completion.completion_tokens, completion.continued) == ("stop", 60, 1)
        assert row.verdict.outcome == "correct"
        return
    assert (completion.finish_reason, completion.completion_tokens) == ("length", 20)
    assert row.verdict.outcome == "truncated"
    if policy == "keep":
        assert completion.reasoning
        assert len(completion.token_ids) == 20
    else:
        assert (completion.reasoning, completion.content, len(completion.token_ids)) == (None, "", 0)
        assert "dropped by policy" in row.verdict.reason


async def test_whether_there_is_work_is_known_without_a_server() -> None:
    prompts = [prompt(number) for number in range(4)]
    samples = {sample.sample_id for one in prompts for sample in PLAN.samples_of(one)}
    async with Verifier(VerificationSettings()) as verifier:
        for done, expected in [(samples, False), (samples - {min(samples)}, True), (set(), True)]:
            loop = Generation(PLAN, TruncationSettings(), PoolSettings(), verifier, Folder((), done), Progress())
            assert await loop.has_work(iter(prompts)) == expected
            assert not [thread for thread in threading.enumerate() if thread.name.startswith("intake")]
            assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_finished_job_opens_no_fleet_and_is_complete() -> None:
    prompts = [prompt(number) for number in range(4)]
    done = {sample.sample_id for one in prompts for sample in PLAN.samples_of(one)}

    async def never() -> JobFleet:
        raise AssertionError("a server was asked for")

    async with Verifier(VerificationSettings()) as verifier:
        progress, stop = Progress(), Stop()
        loop = Generation(PLAN, TruncationSettings(), PoolSettings(), verifier, Folder((), done), progress)
        await loop.sample(iter(prompts), never, stop)
        assert progress.complete
        progress.exhausted = False
        stop.ask()
        await loop.sample(iter(prompts), never, stop)
        assert not progress.complete


async def test_without_verification_nothing_is_judged() -> None:
    async with SimulatedServer() as server:
        folder = Folder()
        progress = await generate(server, folder, [prompt(0)], verification=False)
    assert progress.outcomes == {"unverified": 3}


async def test_a_broken_store_ends_the_job_with_its_own_error() -> None:
    class Full(Folder):
        async def record(self, trace: Trace) -> int:
            raise OSError("disk failed")

    async with SimulatedServer() as server:
        with pytest.raises(OSError, match="disk failed"):
            await generate(server, Full(), [prompt(number) for number in range(10)])


# The plan


@pytest.mark.parametrize("turns", range(1, 6))
async def test_a_sample_that_nobody_needs_any_more_when_its_turn_comes_is_not_asked_for(turns: int) -> None:
    class Right:
        async def verify(self, trace: Trace) -> Verdict:
            return Verdict("correct", "by test")

    class Servers:
        """Answers after a few turns of the event loop."""

        on_bound: Callable[[], None]
        in_flight = waiting = 0

        async def complete(self, sample: Sample, more_tokens: int = 0, **_: object) -> Completion:
            assert not progress.correct
            for _turn in range(turns):
                await asyncio.sleep(0)
            return Completion(None, "1", "stop", 1, 1, NO_TOKENS, "model", "url", 0, (), 0.0, None, 1.0)

        def cut(self, sample_id: str) -> bool:
            return False

    async def opened() -> Servers:
        return Servers()

    folder, progress = Folder(), Progress()
    settings = (TruncationSettings(), PoolSettings(), Right(), folder, progress)
    loop = Generation(PLAN, *settings, steering=SteeringSettings(verified=1))
    await loop.sample(map(prompt, range(100)), opened, Stop())
    assert progress.complete
    assert len(folder.rows) + len(folder.skipped) == 300


@pytest.mark.parametrize("steering", [SteeringSettings(), SteeringSettings(correct=2)])
async def test_an_answer_that_a_server_calls_cancelled_is_a_row_where_nobody_cut_it(steering: SteeringSettings) -> None:
    class Wrong:
        async def verify(self, trace: Trace) -> Verdict:
            return Verdict("no_answer", "by test")

    class Servers:
        on_bound: Callable[[], None]
        in_flight = waiting = 0

        async def complete(self, sample: Sample, more_tokens: int = 0, **_: object) -> Completion:
            return Completion(None, "", CANCELLED, 1, 0, NO_TOKENS, "model", "url", 0, (), 0.0, None, 1.0)

        def cut(self, sample_id: str) -> bool:
            raise AssertionError("nothing is to be cut here")

    async def opened() -> Servers:
        return Servers()

    folder, progress = Folder(), Progress()
    loop = Generation(PLAN, TruncationSettings(), PoolSettings(), Wrong(), folder, progress, steering=steering)
    await loop.sample(map(prompt, range(4)), opened, Stop())
    assert progress.complete
    assert folder.rows.keys() == ids(range(4))


def test_sample_ids_never_change() -> None:
    """A changed id would make every job that is under way begin again."""
    golden = [sample.sample_id for sample in PLAN.samples_of(prompt(0))]
    assert golden == [
        "e944964e1ce6998d96dd54d2a4eace97",
        "76d2b26ce53c2711cfb2b817116f70de",
        "bb764c214afc00a9327cbab7775ef646",
    ]
    assert [sample.seed for sample in replace(PLAN, seed=7).samples_of(prompt(0))] == [
        1766102601,
        1993519723,
        997608486,
    ]


names = st.text(max_size=8)


@given(st.lists(st.tuples(names, names), unique=True, min_size=1, max_size=6), st.integers(1, 4))
def test_ids_are_distinct_over_prompts_indices_and_parameters(keys: list[tuple[str, str]], samples: int) -> None:
    made = [
        sample.sample_id
        for prompt_id, parameters in keys
        for sample in SamplePlan("job", samples, f"{len(parameters)}-{parameters.encode().hex()}").samples_of(
            replace(prompt(0), prompt_id=prompt_id)
        )
    ]
    assert len(set(made)) == len(keys) * samples


@given(names, st.one_of(st.none(), st.integers(0, 2**63 - 1)), st.integers(1, 5))
def test_seeds_are_stable_distinct_and_in_range(prompt_id: str, seed: int | None, samples: int) -> None:
    plan = SamplePlan("job", samples, "x", seed)
    one = replace(prompt(0), prompt_id=prompt_id)
    seeds = [sample.seed for sample in plan.samples_of(one)]
    assert seeds == [sample.seed for sample in plan.samples_of(one)]
    if seed is None:
        assert seeds == [None] * samples
    else:
        assert all(value is not None and 0 <= value < 2**31 for value in seeds)


def test_a_prompt_with_a_request_says_itself_how_many() -> None:
    line = BatchLine("/v1/chat/completions", {"messages": []}, 5)
    asked = list(PLAN.samples_of(replace(prompt(0), request=line)))
    assert [sample.index for sample in asked] == [0, 1, 2, 3, 4]
    assert [sample.sample_id for sample in asked[:3]] == [sample.sample_id for sample in PLAN.samples_of(prompt(0))]


def test_more_samples_keep_the_ids_of_the_fewer() -> None:
    fewer = [sample.sample_id for sample in PLAN.samples_of(prompt(0))]
    more = [sample.sample_id for sample in replace(PLAN, samples=8).samples_of(prompt(0))]
    assert more[:3] == fewer
