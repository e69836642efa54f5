"""Virtual servers under the real fleet: every token is the sample's own, whatever goes wrong, and each run repeats."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gen_service.endpoints.draft import Draft
from gen_service.endpoints.fleet import Fleet
from gen_service.endpoints.question import CHAT, Question
from gen_service.endpoints.shares import Share
from gen_service.endpoints.simulated.engine import EngineProfile
from gen_service.endpoints.simulated.lengths import Lengths
from gen_service.endpoints.simulated.virtual_faults import KINDS, Kind
from gen_service.endpoints.simulated.virtual_servers import (
    Patience,
    VirtualFault,
    VirtualServer,
    VirtualServers,
    expected_ids,
    fault_schedule,
)
from gen_service.endpoints.simulated.virtual_time import run_in_virtual_time
from gen_service.errors import (
    EndpointError,
    Overloaded,
    RequestRefused,
    ServerFailed,
    SpecError,
    Stalled,
    StreamBroken,
    Unreachable,
)
from gen_service.records import Completion, Message, Prompt, Sample
from gen_service.settings import EndpointSettings, PoolSettings, SamplingSettings

URLS = ("http://a", "http://b", "http://c", "http://d")
# 16,000 tokens of cache, about 40 of the answers below; a token each 10 ms; a chunk each 8 tokens.
PROFILE = EngineProfile(
    kv_blocks=1000, block_size=16, max_num_seqs=64, step_s=((1, 0.01),), prefill_token_s=1e-5, stream_interval=8
)
LENGTHS = Lengths(mean=400.0, cap=3000)
URL = URLS[0]


class Exactly:
    """Answers of one length."""

    def __init__(self, tokens: int) -> None:
        self._tokens = tokens

    def tokens(self, prompt_id: str, sample: str, /) -> int:
        return self._tokens


def one_server(tokens: int = 1000, *, patience: Patience | None = None, **options: Any) -> VirtualServers:
    options = {"max_model_len": 4000, "deliver_s": 1.0} | options
    server = VirtualServer(URL, options.pop("profile", PROFILE), **options)
    return VirtualServers([server], Exactly(tokens), patience=patience, prompt_tokens=100)


def question(name: str = "s", budget: int | None = None) -> Question:
    return Question(name, "p", CHAT, {"messages": []}, {}, budget, True)


async def ask(servers: VirtualServers, draft: Draft, name: str = "s", budget: int | None = None) -> Draft:
    await servers.stream(URL, "simulated", question(name, budget), draft, budget)
    return draft


def now() -> float:
    return asyncio.get_running_loop().time()


def run(main: Callable[[], Awaitable[Any]]) -> Any:
    async def coroutine() -> Any:
        return await main()

    return run_in_virtual_time(coroutine())


def sample(number: int) -> Sample:
    messages = (Message(role="user", content="?"),)
    prompt = Prompt(f"p{number // 4}", messages, None, "test", number // 4)
    return Sample(f"s{number}", "job", prompt, number % 4)


Outcome = tuple[list[Completion | EndpointError], float, list[str], VirtualServers]


def run_fleet(count: int, faults: Sequence[VirtualFault] = (), seed: int = 0, in_flight: int = 160) -> Outcome:
    """So many samples through the real fleet: (what each ended in, seconds, notices, the servers)."""

    async def main() -> Outcome:
        random.seed(seed)
        fleet_of_four = [VirtualServer(url, PROFILE, max_model_len=8000, deliver_s=2.0) for url in URLS]
        servers = VirtualServers(fleet_of_four, LENGTHS)
        servers.play(faults)
        settings = EndpointSettings(urls=URLS, attempts=100)
        pool = PoolSettings(in_flight=in_flight, per_server=in_flight // 4, limit="fixed")
        notices: list[str] = []
        async with Fleet(settings, pool, servers, notices.append) as fleet:
            job = fleet.join(Share("job"), SamplingSettings(), None, notices.append)
            results = await asyncio.gather(*(job.complete(sample(n)) for n in range(count)), return_exceptions=True)
            took_s = now()
            assert job.in_flight == job.waiting == 0
            job.leave()
        ended: list[Completion | EndpointError] = []
        for result in results:
            assert isinstance(result, Completion | EndpointError), result
            ended.append(result)
        return ended, took_s, notices, servers

    return run_in_virtual_time(main())


def wrong(ended: Sequence[Completion | EndpointError]) -> list[tuple[int, object]]:
    """The samples that did not get exactly their own tokens."""
    found = list[tuple[int, object]]()
    for number, one in enumerate(ended):
        expected = expected_ids(f"s{number}", 0, LENGTHS.tokens(f"p{number // 4}", f"s{number}"))
        if isinstance(one, EndpointError) or one.token_ids.tolist() != expected or one.finish_reason != "stop":
            found.append((number, one))
    return found


def test_every_sample_gets_its_own_tokens_and_the_servers_are_left_empty() -> None:
    ended, took_s, notices, servers = run_fleet(400)
    assert wrong(ended) == []
    assert notices == []
    assert all(isinstance(one, Completion) and one.continued == 0 and one.retries == () for one in ended)
    tokens = sum(one.completion_tokens for one in ended if isinstance(one, Completion))
    assert sum(server.engine.generation_tokens for server in servers.servers.values()) == tokens
    assert all(server.engine.running == server.open_streams == 0 for server in servers.servers.values())
    # 4 servers of at most 40 in flight each, a token each 10 ms.
    assert took_s > tokens * 0.01 / 160


def test_killed_servers_cost_no_token_of_any_answer() -> None:
    kills = [VirtualFault(at_s, url, "dies", 5.0) for at_s, url in ((2.0, URLS[0]), (4.0, URLS[1]), (9.0, URLS[0]))]
    ended, _, notices, _ = run_fleet(400, kills)
    assert wrong(ended) == []
    moved = [one for one in ended if isinstance(one, Completion) and "stream_broken" in one.retries]
    assert len(moved) > 40
    assert sum(one.continued for one in moved) > 40
    assert any("ejected http://a" in words for words in notices)
    assert any("answers again" in words for words in notices)


@pytest.mark.parametrize("seed", range(6))
def test_under_any_faults_each_sample_ends_in_exactly_its_tokens(seed: int) -> None:
    faults = fault_schedule(seed, URLS, 600.0, mean_between_s=20.0)
    ended, _, _, servers = run_fleet(300, faults, seed)
    assert wrong(ended) == [], f"replay with seed {seed}"
    assert all(server.open_streams == 0 for server in servers.servers.values())


def test_a_seed_repeats_a_run_to_the_last_digit() -> None:
    faults = fault_schedule(7, URLS, 600.0, mean_between_s=15.0)

    def seen() -> object:
        ended, took_s, notices, _ = run_fleet(200, faults, 7)
        return took_s, notices, [(one.total_s, one.retries) for one in ended if isinstance(one, Completion)]

    assert seen() == seen()


def test_a_lone_answer_takes_its_prefill_and_a_step_for_each_token() -> None:
    async def main() -> tuple[float, Draft]:
        draft = await ask(one_server(500), Draft())
        return now(), draft

    took_s, draft = run(main)
    assert took_s == pytest.approx(100 * 1e-5 + 500 * 0.01)
    assert draft.token_ids.tolist() == expected_ids("s", 0, 500)
    assert (draft.finish_reason, draft.prompt_tokens, draft.model, draft.tokens) == ("stop", 100, "simulated", 500)
    assert draft.first_token_at == pytest.approx(100 * 1e-5 + 0.01)


def test_tokens_are_delivered_at_once_and_then_at_intervals_in_whole_chunks() -> None:
    async def main() -> list[tuple[float, int]]:
        draft, seen = Draft(), list[tuple[float, int]]()
        draft.on_progress = lambda: seen.append((round(now(), 2), len(draft.token_ids)))
        await ask(one_server(250, profile=replace(PROFILE, prefill_token_s=0.0)), draft)
        return seen

    # At 1 s a hundred tokens are made, of which the first and twelve chunks of eight were sent.
    assert run(main) == [(0.01, 1), (1.0, 97), (2.0, 193), (2.5, 250)]


@pytest.mark.parametrize(
    ("budget", "context", "tokens", "reason"),
    [(None, 4000, 1000, "stop"), (300, 4000, 300, "length"), (1000, 4000, 1000, "stop"), (None, 600, 500, "length")],
)
def test_an_answer_ends_by_itself_or_at_its_budget_or_at_the_context(
    budget: int | None, context: int, tokens: int, reason: str
) -> None:
    draft = run(lambda: ask(one_server(1000, max_model_len=context), Draft(), budget=budget))
    assert (len(draft.token_ids), draft.finish_reason) == (tokens, reason)


def test_an_answer_is_taken_up_from_its_tokens_and_only_the_rest_is_made() -> None:
    async def main() -> tuple[Draft, int, int]:
        servers, draft = one_server(1000), Draft()
        asyncio.get_running_loop().call_later(5.0, servers.servers[URL].die)
        with pytest.raises(StreamBroken, match="connection reset"):
            await ask(servers, draft)
        came = len(draft.token_ids)
        with pytest.raises(Unreachable):
            await servers.models(URL)
        servers.servers[URL].come_back()
        again = draft.reopened()
        kept = len(again.token_ids)
        await ask(servers, again)
        assert servers.servers[URL].engine.generation_tokens == 1000 - kept
        return again, came, kept

    draft, came, kept = run(main)
    # 499 were made; 1 + 62 x 8 of them sent; the last chunk is not gone on from, since its text may be half of it.
    assert (came, kept) == (497, 489)
    assert draft.token_ids.tolist() == expected_ids("s", 0, 1000)
    assert draft.continued == 1


def test_a_stalled_server_is_given_up_after_the_stall_and_a_short_stall_is_not_seen() -> None:
    async def main() -> tuple[float, int]:
        servers, draft = one_server(1000, patience=Patience(stall_s=20.0)), Draft()
        servers.play([VirtualFault(2.0, URL, "stalls", 19.0), VirtualFault(25.0, URL, "stalls", 100.0)])
        with pytest.raises(Stalled, match=r"first_token_s=1800 s, or no further one within stall_s=20 s"):
            await ask(servers, draft)
        assert servers.servers[URL].open_streams == 0
        return now(), len(draft.token_ids)

    at_s, tokens = run(main)
    assert at_s == pytest.approx(45.0, abs=0.02)
    # Two seconds, and four between the stalls.
    assert 585 <= tokens <= 601


def test_the_first_token_and_the_whole_answer_have_their_own_patience() -> None:
    async def main() -> list[float]:
        servers = one_server(3000, patience=Patience(first_token_s=30.0, wall_s=12.0))
        with pytest.raises(StreamBroken, match="wall_s=12 s"):
            await ask(servers, Draft())
        at = [now()]
        servers = one_server(3000, patience=Patience(first_token_s=30.0))
        servers.play([VirtualFault(0.0, URL, "stalls", 100.0)])
        await asyncio.sleep(0.0)
        with pytest.raises(Stalled):
            await ask(servers, Draft())
        return [*at, now()]

    assert run(main) == [12.0, 42.0]


def test_a_draining_server_finishes_what_it_has_refuses_what_is_new_then_dies_and_returns() -> None:
    async def main() -> tuple[float, Draft]:
        servers, draft = one_server(1000), Draft()
        servers.play([VirtualFault(1.0, URL, "drains", 15.0, down_s=10.0)])
        first = asyncio.create_task(ask(servers, draft))
        await asyncio.sleep(5.0)
        with pytest.raises(ServerFailed, match="cannot schedule new futures after shutdown") as refused:
            await ask(servers, Draft(), "other")
        assert refused.value.status == 500
        assert [model.id for model in await servers.models(URL)] == ["simulated"]
        await first
        ended = now()
        await asyncio.sleep(16.5 - now())
        with pytest.raises(Unreachable):
            await servers.readings(URL)
        await asyncio.sleep(10.0)
        return ended, await ask(servers, Draft(), "late")

    ended, late = run(main)
    assert ended == pytest.approx(10.0, abs=0.1)
    assert late.token_ids.tolist() == expected_ids("late", 0, 1000)


def test_an_overloaded_server_asks_to_come_again() -> None:
    async def main() -> tuple[float | None, int | None]:
        servers = one_server(10)
        servers.play([VirtualFault(0.0, URL, "overloaded", 5.0, retry_after_s=3.0)])
        await asyncio.sleep(4.5)
        with pytest.raises(Overloaded) as refused:
            await ask(servers, Draft())
        await asyncio.sleep(1.0)
        await ask(servers, Draft())
        return refused.value.retry_after_s, refused.value.status

    assert run(main) == (3.0, 429)


def test_a_slow_server_takes_the_longer() -> None:
    async def main() -> float:
        servers = one_server(1000, profile=replace(PROFILE, prefill_token_s=0.0))
        servers.play([VirtualFault(2.0, URL, "slows", 20.0, factor=0.2)])
        await ask(servers, Draft())
        return now()

    # 200 tokens in 2 s, 400 in 20 s, 400 in 4 s.
    assert run(main) == pytest.approx(26.0)


def test_what_can_never_be_answered_is_refused() -> None:
    async def main() -> list[tuple[type[EndpointError], int | None]]:
        servers, seen = one_server(1000, max_model_len=100), list[tuple[type[EndpointError], int | None]]()
        for url, model in ((URL, "other"), (URL, "simulated"), ("http://nobody", "simulated")):
            with pytest.raises(EndpointError) as refused:
                await servers.stream(url, model, question(), Draft(), None)
            seen.append((type(refused.value), refused.value.status))
        return seen

    assert run(main) == [(RequestRefused, 404), (RequestRefused, 400), (Unreachable, None)]


def test_a_client_that_leaves_stops_the_computing() -> None:
    async def main() -> tuple[int, int, int]:
        servers = one_server(1000)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(3.005):
                await ask(servers, Draft())
        await asyncio.sleep(1.0)
        readings = await servers.readings(URL)
        return readings.running or 0, servers.servers[URL].open_streams, int(readings.generated_tokens or 0)

    assert run(main) == (0, 0, 300)


def test_a_client_that_leaves_in_the_moment_of_the_end_breaks_nothing() -> None:
    async def main() -> int:
        servers = one_server(100, profile=replace(PROFILE, prefill_token_s=0.0))
        task = asyncio.create_task(ask(servers, Draft()))
        # Set before the answer's timer is, so it comes first.
        asyncio.get_running_loop().call_at(100 * 0.01, task.cancel)
        with pytest.raises(asyncio.CancelledError):
            await task
        await ask(servers, Draft(), "next")
        return servers.servers[URL].engine.completed

    assert run(main) == 2


def test_an_error_of_whoever_reads_is_theirs() -> None:
    async def main() -> tuple[int, int]:
        servers, draft = one_server(1000), Draft()

        def fail() -> None:
            raise OSError("the disk is full")

        draft.on_progress = fail
        with pytest.raises(OSError, match="disk is full"):
            await ask(servers, draft)
        await asyncio.sleep(1.0)
        return servers.servers[URL].open_streams, servers.servers[URL].engine.running

    assert run(main) == (0, 0)


def test_readings_are_the_engines() -> None:
    async def main() -> Any:
        servers = one_server(1000, profile=replace(PROFILE, max_num_seqs=2))
        tasks = [asyncio.create_task(ask(servers, Draft(), str(number))) for number in range(3)]
        await asyncio.sleep(5.0)
        readings = await servers.readings(URL)
        await asyncio.gather(*tasks)
        return readings, await servers.readings(URL)

    busy, after = run(main)
    # The three are siblings: their prompt is there once.
    assert (busy.kv_tokens, busy.running, busy.waiting, busy.completed) == (16000, 2, 1, 0.0)
    assert busy.kv_usage == pytest.approx((100 + 2 * 500) / 16000, rel=0.03)
    assert (after.running, after.kv_usage, after.completed, after.generated_tokens) == (0, 0.0, 3.0, 3000.0)


@given(st.text(max_size=20), st.integers(0, 40_000), st.integers(0, 40_000))
def test_ids_are_slices_of_one_row(name: str, one: int, other: int) -> None:
    start, end = min(one, other), max(one, other)
    assert expected_ids(name, start, end) == expected_ids(name, 0, end)[start:]
    assert len(expected_ids(name, start, end)) == end - start


@given(st.integers(0, 10_000), st.floats(1.0, 5000.0), st.sets(st.sampled_from(KINDS), min_size=1))
def test_faults_are_drawn_from_the_seed_one_at_a_time_on_each_server(
    seed: int, mean_s: float, kinds: set[Kind]
) -> None:
    allowed = sorted(kinds)
    faults = fault_schedule(seed, URLS, 10_000.0, mean_between_s=mean_s, kinds=allowed)
    assert faults == fault_schedule(seed, URLS, 10_000.0, mean_between_s=mean_s, kinds=allowed)
    assert [fault.at_s for fault in faults] == sorted(fault.at_s for fault in faults)
    assert {fault.kind for fault in faults} <= kinds
    for url in URLS:
        ours = [fault for fault in faults if fault.url == url]
        assert all(0.0 <= fault.at_s < 10_000.0 for fault in ours)
        assert all(one.at_s + one.for_s + one.down_s <= other.at_s for one, other in pairwise(ours))
        # Another server more or less changes nothing for this one.
        assert ours == list(fault_schedule(seed, [url], 10_000.0, mean_between_s=mean_s, kinds=allowed))


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: VirtualFault(0.0, URL, "explodes", 1.0), "fault.kind"),  # type: ignore[arg-type]
        (lambda: VirtualFault(-1.0, URL, "dies", 1.0), "fault.at_s"),
        (lambda: VirtualFault(0.0, URL, "dies", math.inf), "fault.for_s"),
        (lambda: VirtualFault(0.0, URL, "slows", 1.0, factor=0.0), "fault.factor"),
        (lambda: fault_schedule(0, URLS, 1.0, kinds=()), "kinds"),
        (lambda: fault_schedule(0, URLS, 1.0, mean_between_s=0.0), "mean_between_s"),
        (lambda: VirtualServer(URL, PROFILE, max_model_len=16_001), "max_model_len"),
        (lambda: VirtualServer(URL, PROFILE, max_model_len=16_000, deliver_s=0.0), "deliver_s"),
        (lambda: VirtualServers([VirtualServer(URL, PROFILE, max_model_len=9)] * 2, LENGTHS), "servers"),
        (lambda: VirtualServers([], LENGTHS, prompt_tokens=0), "prompt_tokens"),
        (lambda: Lengths(mean=0.5), "lengths.mean"),
        (lambda: Lengths(mean=9.0, cap=9), "lengths.mean"),
        (lambda: Lengths(cap=0), "lengths.cap"),
        (lambda: Lengths(sigma=0.0), "lengths.sigma"),
        (lambda: Lengths(sibling_correlation=1.1), "lengths.sibling_correlation"),
    ],
)
def test_what_cannot_be_names_its_field(make: Callable[[], object], field: str) -> None:
    with pytest.raises(SpecError) as refused:
        make()
    assert refused.value.field == field
