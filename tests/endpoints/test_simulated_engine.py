"""Answers that share one engine, over real HTTP.

Time is virtual (looptime), sockets are real: a stream's pace is the engine's, whatever this machine is busy with.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace

import aiohttp
import orjson
import pytest
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.closed_loop import Asked, run_closed_loop
from gen_service.endpoints.client import Client
from gen_service.endpoints.draft import Draft
from gen_service.endpoints.question import Questions
from gen_service.endpoints.simulated import (
    Faults,
    Fixed,
    LogNormal,
    Script,
    SimulatedServer,
    SimulationSettings,
    render_chat,
)
from gen_service.endpoints.simulated.engine_profile import EngineProfile
from gen_service.endpoints.simulated.lengths import Lengths
from gen_service.endpoints.simulated.live_engine import LiveEngine
from gen_service.errors import EndpointError
from gen_service.records import Message, Prompt, Sample
from gen_service.settings import EndpointSettings, SamplingSettings

pytestmark = pytest.mark.looptime

MAX_TOKENS = 1000
PROFILE = EngineProfile(
    kv_blocks=4000, step_s=((1, 0.01), (64, 0.05)), kv_token_s=1e-6, prefill_token_s=1e-5, stream_interval=8
)
SMALL = replace(PROFILE, kv_blocks=100)
LENGTHS = LogNormal(100, 400)
SHORT = Fixed(100)


def settings_of(
    profile: EngineProfile, length: Fixed | LogNormal | Lengths = SHORT, **more: object
) -> SimulationSettings:
    script = Script(length=length)
    return SimulationSettings(engine=profile, max_model_len=1500, script=script, **{"tick_s": 0.001, **more})  # type: ignore[arg-type]


@dataclass(frozen=True)
class Ended:
    """A request's number, the seconds after which it ended, its tokens."""

    number: int
    seconds: float
    token_ids: tuple[int, ...]


class Asking:
    """The real client on one server; times count from when this was made."""

    def __init__(self, client: Client, server: SimulatedServer) -> None:
        self.server = server
        self.ended: list[Ended] = []
        self._client = client
        self._began = asyncio.get_running_loop().time()

    async def ask(self, number: int, text: str | None = None) -> Ended:
        words = f"What is {number} + 1?" if text is None else text
        prompt = Prompt(f"p{number}", (Message(role="user", content=words),), None, "sums", number)
        question = Questions(SamplingSettings(max_tokens=MAX_TOKENS)).of(Sample(f"s{number}", "job", prompt, 0))
        draft = Draft()
        await self._client.stream(self.server.url, "simulated", question, draft, MAX_TOKENS)
        ended = Ended(number, asyncio.get_running_loop().time() - self._began, tuple(draft.token_ids))
        self.ended.append(ended)
        return ended

    async def ask_all(self, count: int, in_flight: int | None = None) -> list[Ended]:
        """All requests, so many at a time; those that ended first come first."""
        places = asyncio.Semaphore(in_flight or count)

        async def one(number: int) -> None:
            async with places:
                await self.ask(number)

        async with asyncio.TaskGroup() as group:
            for number in range(count):
                group.create_task(one(number))
        return self.ended

    async def metrics(self) -> dict[str, float]:
        """Samples of /metrics by name, those of one name added up."""
        async with aiohttp.ClientSession() as session, session.get(f"{self.server.url}/metrics") as response:
            text = await response.text()
        found: dict[str, float] = {}
        for family in text_string_to_metric_families(text):
            for one in family.samples:
                found[one.name] = found.get(one.name, 0.0) + one.value
        return found


@contextlib.asynccontextmanager
async def asking(settings: SimulationSettings, **options: float) -> AsyncIterator[Asking]:
    async with (
        SimulatedServer(settings) as server,
        Client(EndpointSettings(urls=("http://unused",), **options)) as client,  # type: ignore[arg-type]
    ):
        yield Asking(client, server)


async def seconds_of(settings: SimulationSettings, count: int) -> float:
    """Seconds until the last of so many requests, all sent at once, has ended."""
    async with asking(settings) as one:
        return (await one.ask_all(count))[-1].seconds


