"""Servers come and go while jobs run: no request is lost, none goes where it should not."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gen_service.endpoints.client import Client
from gen_service.endpoints.discovery import Resolve
from gen_service.endpoints.fleet import Fleet, live_tokens
from gen_service.endpoints.job_fleet import JobFleet
from gen_service.endpoints.limit import OVERSUBSCRIBE
from gen_service.endpoints.readings import Readings
from gen_service.endpoints.shares import Share
from gen_service.endpoints.simulated import Script, SimulatedServer, SimulationSettings, TokenRate
from gen_service.errors import SpecError
from gen_service.records import Completion, Message, Prompt, Sample
from gen_service.settings import EndpointSettings, PoolSettings, SamplingSettings

Started = Callable[..., contextlib.AbstractAsyncContextManager[list[SimulatedServer]]]
Until = Callable[[Callable[[], Any]], Awaitable[None]]

QUICK = SimulationSettings()
SLOW = SimulationSettings(script=Script(timing=TokenRate(tokens_per_s=600.0)), tick_s=0.005)
NOWHERE = "http://127.0.0.1:9"


def sample(number: int) -> Sample:
    messages = (Message(role="user", content=f"What is {number} + 1?"),)
    return Sample(f"s{number}", "job", Prompt(f"p{number}", messages, str(number + 1), "sums", number), 0)


@contextlib.asynccontextmanager
async def opened(
    urls: Iterable[str] = (),
    notices: Callable[[str], None] | None = None,
    *,
    in_flight: int = 8,
    resolve: Resolve | None = None,
    **options: Any,
) -> AsyncIterator[tuple[Fleet, JobFleet]]:
    """A fleet and one job on it; at the end nothing is in flight and no server that left is remembered."""
    on_notice = list[str]().append if notices is None else notices
    options = {"urls": tuple(urls), "backoff_s": 0.001, "probe_s": 0.01, "discover_s": 0.01} | options
    settings = EndpointSettings(**options)
    pool = PoolSettings(in_flight=in_flight)
    async with Client(settings) as client, Fleet(settings, pool, client, on_notice, resolve=resolve) as fleet:
        fleet.require(None)
        job = fleet.join(Share("job"), SamplingSettings(max_tokens=200), None, on_notice)
        yield fleet, job
        assert fleet.places.taken == fleet.places.waiting == job.in_flight == job.waiting == 0
        assert (fleet.leaving, [one.in_flight for one in fleet.endpoints if one.in_flight]) == ([], [])
        job.leave()


def asked(job: JobFleet, numbers: range) -> list[asyncio.Task[Completion]]:
    return [asyncio.create_task(job.complete(sample(number))) for number in numbers]


def texts(done: Iterable[Completion]) -> list[tuple[str | None, str]]:
    return [(one.reasoning, one.content) for one in done]


async def undisturbed(started: Started, numbers: range) -> list[tuple[str | None, str]]:
    async with started(QUICK) as servers, opened([servers[0].url]) as (_, job):
        return texts(await asyncio.gather(*asked(job, numbers)))


def events(server: SimulatedServer, event: str) -> int:
    return sum(line["event"] == event for line in server.log)


# One server


async def test_an_added_server_is_asked_and_gets_its_part(started: Started, until: Until, notices: Any) -> None:
    async with started(SLOW, SLOW) as servers, opened([servers[0].url], notices, in_flight=4) as (fleet, job):
        tasks = asked(job, range(24))
        await until(lambda: servers[0].numbers.running == 4)
        fleet.add(f"{servers[1].url}/v1/")
        fleet.add(servers[1].url)
        assert [one.url for one in fleet.endpoints] == [server.url for server in servers]
        assert texts(await asyncio.gather(*tasks)) == await undisturbed(started, range(24))
        assert fleet.endpoints[1].completed > 4
        assert notices == [f"{servers[1].url} is added"]


async def test_a_removed_server_ends_what_it_has_and_gets_nothing_more(
    started: Started, until: Until, notices: Any
) -> None:
    async with started(SLOW, SLOW) as servers, opened((one.url for one in servers), notices) as (fleet, job):
        tasks = asked(job, range(24))
        await until(lambda: servers[0].numbers.running == 4)
        gone = fleet.endpoints[0]
        fleet.remove(servers[0].url)
        received = events(servers[0], "received")
        assert (fleet.leaving, job.in_flight_at(servers[0].url)) == ([gone], 4)
        assert texts(await asyncio.gather(*tasks)) == await undisturbed(started, range(24))
        assert events(servers[0], "received") == received
        assert (events(servers[0], "failed"), events(servers[0], "sent")) == (0, received)
        assert sum(len(task.result().retries) for task in tasks) == 0
        assert (fleet.leaving, gone.in_flight, job.in_flight_at(servers[0].url)) == ([], 0, 0)
        assert notices == [f"{servers[0].url} is removed; 4 requests in flight end there"]


async def test_a_server_that_is_added_before_it_has_left_goes_on(started: Started, until: Until) -> None:
    async with started(SLOW, SLOW) as servers, opened(one.url for one in servers) as (fleet, job):
        tasks = asked(job, range(24))
        await until(lambda: servers[0].numbers.running == 4)
        same = fleet.endpoints[0]
        fleet.remove(same.url)
        fleet.add(same.url)
        assert (fleet.endpoints[1], fleet.leaving, same.in_flight) == (same, [], 4)
        await asyncio.gather(*tasks)
        assert same.completed == events(servers[0], "sent") > 4


async def test_a_server_that_is_added_after_it_has_left_is_a_new_one(started: Started, until: Until) -> None:
    async with started(QUICK, QUICK) as servers, opened(one.url for one in servers) as (fleet, job):
        await asyncio.gather(*asked(job, range(8)))
        old = fleet.endpoints[0]
        fleet.remove(old.url)
        assert fleet.leaving == []
        fleet.add(old.url)
        new = fleet.endpoints[1]
        assert (new is old, new.url, new.completed) == (False, old.url, 0)
        await until(lambda: new.heard)
        await asyncio.gather(*asked(job, range(8, 16)))
        assert new.completed >= 1


async def test_a_removed_server_that_dies_costs_no_attempt(started: Started, until: Until) -> None:
    """It was to be expected of it: what it had goes on elsewhere, with what came."""
    async with started(SLOW, SLOW) as servers, opened((one.url for one in servers), attempts=1) as (fleet, job):
        tasks = asked(job, range(8))
        await until(lambda: all(server.numbers.running == 4 for server in servers))
        fleet.remove(servers[0].url)
        await servers[0].stop()
        done = await asyncio.gather(*tasks)
        assert texts(done) == await undisturbed(started, range(8))
        assert sum(len(one.retries) for one in done) == 4
        assert {one.endpoint for one in done} == {servers[1].url}


async def test_a_new_server_that_is_not_well_is_probed_until_it_is(started: Started, notices: Any) -> None:
    async with started(QUICK, QUICK) as servers, opened([servers[0].url], notices) as (fleet, job):
        await servers[1].stop()
        fleet.add(servers[1].url)
        await notices.heard(f"{servers[1].url} is not ready")
        assert fleet.endpoints[1].state == "ejected"
        assert {one.endpoint for one in await asyncio.gather(*asked(job, range(4)))} == {servers[0].url}
        await servers[1].start()
        await notices.heard(f"{servers[1].url} answers again")
        await asyncio.gather(*asked(job, range(4, 12)))
        assert fleet.endpoints[1].state == "healthy"
        assert fleet.endpoints[1].completed >= 1


async def test_a_new_server_with_another_model_is_not_used_by_the_job(started: Started, until: Until) -> None:
    async with started(QUICK, replace(QUICK, model="other")) as servers, opened([servers[0].url]) as (fleet, job):
        fleet.add(servers[1].url)
        await until(lambda: "other" in fleet.models())
        await asyncio.gather(*asked(job, range(8)))
        assert (servers[1].log, fleet.endpoints[0].completed) == ([], 8)


async def test_without_any_server_a_job_waits_says_so_and_goes_on_when_one_comes(
    started: Started, until: Until, notices: Any
) -> None:
    async with started(SLOW, SLOW) as servers, opened([servers[0].url], notices, in_flight=4) as (fleet, job):
        tasks = asked(job, range(12))
        await until(lambda: servers[0].numbers.running == 4)
        fleet.remove(servers[0].url)
        await notices.heard("waiting: no server is healthy, the job goes on when one is (there is none)")
        await until(lambda: not fleet.leaving)
        assert (fleet.endpoints, job.waiting, sum(task.done() for task in tasks)) == ([], 8, 4)
        fleet.add(servers[1].url)
        assert texts(await asyncio.gather(*tasks)) == await undisturbed(started, range(12))
        assert sum("waiting" in notice for notice in notices) == 1
        fleet.remove(servers[1].url)
        assert sum("waiting" in notice for notice in notices) == 2
        fleet.add(servers[1].url)


async def test_while_the_only_server_drains_a_job_waits_says_so_and_goes_on_when_another_comes(
    started: Started, notices: Any
) -> None:
    async with started(QUICK, QUICK) as servers, opened([servers[0].url], notices, attempts=4) as (fleet, job):
        servers[0].draining = True
        tasks = asked(job, range(6))
        said = await notices.heard("waiting: no server is healthy")
        assert "cannot schedule new futures after shutdown" in said
        fleet.set_servers([servers[1].url])
        assert texts(await asyncio.gather(*tasks)) == await undisturbed(started, range(6))
        assert sum("waiting" in notice for notice in notices) == 1


async def test_what_is_no_server_is_refused_and_nothing_is_changed(started: Started) -> None:
    async with started(QUICK) as servers, opened([servers[0].url]) as (fleet, _):
        for change in (
            lambda: fleet.add("nowhere"),
            lambda: fleet.add("dns+http://vllm:8000"),
            lambda: fleet.remove(NOWHERE),
            lambda: fleet.set_servers([NOWHERE, "nowhere"]),
        ):
            with pytest.raises(SpecError, match=r"^server: got .*; expected (another URL|one)") as caught:
                change()
            assert caught.value.field == "server"
            assert [one.url for one in fleet.endpoints] == [servers[0].url]


# Sources


async def test_the_servers_are_those_that_were_set(started: Started, notices: Any) -> None:
    async with started(QUICK, QUICK, QUICK) as servers, opened([servers[0].url], notices) as (fleet, job):
        first, second, third = (server.url for server in servers)
        fleet.set_servers([third, second, third])
        assert [one.url for one in fleet.endpoints] == [third, second]
        assert notices[:3] == [f"{third} is added", f"{second} is added", f"{first} is removed"]
        assert len(await asyncio.gather(*asked(job, range(8)))) == 8
        fleet.set_servers([second, third])
        fleet.set_servers([])
        assert fleet.endpoints == []
        fleet.set_servers([first])
        assert {one.endpoint for one in await asyncio.gather(*asked(job, range(8)))} == {first}


async def test_a_file_of_servers_is_followed_while_the_job_runs(
    started: Started, until: Until, notices: Any, tmp_path: Path
) -> None:
    path = tmp_path / "servers.txt"
    async with started(SLOW, SLOW, SLOW) as servers:
        first, second, third = (server.url for server in servers)
        path.write_text(f"{first}  # the only one\n")
        async with opened((), notices, file=path) as (fleet, job):
            tasks = asked(job, range(40))
            await until(lambda: servers[0].numbers.running == 8)
            path.write_text(f"- {second}\n- {third}\n")
            await notices.heard(f"{first} is removed; ")
            ended = events(servers[0], "sent")
            path.write_text("")
            await notices.heard(f"{path} is of no use, the servers stay those that it named: it names no server")
            assert texts(await asyncio.gather(*tasks)) == await undisturbed(started, range(40))
            assert [one.url for one in fleet.endpoints] == [second, third]
            assert events(servers[0], "received") == events(servers[0], "sent") <= ended + 8
            assert all(one.completed for one in fleet.endpoints)


async def test_a_name_is_followed_while_the_job_runs(started: Started, until: Until, notices: Any) -> None:
    """Both servers listen on one port, as pods do; the second comes later, and the first then goes."""
    addresses = [OSError("no such name")]
    found: list[list[str]] = []

    async def resolve(host: str, port: int) -> list[str]:
        assert host == "vllm"
        if not found:
            raise addresses[0]
        return found[-1]

    async with SimulatedServer(SLOW, host="127.0.0.1") as first:
        port = int(first.url.rpartition(":")[2])
        async with (
            SimulatedServer(SLOW, host="127.0.0.2", port=port) as second,
            opened([f"dns+http://vllm:{port}"], notices, resolve=resolve) as (fleet, job),
        ):
            tasks = asked(job, range(40))
            await until(lambda: job.waiting == 40)
            assert any("is not resolved" in notice for notice in notices)
            assert any("waiting: no server" in notice for notice in notices)
            found.append(["127.0.0.1"])
            await until(lambda: first.numbers.running)
            found.append(["127.0.0.1", "127.0.0.2"])
            await until(lambda: second.numbers.running)
            found.append(["127.0.0.2"])
            await notices.heard(f"{first.url} is removed")
            assert texts(await asyncio.gather(*tasks)) == await undisturbed(started, range(40))
            assert [one.url for one in fleet.endpoints] == [second.url]
            assert events(first, "failed") == 0


async def test_a_file_that_is_of_no_use_at_the_start_is_a_mistake_in_the_spec(tmp_path: Path) -> None:
    before = asyncio.all_tasks()
    with pytest.raises(SpecError, match=r"endpoints\.file: got .*absent.*No such file"):
        async with opened(["dns+http://localhost:9"], file=tmp_path / "absent"):
            pass
    assert asyncio.all_tasks() == before


async def test_nothing_runs_on_after_a_watched_fleet_is_closed(started: Started, tmp_path: Path) -> None:
    path = tmp_path / "servers.txt"
    async with started(QUICK) as servers:
        before = asyncio.all_tasks()
        path.write_text(servers[0].url)
        async with opened((), file=path) as (fleet, job):
            fleet.add(NOWHERE)
            await asyncio.gather(*asked(job, range(2)))
        assert {task for task in asyncio.all_tasks() - before if "endpoints" in repr(task)} == set()


# All together


@pytest.mark.parametrize("seed", range(3))
async def test_whatever_servers_come_and_go_every_sample_ends_well_and_as_undisturbed(
    started: Started, seed: int
) -> None:
    choose = random.Random(seed)
    async with started(SLOW, SLOW, SLOW) as servers:
        urls = [server.url for server in servers]
        async with opened(urls[:1], in_flight=9, attempts=1) as (fleet, job):
            tasks = asked(job, range(60))
            while not all(task.done() for task in tasks):
                fleet.set_servers(choose.sample(urls, choose.randint(0, 3)))
                assert fleet.places.taken <= 9
                assert fleet.places.taken == sum(one.in_flight for one in [*fleet.endpoints, *fleet.leaving])
                target = min(60, sum(task.done() for task in tasks) + choose.randint(0, 3))
                while fleet.endpoints and sum(task.done() for task in tasks) < target:  # noqa: ASYNC110
                    await asyncio.sleep(0)
                await asyncio.sleep(0)
            done = await asyncio.gather(*tasks)
        assert texts(done) == await undisturbed(started, range(60))
        assert all(one.retries == () for one in done)
        assert sum(events(server, "failed") for server in servers) == 0


# What requests hold


@pytest.mark.parametrize(("max_tokens", "tokens"), [(200, 356.0), (12_288, 6400.0), (32_768, 6400.0)])
def test_what_a_request_holds_is_its_prompt_and_half_its_budget_up_to_a_bound(max_tokens: int, tokens: float) -> None:
    assert live_tokens(SamplingSettings(max_tokens=max_tokens)) == tokens


@pytest.mark.parametrize(
    ("limit", "values"), [("auto", [200, 40, 40, 200, 200]), ("fixed", [1000 / OVERSUBSCRIBE] * 5)]
)
async def test_limits_follow_what_the_jobs_hold_and_fixed_ones_do_not(limit: Any, values: list[float]) -> None:
    """A cache of 80,000 tokens holds 200 requests of 400 tokens, or 40 of 2,000."""
    settings, pool = EndpointSettings(urls=(NOWHERE,)), PoolSettings(in_flight=1000, limit=limit)
    short, long = SamplingSettings(max_tokens=288), SamplingSettings(max_tokens=3488)
    async with Client(settings) as client, Fleet(settings, pool, client, lambda _: None) as fleet:
        server = fleet.endpoints[0]
        jobs = [fleet.join(Share("a"), short, "m", lambda _: None)]
        server.read(Readings(kv_tokens=80_000), 0.0)
        seen = [server.limit]
        jobs.append(fleet.join(Share("b"), long, "m", lambda _: None))
        seen.append(server.limit)
        fleet.add("http://127.0.0.1:10")
        fleet.endpoints[1].read(Readings(kv_tokens=80_000), 0.0)
        seen.append(fleet.endpoints[1].limit)
        jobs.pop().leave()
        seen += [server.limit, fleet.endpoints[1].limit]
        jobs.pop().leave()
        assert [server.limit, fleet.endpoints[1].limit] == seen[3:]
    assert seen == pytest.approx([OVERSUBSCRIBE * value for value in values])


async def test_a_fixed_limit_is_the_cap() -> None:
    settings, pool = EndpointSettings(urls=(NOWHERE,)), PoolSettings(in_flight=50, per_server=7, limit="fixed")
    async with Client(settings) as client, Fleet(settings, pool, client, lambda _: None) as fleet:
        fleet.add("http://127.0.0.1:10")
        assert [(one.cap, one.limit) for one in fleet.endpoints] == [(7, 7.0)] * 2
        assert fleet.places.limit == 50
