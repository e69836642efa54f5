"""Several jobs on one fleet: models, waits and batch lines."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest

from gen_service.endpoints import servers as servers_module
from gen_service.endpoints.client import Client
from gen_service.endpoints.fleet import Fleet
from gen_service.endpoints.job_fleet import JobFleet
from gen_service.endpoints.shares import Share
from gen_service.endpoints.simulated import Faults, Script, SimulatedServer, SimulationSettings, TokenRate
from gen_service.errors import EndpointError, RequestRefused
from gen_service.records import BatchLine, Completion, Message, Partial, Prompt, Sample
from gen_service.settings import EndpointSettings, PoolSettings, SamplingSettings

Started = Callable[..., contextlib.AbstractAsyncContextManager[list[SimulatedServer]]]
Until = Callable[[Callable[[], Any]], Awaitable[None]]

QUICK = SimulationSettings()
SLOW = SimulationSettings(script=Script(timing=TokenRate(tokens_per_s=600.0)), tick_s=0.005)
MESSAGES = [{"role": "user", "content": "What is 1 + 2?"}]
CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"


def sample(number: int = 0, request: BatchLine | None = None, index: int = 0) -> Sample:
    messages = (Message(role="user", content=f"What is {number} + 1?"),)
    prompt = Prompt(f"p{number}", messages, str(number + 1), "sums", number, request)
    return Sample(f"s{number}-{index}", "job", prompt, index)


def line(url: str = CHAT, **body: Any) -> BatchLine:
    beginning: dict[str, Any] = {"messages": MESSAGES} if url == CHAT else {"prompt": "What is 1 + 2?"}
    return BatchLine(url, beginning | body)


@contextlib.asynccontextmanager
async def opened(
    servers: list[SimulatedServer], notices: list[str] | None = None, in_flight: int = 8, **options: Any
) -> AsyncIterator[Fleet]:
    said = [] if notices is None else notices
    settings = EndpointSettings(
        urls=tuple(server.url for server in servers), **({"backoff_s": 0.001, "probe_s": 0.01} | options)
    )
    async with (
        Client(settings) as client,
        Fleet(settings, PoolSettings(in_flight=in_flight), client, said.append) as it,
    ):
        yield it
        assert it.places.taken == it.places.waiting == 0


def joined(
    fleet: Fleet, name: str = "job", model: str | None = None, notices: list[str] | None = None, **share: Any
) -> JobFleet:
    said = [] if notices is None else notices
    return fleet.join(Share(name, **share), SamplingSettings(max_tokens=200), model, said.append)


def texts(done: list[Completion]) -> list[str]:
    return [one.content for one in done]


# Several jobs


async def test_jobs_of_different_models_use_their_own_servers(started: Started) -> None:
    async with started(QUICK, replace(QUICK, model="other", max_model_len=4096)) as servers, opened(servers) as fleet:
        assert fleet.models() == {"simulated": 32768, "other": 4096}
        assert (fleet.max_model_len("other"), fleet.max_model_len("missing")) == (4096, None)
        jobs = [joined(fleet, model, model) for model in ("simulated", "other")]
        done = [await asyncio.gather(*(job.complete(sample(number)) for number in range(12))) for job in jobs]
        for job, server, completions in zip(jobs, servers, done, strict=True):
            assert {one.endpoint for one in completions} == {server.url}
            assert {one.model for one in completions} == {job.model}
            job.leave()


async def test_one_jobs_numbers_are_its_own(started: Started, until: Until) -> None:
    async with started(SLOW, SLOW) as servers, opened(servers, in_flight=6) as fleet:
        jobs = [joined(fleet, "a", max_in_flight=2), joined(fleet, "b")]
        tasks = [[asyncio.create_task(job.complete(sample(number))) for number in range(9)] for job in jobs]
        await until(lambda: sum(server.numbers.running for server in servers) == 6)
        assert [job.in_flight for job in jobs] == [2, 4]
        assert [job.waiting for job in jobs] == [7, 5]
        for job in jobs:
            assert sum(job.in_flight_at(server.url) for server in servers) == job.in_flight
        done = [await asyncio.gather(*each) for each in tasks]
        assert texts(done[0]) == texts(done[1])
        assert [job.in_flight + job.waiting for job in jobs] == [0, 0]


async def test_what_a_job_frees_at_its_end_goes_to_the_other_at_once(started: Started, until: Until) -> None:
    async with started(SLOW) as servers, opened(servers, in_flight=6) as fleet:
        long, short = joined(fleet, "long"), joined(fleet, "short")
        tasks = [asyncio.create_task(long.complete(sample(number))) for number in range(30)]
        tail = [asyncio.create_task(short.complete(sample(number))) for number in range(3)]
        await until(lambda: short.in_flight == 3)
        await asyncio.gather(*tail)
        assert (short.in_flight, long.in_flight) == (0, 6)
        await asyncio.gather(*tasks)


# Waiting for a model


async def test_a_job_whose_model_no_server_has_waits_and_says_so_while_others_go_on(started: Started) -> None:
    notices: list[str] = []
    async with started(QUICK, QUICK) as servers, opened(servers) as fleet:
        absent, other = joined(fleet, "absent", "missing", notices), joined(fleet, "other")
        waiting = [asyncio.create_task(absent.complete(sample(number))) for number in range(20)]
        assert len(await asyncio.gather(*(other.complete(sample(number)) for number in range(20)))) == 20
        assert (absent.waiting, absent.in_flight) == (20, 0)
        assert notices == [
            "waiting: no healthy server offers 'missing', the job goes on when one does "
            f"({servers[0].url} serves ['simulated']; {servers[1].url} serves ['simulated'])"
        ]
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        absent.leave()


async def test_servers_are_asked_again_for_a_model_that_a_job_waits_for(
    started: Started, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(servers_module, "ASK_AGAIN_S", 0.01)
    notices: list[str] = []
    async with started(QUICK, QUICK) as servers, opened(servers, notices) as fleet:
        job = joined(fleet, model="new")
        waiting = [asyncio.create_task(job.complete(sample(number))) for number in range(4)]
        await until(lambda: job.waiting == 4)
        servers[1].settings = replace(QUICK, model="new")
        assert {one.endpoint for one in await asyncio.gather(*waiting)} == {servers[1].url}
        assert notices == [f"{servers[1].url} now serves ['new']"]
        assert fleet.models() == {"simulated": 32768, "new": 32768}


async def test_a_job_is_told_when_the_last_server_of_its_model_is_gone_and_only_then(
    started: Started, until: Until
) -> None:
    notices: dict[str, list[str]] = {"a": [], "b": []}
    slow_other = replace(SLOW, model="other")
    async with started(SLOW, slow_other) as servers, opened(servers, eject_after=1) as fleet:
        first = joined(fleet, "a", "simulated", notices["a"])
        second = joined(fleet, "b", "other", notices["b"])
        tasks = [asyncio.create_task(job.complete(sample(number))) for job in (first, second) for number in range(3)]
        await until(lambda: all(server.numbers.running == 3 for server in servers))
        await servers[1].stop()
        await until(lambda: bool(notices["b"]))
        assert notices["a"] == []
        assert notices["b"][0].startswith("waiting: no healthy server offers 'other', the job goes on when one does (")
        await servers[1].start()
        assert len(await asyncio.gather(*tasks)) == 6
        assert len(notices["b"]) == 1


async def test_opened_while_all_servers_are_down_it_knows_no_model_and_jobs_wait(
    started: Started, until: Until
) -> None:
    notices: list[str] = []
    async with started(QUICK) as servers:
        await servers[0].stop()
        async with opened(servers) as fleet:
            assert fleet.models() == {}
            fleet.require("anything")
            any_, named = joined(fleet, "any", None, notices), joined(fleet, "named", "simulated")
            waiting = [asyncio.create_task(job.complete(sample())) for job in (any_, named)]
            await until(lambda: fleet.places.waiting == 2)
            assert any_.model is None
            await servers[0].start()
            assert len(await asyncio.gather(*waiting)) == 2
            assert any_.model == "simulated"
            assert len([words for words in notices if "waiting: no server is healthy" in words]) == 1


async def test_after_a_job_left_nothing_of_it_is_kept(started: Started) -> None:
    async with started(QUICK) as servers, opened(servers) as fleet:
        for round_ in range(3):
            jobs = [joined(fleet, f"{round_}-{number}", priority=number, tenant=f"t{number}") for number in range(4)]
            await asyncio.gather(*(job.complete(sample(number)) for number, job in enumerate(jobs)))
            for job in jobs:
                job.leave()
        assert fleet._jobs == {}
        assert fleet.places._lines == {}
        assert fleet.places._shares._levels == {}


# Batch lines


async def test_a_line_is_answered_at_its_own_door_with_its_own_budget(started: Started) -> None:
    async with started(QUICK) as servers, opened(servers) as fleet:
        job = joined(fleet)
        chat = await job.complete(sample(0, line(max_completion_tokens=20)))
        whole = await job.complete(sample(1, line()))
        plain = await job.complete(sample(2, line(COMPLETIONS, max_tokens=500)))
        short = await job.complete(sample(3, line(COMPLETIONS)))
        assert (chat.finish_reason, chat.completion_tokens) == ("length", 20)
        assert (whole.finish_reason, whole.completion_tokens) == ("stop", 60)
        assert whole.reasoning is not None
        assert [one["path"] for one in servers[0].log if one["event"] == "received"] == [CHAT] * 2 + [COMPLETIONS] * 2
        assert (plain.finish_reason, plain.reasoning, plain.completion_tokens) == ("stop", None, 60)
        assert plain.content.startswith("<think>")
        assert "</think>" in plain.content
        assert plain.content.endswith("The answer is \\boxed{3}.")
        assert (short.finish_reason, short.completion_tokens) == ("length", 16)


async def test_what_cannot_be_honoured_is_refused_without_asking_a_server(started: Started) -> None:
    async with started(QUICK) as servers, opened(servers) as fleet:
        job = joined(fleet)
        with pytest.raises(RequestRefused, match=r"body\.tools: got .*; expected no such field") as caught:
            await job.complete(sample(0, line(tools=[{"type": "function"}])))
        assert (caught.value.status, caught.value.retries, servers[0].log) == (400, (), [])


@pytest.mark.parametrize("url", [CHAT, COMPLETIONS])
@pytest.mark.parametrize("lengths", [{}, {"max_tokens": 300}])
async def test_a_line_that_breaks_off_goes_on_elsewhere_to_the_same_text(
    started: Started, url: str, lengths: dict[str, int]
) -> None:
    """Without a number of its own as far as the context reaches."""
    asked = line(url, **lengths)
    async with started(QUICK) as servers, opened(servers) as fleet:
        undisturbed = await joined(fleet).complete(sample(0, asked))
    resets = replace(QUICK, faults=Faults(reset=1.0))
    continued = 0
    for seed in range(4):
        script = Script(seed=0)
        async with started(replace(resets, script=script, server_index=seed), QUICK) as servers:
            async with opened(servers) as fleet:
                one = await joined(fleet).complete(replace(sample(0, asked), sample_id="s0-0"))
            assert (one.reasoning, one.content) == (undisturbed.reasoning, undisturbed.content)
            assert one.token_ids.tolist() == undisturbed.token_ids.tolist()
            assert one.finish_reason == undisturbed.finish_reason
            continued += one.continued
    assert continued >= 1


async def test_where_the_context_is_not_known_an_answer_without_a_budget_begins_anew(started: Started) -> None:
    resets = replace(QUICK, faults=Faults(reset=1.0))
    async with started(resets, QUICK) as servers, opened(servers) as fleet:
        for endpoint in fleet.endpoints:
            endpoint.models = {"simulated": None}
        one = await joined(fleet).complete(sample(0, line()))
        assert (one.retries, one.continued, one.completion_tokens) == (("stream_broken",), 0, 60)


async def test_two_completions_of_a_line_are_two_answers(started: Started) -> None:
    async with started(QUICK) as servers, opened(servers) as fleet:
        job = joined(fleet)
        asked = replace(line(), n=2)
        one, two = [await job.complete(sample(0, asked, index)) for index in range(2)]
        assert one.reasoning != two.reasoning


def ours(garbage: list[Any]) -> set[str]:
    return {type(one).__name__ for one in garbage if type(one).__module__.startswith("gen_service.endpoints")}


@pytest.mark.parametrize(
    "faults",
    [Faults(), Faults(cut_body=0.4), Faults(http_500=0.4), Faults(missing_usage=1.0)],
    ids=("whole", "cut", "refused", "bare"),
)
async def test_what_is_over_leaves_nothing_to_the_garbage_collector(started: Started, faults: Faults) -> None:
    """Thousands of answers in flight make collections of a second each, in which the event loop stands still."""
    async with started(replace(SLOW, faults=faults), QUICK) as servers, opened(servers, eject_after=1000) as fleet:
        job = joined(fleet)

        async def ask(number: int) -> None:
            partials: list[Partial] = []
            with contextlib.suppress(EndpointError):
                await job.complete(sample(number), 5 * (number % 2), on_partial=partials.append)

        await ask(0)
        gc.collect()
        gc.disable()
        gc.set_debug(gc.DEBUG_SAVEALL)
        try:
            await asyncio.gather(*(ask(number) for number in range(1, 25)))
            gc.collect()
            assert ours(gc.garbage) == set()
        finally:
            gc.set_debug(0)
            gc.enable()
            gc.garbage.clear()
        job.leave()