async def test_the_more_run_the_slower_is_each() -> None:
    profile = replace(PROFILE, kv_token_s=0.0, prefill_token_s=0.0)
    alone = await seconds_of(settings_of(profile), 1)
    together = await seconds_of(settings_of(profile), 64)
    assert alone == pytest.approx(100 * 0.01, rel=0.03)
    assert together == pytest.approx(100 * 0.05, rel=0.03)


async def test_an_answer_is_the_same_with_and_without_an_engine() -> None:
    without = replace(settings_of(SMALL, LENGTHS), engine=None)
    async with asking(without) as plain, asking(settings_of(SMALL, LENGTHS)) as engine:
        expected = {one.number: one.token_ids for one in await plain.ask_all(40)}
        found = {one.number: one.token_ids for one in await engine.ask_all(40)}
        preemptions = engine.server.numbers.preemptions
    assert preemptions > 0
    assert found == expected


async def test_a_full_cache_preempts_and_metrics_show_it() -> None:
    async with asking(settings_of(SMALL, LENGTHS)) as one:
        all_asked = asyncio.create_task(one.ask_all(60))
        await asyncio.sleep(0.5)
        middle = await one.metrics()
        await all_asked
        end = await one.metrics()
    assert middle["vllm:num_requests_running"] > 0
    assert middle["vllm:num_requests_waiting"] > 0
    assert middle["vllm:num_requests_waiting_by_reason"] == middle["vllm:num_requests_waiting"]
    assert middle["vllm:num_requests_running"] + middle["vllm:num_requests_waiting"] == 60
    assert 0.9 < middle["vllm:kv_cache_usage_perc"] <= 1.0
    assert 0 < middle["vllm:generation_tokens_total"] < end["vllm:generation_tokens_total"]
    assert end["vllm:generation_tokens_total"] == sum(len(ended.token_ids) for ended in one.ended)
    assert end["vllm:num_preemptions_total"] > 0
    assert end["vllm:request_num_preemptions_sum"] == end["vllm:num_preemptions_total"]
    assert end["vllm:request_num_preemptions_count"] == 60
    assert end["vllm:request_success_total"] == 60
    assert end["vllm:request_queue_time_seconds_sum"] > 0
    assert end["vllm:kv_cache_usage_perc"] == end["vllm:num_requests_running"] == 0
    assert one.server.settings.kv_cache == (16, 100)


async def test_metrics_name_the_cache_of_the_engine() -> None:
    async with asking(settings_of(replace(PROFILE, kv_blocks=250, block_size=32))) as one:
        text = one.server.numbers.render()
    assert 'vllm:cache_config_info{block_size="32",num_gpu_blocks="250",engine="0"} 1' in text


async def test_a_watermark_preempts_less() -> None:
    counts = {}
    for watermark in (0.0, 0.3):
        async with asking(settings_of(replace(SMALL, watermark=watermark), LENGTHS)) as one:
            await one.ask_all(40)
            counts[watermark] = one.server.numbers.preemptions
    assert 0 < counts[0.3] < 0.75 * counts[0.0]


async def test_a_client_that_leaves_frees_its_blocks() -> None:
    """The first takes more than half of the cache; the second, as long, waits until the first has left."""
    profile = replace(SMALL, watermark=0.5)
    async with asking(settings_of(profile, Fixed(900))) as one:
        first = asyncio.create_task(one.ask(0))
        await asyncio.sleep(8.2)
        second = asyncio.create_task(one.ask(1))
        await asyncio.sleep(0.2)
        before = one.server.numbers.running, one.server.numbers.waiting, one.server.numbers.kv_usage()
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        await asyncio.sleep(0.1)
        after = one.server.numbers.running, one.server.numbers.waiting
        alone = one.server.numbers.kv_usage()
        await second
        end = await one.metrics()
    assert before[:2] == (1, 1)
    assert before[2] > 0.5
    assert after == (1, 0)
    assert alone < 0.1
    assert one.server.numbers.finished["abort"] == 1
    assert end["vllm:kv_cache_usage_perc"] == 0


