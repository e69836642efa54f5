"""Several simulated servers as one: whatever single servers do, every sample ends well or in a reasoned error."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any, Literal

import pytest
from aiohttp import web

from gen_service.endpoints.client import Client
from gen_service.endpoints.fleet import Fleet
from gen_service.endpoints.job_fleet import JobFleet
from gen_service.endpoints.shares import Share
from gen_service.endpoints.simulated import Faults, Fixed, Script, SimulatedServer, SimulationSettings, TokenRate
from gen_service.endpoints.simulated.settings import ReasoningStyle
from gen_service.errors import EndpointError, RequestRefused, ServerFailed, SpecError
from gen_service.records import Completion, Message, Prompt, Sample
from gen_service.settings import EndpointSettings, PoolSettings, SamplingSettings

Started = Callable[..., contextlib.AbstractAsyncContextManager[list[SimulatedServer]]]
Until = Callable[[Callable[[], Any]], Awaitable[None]]

QUICK = SimulationSettings()
SLOW = SimulationSettings(script=Script(timing=TokenRate(tokens_per_s=600.0)), tick_s=0.005)


def sample(number: int = 0) -> Sample:
    messages = (Message(role="user", content=f"What is {number} + 1?"),)
    return Sample(f"s{number}", "job", Prompt(f"p{number}", messages, str(number + 1), "sums", number), 0)


@contextlib.asynccontextmanager
async def fleet_of(
    servers: list[SimulatedServer],
    notices: Callable[[str], None] | None = None,
    *,
    max_tokens: int = 200,
    in_flight: int = 16,
    stop: tuple[str, ...] = (),
    limit: Literal["auto", "fixed"] = "auto",
    **options: Any,
) -> AsyncIterator[JobFleet]:
    on_notice = list[str]().append if notices is None else notices
    sampling = SamplingSettings(max_tokens=max_tokens, stop=stop)
    options = {"urls": tuple(server.url for server in servers), "backoff_s": 0.001, "probe_s": 0.01} | options
    settings = EndpointSettings(**options)
    async with (
        Client(settings) as client,
        Fleet(settings, PoolSettings(in_flight=in_flight, limit=limit), client, on_notice) as fleet,
    ):
        fleet.require(settings.model)
        job = fleet.join(Share("job"), sampling, settings.model, on_notice)
        yield job
        assert fleet.places.taken == fleet.places.waiting == job.in_flight == job.waiting == 0
        assert all(endpoint.in_flight == 0 for endpoint in fleet.endpoints)
        job.leave()


async def complete(fleet: JobFleet, numbers: range) -> list[Completion | BaseException]:
    return await asyncio.gather(*(fleet.complete(sample(number)) for number in numbers), return_exceptions=True)


def texts(completions: list[Completion | BaseException]) -> list[tuple[str | None, str, list[int]]]:
    return [(one.reasoning, one.content, one.token_ids.tolist()) for one in completions if isinstance(one, Completion)]


async def undisturbed(started: Started, numbers: range) -> list[Completion | BaseException]:
    async with started(QUICK) as servers, fleet_of(servers) as fleet:
        return await complete(fleet, numbers)


async def test_all_servers_are_used_and_every_sample_answered(started: Started) -> None:
    async with started(SLOW, SLOW, SLOW) as servers, fleet_of(servers, in_flight=9) as fleet:
        done = await complete(fleet, range(27))
        assert texts(done) == texts(await undisturbed(started, range(27)))
        assert sum(endpoint.completed for endpoint in fleet.endpoints) == 27
        assert all(endpoint.completed for endpoint in fleet.endpoints)


@pytest.mark.parametrize("seed", range(3))
async def test_under_every_fault_each_sample_ends_in_the_same_answer_or_a_reasoned_error(
    started: Started, until: Until, seed: int
) -> None:
    rates = Faults(
        http_500=0.08, http_429=0.04, reset=0.12, cut_body=0.08, malformed=0.08, empty_choices=0.04, retry_after_s=0
    )
    faulty = SimulationSettings(script=Script(seed=seed), faults=rates)
    async with started(faulty, faulty, faulty) as servers, fleet_of(servers, eject_after=1000, attempts=12) as fleet:
        done = await complete(fleet, range(60))
        await until(lambda: all(server.numbers.running == 0 for server in servers))
        logs = [line for server in servers for line in server.log]
    async with started(replace(faulty, faults=Faults())) as servers, fleet_of(servers) as fleet:
        expected = await complete(fleet, range(60))
    assert len(texts(done)) == 60
    assert texts(done) == texts(expected)
    for one, reference in zip(done, expected, strict=True):
        assert isinstance(one, Completion)
        assert isinstance(reference, Completion)
        assert (one.prompt_tokens, one.completion_tokens) == (reference.prompt_tokens, reference.completion_tokens)
        assert one.completion_tokens == len(one.token_ids)
    assert sum(len(one.retries) for one in done if isinstance(one, Completion)) == sum(
        1 for line in logs if line["event"] == "failed"
    )
    assert sum(one.continued for one in done if isinstance(one, Completion)) >= 1


async def test_a_reset_in_the_middle_goes_on_elsewhere_with_exactly_the_same_text(started: Started) -> None:
    resets = replace(QUICK, faults=Faults(reset=1.0))
    reference = (await undisturbed(started, range(1)))[0]
    assert isinstance(reference, Completion)
    for number in range(6):
        async with started(replace(resets, script=Script(seed=0)), QUICK) as servers, fleet_of(servers) as fleet:
            servers[0].settings = replace(resets, server_index=number * 7)
            one = await fleet.complete(sample())
            assert one.retries == ("stream_broken",)
            assert one.continued == 1
            assert (one.reasoning, one.content) == (reference.reasoning, reference.content)
            assert one.token_ids.tolist() == reference.token_ids.tolist()
            assert (one.prompt_tokens, one.completion_tokens) == (reference.prompt_tokens, 60)
            assert one.endpoint == servers[1].url
            continuation = servers[1].log[0]
            assert continuation["path"] == "/v1/completions"
            assert 0 < int(str(continuation["given"])) < 60


async def test_with_stop_strings_an_answer_begins_again(started: Started) -> None:
    """vLLM holds text back to look for them, so the text of the last tokens is not known."""
    resets = replace(QUICK, faults=Faults(reset=1.0))
    async with started(resets, QUICK) as servers, fleet_of(servers, stop=("END",)) as fleet:
        one = await fleet.complete(sample())
    reference = (await undisturbed(started, range(1)))[0]
    assert isinstance(reference, Completion)
    assert (one.content, one.continued, one.retries) == (reference.content, 0, ("stream_broken",))
    assert one.completion_tokens == 60


async def test_a_dead_server_is_ejected_and_readmitted_without_a_lost_sample(
    started: Started, until: Until, notices: Any
) -> None:
    async with started(SLOW, SLOW) as servers, fleet_of(servers, notices, in_flight=8, eject_after=2) as fleet:
        first = [asyncio.create_task(fleet.complete(sample(number))) for number in range(24)]
        await until(lambda: servers[0].numbers.running >= 3)
        await servers[0].stop()
        await notices.heard(f"ejected {servers[0].url}")
        assert not any(isinstance(one, BaseException) for one in await asyncio.gather(*first, return_exceptions=True))
        await servers[0].start()
        completed = fleet.endpoints[0].completed
        await notices.heard(f"{servers[0].url} answers again")
        second = await complete(fleet, range(24, 48))
        assert len(texts(second)) == 24
        assert fleet.endpoints[0].state == "healthy"
        assert fleet.endpoints[0].completed > completed
        assert texts([task.result() for task in first]) == texts(await undisturbed(started, range(24)))


async def test_a_draining_server_costs_no_sample(started: Started, notices: Any) -> None:
    async with started(SLOW, SLOW) as servers, fleet_of(servers, notices, in_flight=8, attempts=1) as fleet:
        servers[0].draining = True
        done = await complete(fleet, range(40))
        assert texts(done) == texts(await undisturbed(started, range(40)))
        assert (fleet.endpoints[0].completed, fleet.endpoints[0].ejections) == (0, 0)
        refused = sum(1 for line in servers[0].log if line["event"] == "failed")
        assert 1 <= refused < 40
        assert len([words for words in notices if "drains" in words]) == 1
        servers[0].draining = False
        again = [asyncio.create_task(fleet.complete(sample(number))) for number in range(40, 80)]
        await notices.heard(f"{servers[0].url} takes requests again")
        assert texts(await asyncio.gather(*again)) == texts(await undisturbed(started, range(40, 80)))
        assert fleet.endpoints[0].completed > 0


async def test_what_is_in_flight_at_a_server_that_begins_to_drain_ends_there(started: Started, until: Until) -> None:
    """Refused ones go elsewhere at the first try, however few tries they have."""
    async with started(SLOW, SLOW) as servers, fleet_of(servers, in_flight=8, attempts=1) as fleet:
        first = [asyncio.create_task(fleet.complete(sample(number))) for number in range(8)]
        await until(lambda: all(server.numbers.running == 4 for server in servers))
        servers[0].draining = True
        second = await complete(fleet, range(8, 24))
        done = await asyncio.gather(*first)
        assert [len(one.retries) for one in done] == [0] * 8
        assert sum(one.endpoint == servers[0].url for one in done) == 4
        assert texts([*done, *second]) == texts(await undisturbed(started, range(24)))


async def test_a_limit_that_finds_itself_keeps_to_what_the_servers_cache_holds(started: Started, until: Until) -> None:
    small = replace(SLOW, block_size=16, num_gpu_blocks=48)
    async with started(small, SLOW) as servers, fleet_of(servers, in_flight=16, limit="auto") as fleet:
        # Half of 200 tokens and 256 of a prompt: of 356 each, 768 hold twice, and 1.5 times that is sent.
        assert [int(endpoint.limit) for endpoint in fleet.endpoints] == [3, 16]
        done = [asyncio.create_task(fleet.complete(sample(number))) for number in range(32)]
        await until(lambda: sum(server.numbers.running for server in servers) == 16)
        assert servers[0].numbers.running <= 3
        assert texts(await asyncio.gather(*done)) == texts(await undisturbed(started, range(32)))


async def test_servers_without_metrics_get_all_that_the_caps_allow() -> None:
    async def none(request: web.Request) -> web.Response:
        raise web.HTTPNotFound

    async def listed(request: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": "m", "max_model_len": 100}]})

    app = web.Application()
    app.router.add_get("/health", listed)
    app.router.add_get("/v1/models", listed)
    app.router.add_get("/metrics", none)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    settings = EndpointSettings(urls=(f"http://127.0.0.1:{runner.addresses[0][1]}",))
    try:
        async with Client(settings) as client, Fleet(settings, PoolSettings(), client, lambda _: None) as fleet:
            assert fleet.endpoints[0].limit == PoolSettings().in_flight
            assert fleet.endpoints[0].state == "healthy"
    finally:
        await runner.cleanup()


async def test_a_server_with_another_model_is_not_used(started: Started, notices: Any) -> None:
    async with started(QUICK, replace(QUICK, model="other")) as servers, fleet_of(servers, notices) as fleet:
        assert fleet.model == "simulated"
        assert len(texts(await complete(fleet, range(10)))) == 10
        assert servers[1].log == []
        assert any("serves ['other'], not 'simulated'" in notice for notice in notices)


@pytest.mark.parametrize("model", ["missing", None])
async def test_a_model_that_no_server_has_is_a_mistake_in_the_spec(started: Started, model: str | None) -> None:
    async with started(QUICK, replace(QUICK, model="other")) as servers:
        if model is None:
            async with fleet_of(servers, model=None) as fleet:
                assert fleet.model == "simulated"
            return
        with pytest.raises(SpecError, match=r"endpoints\.model: got 'missing'.*'simulated'.*'other'"):
            async with fleet_of(servers, model=model):
                pass


async def test_a_server_that_changed_its_model_costs_no_sample(started: Started, notices: Any) -> None:
    async with started(QUICK, QUICK) as servers, fleet_of(servers, notices, attempts=1) as fleet:
        servers[0].settings = replace(QUICK, model="other")
        done = await complete(fleet, range(20))
        assert len(texts(done)) == 20
        assert fleet.endpoints[0].state == "healthy"
        assert list(fleet.endpoints[0].models) == ["other"]
        assert notices == [f"{servers[0].url} now serves ['other']"]


async def test_all_down_it_waits_says_so_once_and_goes_on(started: Started, until: Until, notices: Any) -> None:
    async with started(QUICK, QUICK) as servers:
        for server in servers:
            await server.stop()
        async with fleet_of(servers, notices) as fleet:
            waiting = [asyncio.create_task(fleet.complete(sample(number))) for number in range(10)]
            await notices.heard("waiting: no server is healthy")
            await until(lambda: fleet.places.waiting == 10)
            await servers[1].start()
            assert len(texts(await asyncio.gather(*waiting))) == 10
            assert sum("waiting" in notice for notice in notices) == 1
            assert fleet.model == "simulated"


async def test_a_refused_request_has_words_and_no_retries(started: Started) -> None:
    refusing = replace(QUICK, faults=Faults(refused_marker="1 + 1"))
    async with started(refusing, refusing) as servers, fleet_of(servers) as fleet:
        with pytest.raises(RequestRefused, match="the prompt holds '1 \\+ 1'") as caught:
            await fleet.complete(sample(1))
        assert caught.value.retries == ()
        assert sum(len(server.log) for server in servers) == 2
        assert all(endpoint.state == "healthy" for endpoint in fleet.endpoints)


async def test_used_up_attempts_end_in_an_error_with_all_causes(started: Started) -> None:
    broken = replace(QUICK, faults=Faults(http_500=1.0))
    async with started(broken, broken) as servers, fleet_of(servers, attempts=4, eject_after=100) as fleet:
        with pytest.raises(ServerFailed, match="simulated failure of the engine") as caught:
            await fleet.complete(sample())
        assert caught.value.retries == ("server_failed",) * 4


async def test_a_retry_goes_to_another_server(started: Started) -> None:
    broken = replace(QUICK, faults=Faults(http_500=1.0))
    async with started(broken, QUICK) as servers, fleet_of(servers, eject_after=100) as fleet:
        done = await complete(fleet, range(8))
        assert {one.endpoint for one in done if isinstance(one, Completion)} == {servers[1].url}
        assert all(len(one.retries) <= 1 for one in done if isinstance(one, Completion))


async def test_retry_after_costs_no_attempt(started: Started) -> None:
    busy = replace(QUICK, faults=Faults(http_429=0.5, retry_after_s=0))
    async with started(busy) as servers, fleet_of(servers, attempts=1, eject_after=10_000, in_flight=4) as fleet:
        done = await complete(fleet, range(30))
        assert len(texts(done)) == 30
        assert sum(len(one.retries) for one in done if isinstance(one, Completion)) >= 1


async def test_a_stalling_server_is_ejected_and_its_answers_go_on_elsewhere(started: Started, notices: Any) -> None:
    stalling = replace(QUICK, faults=Faults(stall=1.0))
    async with started(stalling, QUICK) as servers, fleet_of(servers, notices, stall_s=0.1, in_flight=4) as fleet:
        done = await complete(fleet, range(8))
        assert texts(done) == texts(await undisturbed(started, range(8)))
        assert any("ejected" in notice and "stalled" in notice for notice in notices)
        assert any(one.continued for one in done if isinstance(one, Completion))


async def test_a_truncated_answer_goes_on_for_more_tokens(started: Started) -> None:
    async with started(QUICK) as servers, fleet_of(servers, max_tokens=20) as fleet:
        cut = await fleet.complete(sample())
        longer = await fleet.complete(sample(), more_tokens=15)
        whole = await fleet.complete(sample(), more_tokens=100)
    reference = (await undisturbed(started, range(1)))[0]
    assert isinstance(reference, Completion)
    assert (cut.finish_reason, cut.completion_tokens, cut.continued) == ("length", 20, 0)
    assert (longer.finish_reason, longer.completion_tokens, longer.continued) == ("length", 35, 1)
    assert (whole.finish_reason, whole.content, whole.continued) == ("stop", reference.content, 1)
    assert whole.token_ids.tolist() == reference.token_ids.tolist()
    assert whole.prompt_tokens == cut.prompt_tokens


@pytest.mark.parametrize("style", ["think", "reasoning"])
async def test_a_truncated_answer_that_cannot_go_on_stays_what_it_was(started: Started, style: ReasoningStyle) -> None:
    """At the end of the context the server refuses to go on."""
    short = replace(QUICK, max_model_len=60, reasoning_style=style)
    async with started(short) as servers, fleet_of(servers, max_tokens=60) as fleet:
        cut = await fleet.complete(sample())
        one = await fleet.complete(sample(), more_tokens=50)
        assert one.finish_reason == "length"
        assert one.completion_tokens == len(one.token_ids) == 60 - one.prompt_tokens
        assert (one.reasoning, one.content) == (cut.reasoning, cut.content)
        assert one.continued == 0
        assert servers[0].log[-1].get("cause") == "refused"


async def test_waiting_for_a_place_is_not_part_of_the_answers_time(started: Started) -> None:
    slow = SimulationSettings(script=Script(timing=TokenRate(first_token_s=Fixed(0.15))))
    async with started(slow) as servers, fleet_of(servers, in_flight=1) as fleet:
        done = await complete(fleet, range(3))
    times = [(one.started_at, one.total_s, one.first_token_s) for one in done if isinstance(one, Completion)]
    assert len(times) == 3
    assert all(earlier[0] + 0.1 < later[0] for earlier, later in pairwise(times))
    assert all(first is not None and 0.1 < first <= total for _, total, first in times)


async def test_one_answered_token_ends_a_trial(started: Started, until: Until) -> None:
    """A whole answer may take a quarter of an hour: the others do not wait for it."""
    slow = SimulationSettings(script=Script(timing=TokenRate(tokens_per_s=10.0)))
    async with started(slow) as servers, fleet_of(servers) as fleet:
        fleet.endpoints[0].eject("by test", 0.0)
        fleet._servers.look_again()
        tasks = [asyncio.create_task(fleet.complete(sample(number))) for number in range(5)]
        await until(lambda: servers[0].numbers.running == 5)
        assert not any(task.done() for task in tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_cancelled_samples_give_their_places_back(started: Started, until: Until) -> None:
    async with started(SLOW, SLOW) as servers, fleet_of(servers, in_flight=4) as fleet:
        tasks = [asyncio.create_task(fleet.complete(sample(number))) for number in range(12)]
        await until(lambda: sum(server.numbers.running for server in servers) == 4)
        for task in tasks[::2]:
            task.cancel()
        done = await asyncio.gather(*tasks, return_exceptions=True)
        assert len(texts(done)) == 6
        assert sum(isinstance(one, asyncio.CancelledError) for one in done) == 6


async def test_nothing_runs_on_after_it_is_closed(started: Started) -> None:
    before = asyncio.all_tasks()
    async with started(QUICK) as servers:
        tasks = asyncio.all_tasks()
        async with fleet_of([servers[0]], urls=(servers[0].url, "http://127.0.0.1:9")) as fleet:
            await fleet.complete(sample())
        assert {task for task in asyncio.all_tasks() - tasks if "fleet" in repr(task)} == set()
    assert asyncio.all_tasks() == before


async def test_only_endpoint_errors_come_out(started: Started) -> None:
    wild = SimulationSettings(faults=Faults(http_500=0.3, reset=0.3, malformed=0.2, empty_choices=0.2))
    async with started(wild, wild) as servers, fleet_of(servers, attempts=2, eject_after=100) as fleet:
        done = await complete(fleet, range(40))
    assert all(isinstance(one, Completion | EndpointError) for one in done)
    errors = [one for one in done if isinstance(one, EndpointError)]
    assert errors
    assert all(len(error.retries) == 2 for error in errors)


async def test_a_key_that_every_server_refuses_is_a_mistake_in_the_spec() -> None:
    """Only one refusing is that server's trouble: the others do the work."""

    async def refuse(request: web.Request) -> web.Response:
        return web.json_response({"error": {"message": "Unauthorized", "code": 401}}, status=401)

    async def well(request: web.Request) -> web.Response:
        return web.Response()

    app = web.Application()
    app.router.add_get("/health", well)
    app.router.add_get("/v1/models", refuse)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    url = f"http://127.0.0.1:{port}"
    try:
        settings, pool, sampling = EndpointSettings(urls=(url,)), PoolSettings(), SamplingSettings(max_tokens=50)
        async with Client(settings) as client:
            with pytest.raises(SpecError, match=r"endpoints\.api_key.*Unauthorized"):
                await Fleet(settings, pool, client, lambda _: None).__aenter__()
        async with SimulatedServer() as server:
            both = EndpointSettings(urls=(url, server.url))
            async with Client(both) as client, Fleet(both, pool, client, lambda _: None) as fleet:
                job = fleet.join(Share("job"), sampling, None, lambda _: None)
                assert (await job.complete(sample())).endpoint == server.url
    finally:
        await runner.cleanup()