@pytest.mark.parametrize("scale", [4.0, 20.0])
async def test_time_is_scaled(scale: float) -> None:
    slow = await seconds_of(settings_of(PROFILE), 16)
    async with asking(settings_of(PROFILE, time_scale=scale)) as one:
        fast = (await one.ask_all(16))[-1].seconds
        latency = one.server.numbers.latency.total
    assert fast == pytest.approx(slow / scale, rel=0.05)
    assert latency == pytest.approx(16 * slow, rel=0.05)


async def test_a_slow_server_is_slower() -> None:
    assert await seconds_of(settings_of(PROFILE, slow=3.0), 4) == pytest.approx(
        3 * await seconds_of(settings_of(PROFILE), 4), rel=0.03
    )


async def test_http_in_scaled_time_agrees_with_the_engine_alone() -> None:
    """The same closed loop, 24 in flight of 120 over a cache that holds about 12: seconds, preemptions, and order."""
    settings = settings_of(SMALL, LENGTHS, time_scale=20.0)
    async with asking(settings) as one:
        ended = await one.ask_all(120, in_flight=24)
        preemptions, prompts = one.server.numbers.preemptions, one.server.numbers.prompt_tokens
    tokens = {answer.number: len(answer.token_ids) for answer in ended}
    alone = run_closed_loop(SMALL, [Asked(f"{n}", prompts // 120, tokens[n]) for n in range(120)], in_flight=24)
    assert ended[-1].seconds * 20.0 == pytest.approx(alone.seconds, rel=0.1)
    assert preemptions == pytest.approx(alone.preemptions, rel=0.1)
    place = {number: index for index, number in enumerate(alone.order)}
    moved = [abs(place[answer.number] - index) for index, answer in enumerate(ended)]
    assert sum(moved) / len(moved) < 3


async def test_siblings_find_their_prompt_in_the_cache() -> None:
    words = "What is 3 + 4? " * 40
    async with asking(settings_of(PROFILE)) as one:
        await one.ask(0, words)
        first = await one.metrics()
        await asyncio.gather(one.ask(1, words), one.ask(2, words))
        end = await one.metrics()
    prompt_tokens = first["vllm:prompt_tokens_total"]
    assert first["vllm:prefix_cache_hits_total"] == 0
    assert end["vllm:prompt_tokens_total"] == end["vllm:prefix_cache_queries_total"] == 3 * prompt_tokens
    assert 2 * prompt_tokens * 0.9 < end["vllm:prefix_cache_hits_total"] < 2 * prompt_tokens


async def test_an_answer_goes_on_from_its_tokens() -> None:
    """The given tokens are prompt for this engine; only what was missing is made."""
    async with asking(settings_of(PROFILE)) as one, aiohttp.ClientSession() as session:
        whole = (await one.ask(0)).token_ids
        before = await one.metrics()
        chat = {"model": "simulated", "messages": [{"role": "user", "content": "What is 0 + 1?"}]}
        post = f"{one.server.url}/v1/chat/completions", f"{one.server.url}/v1/completions"
        async with session.post(post[0], json=chat | {"return_token_ids": True}) as response:
            prompt_ids = orjson.loads(await response.read())["prompt_token_ids"]
        body = {"prompt": [*prompt_ids, *whole[:40]], "max_tokens": 900, "return_token_ids": True}
        made = one.server.numbers.generation_tokens
        async with session.post(post[1], json=body, headers={"X-Request-Id": "s0"}) as response:
            rest = orjson.loads(await response.read())["choices"][0]["token_ids"]
        more = one.server.numbers.generation_tokens - made
        prompt_tokens = one.server.numbers.prompt_tokens - 2 * before["vllm:prompt_tokens_total"]
    assert (*whole[:40], *rest) == whole
    assert more == len(rest) == len(whole) - 40
    assert prompt_tokens == len(prompt_ids) + 40


@pytest.mark.parametrize("fault", ["reset", "cut_body", "stall", "malformed", "http_500", "empty_choices"])
async def test_faults_leave_nothing_in_the_engine(fault: str) -> None:
    settings = replace(settings_of(SMALL, LENGTHS), faults=Faults(**{fault: 0.5}))  # type: ignore[arg-type]
    async with asking(settings, stall_s=5.0) as one:
        ends = await asyncio.gather(*(one.ask(number) for number in range(20)), return_exceptions=True)
        await asyncio.sleep(1.0)
        end = await one.metrics()
    failed = [end for end in ends if isinstance(end, BaseException)]
    assert 0 < len(failed) < 20
    assert all(isinstance(error, EndpointError) for error in failed)
    assert len(one.ended) == 20 - len(failed)
    assert end["vllm:num_requests_running"] == end["vllm:num_requests_waiting"] == end["vllm:kv_cache_usage_perc"] == 0


async def test_a_draining_server_finishes_what_runs() -> None:
    async with asking(settings_of(PROFILE)) as one:
        running = asyncio.create_task(one.ask(0))
        await asyncio.sleep(0.3)
        one.server.draining = True
        with pytest.raises(EndpointError, match="cannot schedule new futures"):
            await one.ask(1)
        ended = await running
    assert len(ended.token_ids) == 100


async def test_a_server_that_starts_again_begins_anew() -> None:
    async with asking(settings_of(PROFILE)) as one:
        running = asyncio.create_task(one.ask(0))
        await asyncio.sleep(0.3)
        await one.server.stop()
        with pytest.raises(EndpointError):
            await running
        await one.server.start()
        fresh = await one.metrics()
        again = await one.ask(0)
    assert fresh["vllm:generation_tokens_total"] == fresh["vllm:kv_cache_usage_perc"] == 0
    assert len(again.token_ids) == 100


async def test_all_streams_share_one_timer(monkeypatch: pytest.MonkeyPatch) -> None:
    """50 streams of 100 tokens in chunks of 8 are 700 writes; the engine is looked at each 0.1 s and by who comes."""
    looks: list[float] = []
    look = LiveEngine.look

    def counted(live: LiveEngine) -> None:
        looks.append(asyncio.get_running_loop().time())
        look(live)

    monkeypatch.setattr(LiveEngine, "look", counted)
    async with asking(settings_of(PROFILE, tick_s=0.1)) as one:
        seconds = (await one.ask_all(50))[-1].seconds
        looked = len(looks)
        await asyncio.sleep(100.0)
    assert looked <= seconds / 0.1 + 2 * 50 + 2
    assert len(looks) == looked


async def test_the_engine_must_hold_one_longest_request() -> None:
    with pytest.raises(ValueError, match="max_model_len=1500 does not fit in the engine's KV cache of 1488 tokens"):
        settings_of(replace(PROFILE, kv_blocks=93))
    with pytest.raises(ValueError, match="time_scale must be a positive factor"):
        settings_of(PROFILE, time_scale=0.0)
    with pytest.raises(ValueError, match="tick_s must be seconds"):
        settings_of(PROFILE, tick_s=float("inf"))


async def test_lengths_may_come_from_the_prompt_and_the_sample() -> None:
    """Siblings are told apart by the request's id, prompts by their text."""
    lengths = Lengths(mean=200, cap=1000, sigma=0.8, sibling_correlation=0.5, seed=5)
    words = [f"What is {prompt} + 2?" for prompt in range(3)]
    async with asking(settings_of(PROFILE, lengths)) as one:
        asked = [one.ask(3 * sibling + prompt, text) for sibling in range(2) for prompt, text in enumerate(words)]
        found = {ended.number: len(ended.token_ids) for ended in await asyncio.gather(*asked)}
    rendered = [render_chat([{"role": "user", "content": text}]) for text in words]
    assert found == {number: lengths.tokens(rendered[number % 3], f"s{number}") for number in range(6)}
    assert len(set(found.values())) == 6


async def test_siblings_that_correlate_fully_are_as_long() -> None:
    lengths = Lengths(mean=200, cap=1000, sibling_correlation=1.0)
    async with asking(settings_of(PROFILE, lengths)) as one:
        asked = [one.ask(number, "What is 1 + 2?") for number in range(4)] + [one.ask(4, "What is 1 + 3?")]
        *siblings, other = [len(ended.token_ids) for ended in await asyncio.gather(*asked)]
    assert set(siblings) == {siblings[0]}
    assert other != siblings[0]
